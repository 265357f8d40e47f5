//! Batches as Arrow IPC streams: framed without decoding, decoded only where columns are needed.
//!
//! Format: <https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format>. A stream is
//! a schema message, record batch messages and an end marker; each message is
//! `0xFFFFFFFF, metadata length (i32), metadata (flatbuffer), body`. Because messages stand on
//! their own, record batches of equal schemas are cut and joined by copying references to their bytes.

mod framer;
mod refused;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::CompressionType;
use arrow_ipc::reader::RecordBatchDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_schema::{ArrowError, DataType, FieldRef, Fields, Schema, SchemaRef};
use arrow_select::concat::concat_batches;
use bytes::{Bytes, BytesMut};

pub use framer::{Framer, SchemaMessage};
use framer::{bomb, parse_metadata};
pub use refused::{body_of_refused, frames_from_rows};

use crate::{Invalid, Reason};

/// What ends every stream: a stream without it was cut off.
const END: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];

/// Bounds that are checked before anything is decoded or allocated.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of a body as it travels.
    pub body_bytes: usize,
    /// Bytes of a body once decompressed.
    pub decoded_bytes: u64,
    /// Rows of a body.
    pub rows: u64,
}

impl Default for Limits {
    /// 1,000 rows of ten columns take about 66 KB compressed: these leave room for a hundred times as much.
    fn default() -> Self {
        Self {
            body_bytes: 16 << 20,
            decoded_bytes: 64 << 20,
            rows: 100_000,
        }
    }
}

/// One record batch message, whole: prefix, metadata and body. Its data is still encoded.
#[derive(Clone, Debug)]
pub struct Frame {
    bytes: Bytes,
    metadata: std::ops::Range<usize>,
    pub rows: u64,
    /// Bytes that the body has once decompressed, by its metadata.
    pub decoded_bytes: u64,
}

impl Frame {
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// A body taken apart into its messages, checked but not decoded.
#[derive(Clone, Debug)]
pub struct Stream {
    pub schema: SchemaRef,
    /// The schema message as it came.
    pub schema_bytes: Bytes,
    pub frames: Vec<Frame>,
}

impl Stream {
    /// Takes a whole body apart. Refuses, by name, what is not a complete Arrow stream within `limits`.
    pub fn parse(body: &Bytes, limits: &Limits) -> Result<Self, Invalid> {
        if body.len() > limits.body_bytes {
            let (found, most) = (body.len(), limits.body_bytes);
            let detail = format!("body has {found} bytes; at most {most} are accepted");
            return Err(Invalid::new(Reason::Oversized, detail));
        }
        let mut framer = Framer::new(*limits);
        framer.push(body.clone());
        let mut frames = Vec::new();
        let (mut rows, mut decoded) = (0u64, 0u64);
        while let Some(frame) = framer.next_frame()? {
            rows = rows.saturating_add(frame.rows);
            decoded = decoded.saturating_add(frame.decoded_bytes);
            if rows > limits.rows || decoded > limits.decoded_bytes {
                return Err(bomb(rows, decoded, limits));
            }
            frames.push(frame);
        }
        let SchemaMessage { schema, bytes } = framer.finish()?;
        Ok(Self {
            schema,
            schema_bytes: bytes,
            frames,
        })
    }

    pub fn rows(&self) -> u64 {
        self.frames.iter().map(|f| f.rows).sum()
    }

    /// [`Self::decode`], as one record batch.
    pub fn decode_all(&self) -> Result<RecordBatch, Invalid> {
        let mut batches = self.decode()?;
        if batches.len() == 1 {
            return Ok(batches.remove(0));
        }
        let schema = match batches.first() {
            Some(first) => first.schema(),
            None => Arc::new(binary_schema(&self.schema, Text::OfColumns)),
        };
        concat_batches(&schema, &batches).map_err(|error| {
            not_readable(format!(
                "the record batches of the body do not go together: {error}"
            ))
        })
    }

    /// Decodes all record batches. Utf8 columns come as Binary of the same bytes: Arrow refuses a whole batch for one
    /// invalid sequence, and a program that needs text checks row by row instead. The same goes for text inside lists,
    /// maps and structs where some of it is invalid.
    pub fn decode(&self) -> Result<Vec<RecordBatch>, Invalid> {
        let decode = |text| -> Result<Vec<RecordBatch>, Invalid> {
            let schema = Arc::new(binary_schema(&self.schema, text));
            let frames = self.frames.iter();
            frames.map(|frame| decode_frame(frame, &schema)).collect()
        };
        decode(Text::OfColumns).or_else(|error| decode(Text::All).map_err(|_| error))
    }
}

/// Which text is decoded as Binary.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Text {
    OfColumns,
    /// Also that inside lists, maps and structs.
    All,
}

fn binary_schema(schema: &Schema, text: Text) -> Schema {
    let fields = schema.fields().iter();
    let fields = fields.map(|field| match field.data_type() {
        nested if nested.is_nested() && text == Text::OfColumns => field.clone(),
        _ => binary_field(field),
    });
    Schema::new(fields.collect::<Fields>())
}

fn binary_field(field: &FieldRef) -> FieldRef {
    let data_type = binary_type(field.data_type());
    Arc::new(field.as_ref().clone().with_data_type(data_type))
}

fn binary_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8 => DataType::Binary,
        DataType::LargeUtf8 => DataType::LargeBinary,
        DataType::List(item) => DataType::List(binary_field(item)),
        DataType::LargeList(item) => DataType::LargeList(binary_field(item)),
        DataType::FixedSizeList(item, length) => {
            DataType::FixedSizeList(binary_field(item), *length)
        }
        DataType::Map(entries, sorted) => DataType::Map(binary_field(entries), *sorted),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(binary_field).collect()),
        other => other.clone(),
    }
}

fn decode_frame(frame: &Frame, schema: &SchemaRef) -> Result<RecordBatch, Invalid> {
    let message = parse_metadata(&frame.bytes[frame.metadata.clone()])?;
    let header = message.header_as_record_batch();
    let header = header.ok_or_else(|| not_readable("record batch is missing"))?;
    let body = Buffer::from(frame.bytes.slice(frame.metadata.end..));
    let decode = || {
        let dictionaries = HashMap::new();
        let version = message.version();
        RecordBatchDecoder::try_new(&body, header, schema.clone(), &dictionaries, &version)?
            .read_record_batch()
    };
    // The decoder asserts some of what it could check, such as lengths that are no multiple of a value's: for
    // data from outside that is an error, not an end.
    let decoded = std::panic::catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| {
        let detail = "its buffers do not fit its columns".to_owned();
        Err(ArrowError::ParseError(detail))
    });
    decoded.map_err(|e| not_readable(format!("record batch cannot be decoded: {e}")))
}

pub(crate) fn not_readable(detail: impl Into<String>) -> Invalid {
    Invalid::new(Reason::NotReadable, detail)
}

/// One body of a schema message and `frames`: the pieces in order, the end marker last.
pub fn join<'a>(schema: &Bytes, frames: impl IntoIterator<Item = &'a Frame>) -> Vec<Bytes> {
    let mut pieces = vec![schema.clone()];
    pieces.extend(frames.into_iter().map(|frame| frame.bytes.clone()));
    pieces.push(Bytes::from_static(&END));
    pieces
}

/// [`join`], in one piece of memory.
pub fn join_contiguous<'a>(schema: &Bytes, frames: impl IntoIterator<Item = &'a Frame>) -> Bytes {
    let pieces = join(schema, frames);
    let mut body = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    body.extend(pieces);
    body.freeze()
}

/// The schema message of `schema`.
pub fn schema_bytes(schema: &Schema) -> Result<Bytes, Invalid> {
    let writer = StreamWriter::try_new(Vec::new(), schema).map_err(encoding)?;
    Ok(Bytes::from(writer.get_ref().clone()))
}

/// Encodes record batches as one body, compressed with LZ4.
pub fn encode(schema: &Schema, batches: &[RecordBatch]) -> Result<Bytes, Invalid> {
    let options = IpcWriteOptions::default()
        .try_with_compression(Some(CompressionType::LZ4_FRAME))
        .map_err(encoding)?;
    let mut writer =
        StreamWriter::try_new_with_options(Vec::new(), schema, options).map_err(encoding)?;
    for batch in batches {
        writer.write(batch).map_err(encoding)?;
    }
    writer.into_inner().map(Bytes::from).map_err(encoding)
}

fn encoding(error: ArrowError) -> Invalid {
    let detail = format!("cannot be written as an Arrow stream: {error}");
    Invalid::new(Reason::WrongSchema, detail)
}
