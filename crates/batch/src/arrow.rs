//! Batches as Arrow IPC streams: framed without decoding, decoded only where columns are needed.
//!
//! Format: <https://arrow.apache.org/docs/format/Columnar.html#ipc-streaming-format>. A stream is
//! a schema message, record batch messages and an end marker; each message is
//! `0xFFFFFFFF, metadata length (i32), metadata (flatbuffer), body`. Because messages stand on
//! their own, record batches of equal schemas are cut and joined by copying references to their bytes.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;
use arrow_ipc::reader::RecordBatchDecoder;
use arrow_ipc::writer::{IpcWriteOptions, StreamWriter};
use arrow_ipc::{CompressionType, MessageHeader, root_as_message};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use bytes::{Buf, Bytes, BytesMut};

use crate::{Invalid, Reason};

const CONTINUATION: [u8; 4] = [0xFF; 4];
/// What ends every stream: a stream without it was cut off.
const END: [u8; 8] = [0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0];
/// Metadata of one message: a schema of some thousand columns stays far below.
const MAX_METADATA: usize = 1 << 20;

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
    /// Bytes that the body says it takes once decompressed.
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
            return Err(Invalid::new(
                Reason::Oversized,
                format!(
                    "body has {} bytes; at most {} are accepted",
                    body.len(),
                    limits.body_bytes
                ),
            ));
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
        let (schema, schema_bytes) = framer.finish()?;
        Ok(Self {
            schema,
            schema_bytes,
            frames,
        })
    }

    pub fn rows(&self) -> u64 {
        self.frames.iter().map(|f| f.rows).sum()
    }

    /// Decodes all record batches. Utf8 columns come as Binary of the same bytes: Arrow refuses a whole
    /// batch for one invalid sequence, and whoever needs text judges row by row instead.
    pub fn decode(&self) -> Result<Vec<RecordBatch>, Invalid> {
        let schema = Arc::new(binary_schema(&self.schema));
        self.frames
            .iter()
            .map(|frame| decode_frame(frame, &schema))
            .collect()
    }
}

fn binary_schema(schema: &Schema) -> Schema {
    let fields = schema.fields().iter().map(|field| {
        let data_type = match field.data_type() {
            DataType::Utf8 => DataType::Binary,
            DataType::LargeUtf8 => DataType::LargeBinary,
            other => other.clone(),
        };
        field.as_ref().clone().with_data_type(data_type)
    });
    Schema::new(fields.collect::<Vec<Field>>())
}

fn decode_frame(frame: &Frame, schema: &SchemaRef) -> Result<RecordBatch, Invalid> {
    let unreadable = |e: ArrowError| {
        Invalid::new(
            Reason::NotReadable,
            format!("record batch cannot be decoded: {e}"),
        )
    };
    let message = root_as_message(&frame.bytes[frame.metadata.clone()])
        .map_err(|e| unreadable(ArrowError::ParseError(e.to_string())))?;
    let header = message
        .header_as_record_batch()
        .ok_or_else(|| unreadable(ArrowError::ParseError("no record batch".into())))?;
    let body = Buffer::from(frame.bytes.slice(frame.metadata.end..));
    RecordBatchDecoder::try_new(
        &body,
        header,
        schema.clone(),
        &HashMap::new(),
        &message.version(),
    )
    .and_then(|decoder| decoder.read_record_batch())
    .map_err(unreadable)
}

/// Cuts a stream that arrives in pieces into its messages, copying a piece only when a message spans two.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    pending: BytesMut,
    /// The rest of the latest piece, while nothing is pending.
    rest: Bytes,
    schema: Option<(SchemaRef, Bytes)>,
    ended: bool,
}

impl Framer {
    /// `limits.rows` and the byte limits bound each record batch; bounding their sum is the caller's.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            pending: BytesMut::new(),
            rest: Bytes::new(),
            schema: None,
            ended: false,
        }
    }

    pub fn push(&mut self, piece: Bytes) {
        if self.pending.is_empty() && self.rest.is_empty() {
            self.rest = piece;
            return;
        }
        if !self.rest.is_empty() {
            let rest = std::mem::take(&mut self.rest);
            self.pending.extend_from_slice(&rest);
        }
        self.pending.extend_from_slice(&piece);
    }

    /// The stream's schema, once its message has come.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref().map(|(schema, _)| schema)
    }

    /// The schema message as it came.
    pub fn schema_bytes(&self) -> Option<&Bytes> {
        self.schema.as_ref().map(|(_, bytes)| bytes)
    }

    /// The next record batch, or `None` when more bytes are needed or the stream has ended.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Invalid> {
        loop {
            let Some(message) = self.next_message()? else {
                return Ok(None);
            };
            if let Some(frame) = self.judge(message)? {
                return Ok(Some(frame));
            }
        }
    }

    /// After the last piece: the schema, if the stream was complete.
    pub fn finish(self) -> Result<(SchemaRef, Bytes), Invalid> {
        let cut = |what: &str| Err(Invalid::new(Reason::Truncated, what));
        if !self.ended {
            return cut("the Arrow stream ends before its end marker");
        }
        if !self.pending.is_empty() || !self.rest.is_empty() {
            return Err(Invalid::new(
                Reason::NotReadable,
                "bytes follow the Arrow stream's end marker",
            ));
        }
        match self.schema {
            Some(schema) => Ok(schema),
            None => cut("the Arrow stream has no schema"),
        }
    }

    fn buffered(&self) -> &[u8] {
        if self.rest.is_empty() {
            &self.pending
        } else {
            &self.rest
        }
    }

    fn take(&mut self, n: usize) -> Bytes {
        if self.rest.is_empty() {
            self.pending.split_to(n).freeze()
        } else {
            self.rest.split_to(n)
        }
    }

    /// The next whole message with the length of its metadata.
    fn next_message(&mut self) -> Result<Option<(Bytes, usize)>, Invalid> {
        let buffered = self.buffered();
        if self.ended || buffered.len() < 8 {
            return Ok(None);
        }
        let mut prefix = &buffered[..8];
        if prefix[..4] != CONTINUATION {
            return Err(Invalid::new(
                Reason::NotReadable,
                format!(
                    "body is not an Arrow stream: it has {:02x?} where a message begins",
                    &prefix[..4]
                ),
            ));
        }
        prefix.advance(4);
        let metadata = prefix.get_i32_le();
        if metadata == 0 {
            self.take(END.len());
            self.ended = true;
            return Ok(None);
        }
        let metadata = usize::try_from(metadata)
            .ok()
            .filter(|n| *n <= MAX_METADATA)
            .ok_or_else(|| {
                Invalid::new(
                    Reason::NotReadable,
                    format!("an Arrow message says its metadata has {metadata} bytes"),
                )
            })?;
        if buffered.len() < 8 + metadata {
            return Ok(None);
        }
        let message = root_as_message(&buffered[8..8 + metadata]).map_err(|e| {
            Invalid::new(
                Reason::NotReadable,
                format!("an Arrow message's metadata is broken: {e}"),
            )
        })?;
        let body = usize::try_from(message.bodyLength())
            .ok()
            .filter(|n| *n <= self.limits.body_bytes)
            .ok_or_else(|| {
                Invalid::new(
                    Reason::Oversized,
                    format!(
                        "an Arrow message says its body has {} bytes; at most {} are accepted",
                        message.bodyLength(),
                        self.limits.body_bytes
                    ),
                )
            })?;
        let whole = 8 + metadata + body;
        if buffered.len() < whole {
            return Ok(None);
        }
        Ok(Some((self.take(whole), metadata)))
    }

    fn judge(&mut self, (bytes, metadata): (Bytes, usize)) -> Result<Option<Frame>, Invalid> {
        let not_readable = |what: String| Invalid::new(Reason::NotReadable, what);
        let metadata = 8..8 + metadata;
        let message = root_as_message(&bytes[metadata.clone()])
            .map_err(|e| not_readable(format!("an Arrow message's metadata is broken: {e}")))?;
        match (message.header_type(), &self.schema) {
            (MessageHeader::Schema, None) => {
                let schema = message.header_as_schema().ok_or_else(|| {
                    not_readable("the Arrow schema message has no schema".to_owned())
                })?;
                let schema = arrow_ipc::convert::try_fb_to_schema(schema)
                    .map_err(|e| not_readable(format!("the Arrow schema is broken: {e}")))?;
                self.schema = Some((Arc::new(schema), bytes));
                Ok(None)
            }
            (MessageHeader::RecordBatch, Some((schema, _))) => {
                let (rows, decoded_bytes) = measure(&message, &bytes[metadata.end..], schema)?;
                if rows > self.limits.rows || decoded_bytes > self.limits.decoded_bytes {
                    return Err(bomb(rows, decoded_bytes, &self.limits));
                }
                Ok(Some(Frame {
                    bytes,
                    metadata,
                    rows,
                    decoded_bytes,
                }))
            }
            (other, schema) => Err(not_readable(format!(
                "unexpected Arrow message {} {} the schema: only plain columns are accepted",
                other.variant_name().unwrap_or("of unknown kind"),
                if schema.is_some() { "after" } else { "before" },
            ))),
        }
    }
}

/// Rows and decompressed bytes of a record batch, as its metadata and buffer prefixes say.
/// The decoder holds every buffer to what its prefix says, so this bounds what decoding allocates.
fn measure(
    message: &arrow_ipc::Message<'_>,
    body: &[u8],
    schema: &Schema,
) -> Result<(u64, u64), Invalid> {
    let broken = |what: &str| Invalid::new(Reason::NotReadable, format!("record batch {what}"));
    let header = message
        .header_as_record_batch()
        .ok_or_else(|| broken("is missing"))?;
    let rows = u64::try_from(header.length()).map_err(|_| broken("has a negative length"))?;
    let compressed = header.compression().is_some();
    let mut decoded = 0u64;
    for buffer in header.buffers().into_iter().flatten() {
        let range = (|| {
            let start = usize::try_from(buffer.offset()).ok()?;
            let length = usize::try_from(buffer.length()).ok()?;
            body.get(start..start.checked_add(length)?)
        })();
        let bytes = range.ok_or_else(|| broken("has a buffer outside its body"))?;
        let size = match (compressed, bytes.first_chunk::<8>()) {
            (true, Some(prefix)) => match i64::from_le_bytes(*prefix) {
                -1 => bytes.len() as u64 - 8,
                size => u64::try_from(size).map_err(|_| broken("has a buffer of negative size"))?,
            },
            _ => bytes.len() as u64,
        };
        decoded = decoded.saturating_add(size);
    }
    // A null or empty column takes no bytes, but the decoder allocates by the row all the same: a column
    // has the batch's rows, and what is nested in one no more values than there are bits.
    let mut nodes = header.nodes().into_iter().flatten();
    for field in schema.fields() {
        for nested in 0..nodes_of(field.data_type()) {
            let node = nodes.next().ok_or_else(|| broken("lacks a column"))?;
            let length = u64::try_from(node.length()).ok();
            let right = match nested {
                0 => length == Some(rows),
                _ => length.is_some_and(|n| n <= rows.max(decoded.saturating_mul(8))),
            };
            if !right || node.null_count() < 0 {
                return Err(broken("has a column of another length"));
            }
        }
    }
    Ok((rows, decoded))
}

/// Nodes that a column takes in a record batch: its own, and those of what is nested in it.
fn nodes_of(data_type: &DataType) -> usize {
    let of = |field: &Arc<Field>| nodes_of(field.data_type());
    1 + match data_type {
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => of(item),
        DataType::Struct(fields) => fields.iter().map(of).sum(),
        _ => 0,
    }
}

fn bomb(rows: u64, decoded: u64, limits: &Limits) -> Invalid {
    Invalid::new(
        Reason::DecompressionBomb,
        format!(
            "body holds {rows} rows of {decoded} bytes once decompressed; at most {} rows and {} bytes are accepted",
            limits.rows, limits.decoded_bytes
        ),
    )
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
    pieces
        .iter()
        .for_each(|piece| body.extend_from_slice(piece));
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
    Invalid::new(
        Reason::WrongSchema,
        format!("cannot be written as an Arrow stream: {error}"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::builder::{ListBuilder, StringBuilder};
    use arrow_array::{ArrayRef, BinaryArray, Int64Array, StringArray};
    use proptest::prelude::*;

    fn sample(rows: usize) -> (Schema, RecordBatch) {
        let schema = Schema::new(vec![
            Field::new("keyword", DataType::Utf8, false),
            Field::new("volume", DataType::Int64, true),
        ]);
        let keywords = StringArray::from_iter_values((0..rows).map(|n| format!("keyword {n}")));
        let volumes = Int64Array::from_iter((0..rows).map(|n| (n % 3 > 0).then_some(n as i64)));
        let batch = RecordBatch::try_new(
            Arc::new(schema.clone()),
            vec![Arc::new(keywords), Arc::new(volumes)],
        )
        .unwrap();
        (schema, batch)
    }

    fn body(rows: usize) -> Bytes {
        let (schema, batch) = sample(rows);
        encode(&schema, &[batch]).unwrap()
    }

    #[test]
    fn a_body_decodes_to_what_was_encoded() {
        let stream = Stream::parse(&body(1000), &Limits::default()).unwrap();
        assert_eq!(stream.rows(), 1000);
        let decoded = stream.decode().unwrap();
        let keywords = decoded[0].column(0).as_any().downcast_ref::<BinaryArray>();
        assert_eq!(keywords.unwrap().value(999), b"keyword 999");
    }

    #[test]
    fn frames_of_several_bodies_join_into_one() {
        let a = Stream::parse(&body(10), &Limits::default()).unwrap();
        let b = Stream::parse(&body(5), &Limits::default()).unwrap();
        let joined = join_contiguous(&a.schema_bytes, a.frames.iter().chain(&b.frames));
        let stream = Stream::parse(&joined, &Limits::default()).unwrap();
        assert_eq!((stream.frames.len(), stream.rows()), (2, 15));
    }

    #[test]
    fn a_stream_in_pieces_of_any_size_gives_the_same_frames() {
        let whole = body(100);
        for size in [1, 7, 64, 1000] {
            let mut framer = Framer::new(Limits::default());
            let mut rows = 0;
            for piece in whole.chunks(size) {
                framer.push(Bytes::copy_from_slice(piece));
                while let Some(frame) = framer.next_frame().unwrap() {
                    rows += frame.rows;
                }
            }
            assert_eq!(rows, 100);
            framer.finish().unwrap();
        }
    }

    #[test]
    fn limits_are_checked_before_decoding() {
        let limits = |f: fn(&mut Limits)| {
            let mut limits = Limits::default();
            f(&mut limits);
            Stream::parse(&body(1000), &limits).unwrap_err().reason
        };
        assert_eq!(limits(|l| l.body_bytes = 10), Reason::Oversized);
        assert_eq!(limits(|l| l.decoded_bytes = 10), Reason::DecompressionBomb);
        assert_eq!(limits(|l| l.rows = 999), Reason::DecompressionBomb);
    }

    #[test]
    fn a_buffer_that_lies_about_its_size_is_refused() {
        let (schema, _) = sample(0);
        let text = "a".repeat(1 << 20);
        let keywords = StringArray::from_iter_values([text.as_str()]);
        let batch = RecordBatch::try_new(
            Arc::new(schema.clone()),
            vec![Arc::new(keywords), Arc::new(Int64Array::from(vec![1]))],
        )
        .unwrap();
        let honest = encode(&schema, &[batch]).unwrap();
        let size = (1u64 << 20).to_le_bytes();
        let at = honest.windows(8).rposition(|w| w == size).unwrap();
        let mut lying = honest.to_vec();
        lying[at..at + 8].copy_from_slice(&16u64.to_le_bytes());
        let stream = Stream::parse(&Bytes::from(lying), &Limits::default()).unwrap();
        assert_eq!(stream.decode().unwrap_err().reason, Reason::NotReadable);
    }

    #[test]
    fn lists_are_columns_whose_values_are_more_or_fewer_than_the_rows() {
        let mut lists = ListBuilder::new(StringBuilder::new());
        for texts in [&["a", "b", "c", "d"][..], &[], &["e"]] {
            lists.append_value(texts.iter().map(Some));
        }
        let lists: ArrayRef = Arc::new(lists.finish());
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let columns = [("texts", lists), ("number", numbers)];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let body = encode(&batch.schema(), std::slice::from_ref(&batch)).unwrap();
        let stream = Stream::parse(&body, &Limits::default()).unwrap();
        assert_eq!(stream.decode().unwrap()[0], batch);
    }

    #[test]
    fn what_is_not_arrow_is_named() {
        let html = Bytes::from_static(b"<html><body>502 Bad Gateway</body></html>");
        let error = Stream::parse(&html, &Limits::default()).unwrap_err();
        assert_eq!(error.reason, Reason::NotReadable);
    }

    proptest! {
        #[test]
        fn every_cut_of_a_body_is_refused(cut in 0usize..5000) {
            let body = body(100);
            let cut = cut.min(body.len() - 1);
            let error = Stream::parse(&body.slice(..cut), &Limits::default()).unwrap_err();
            prop_assert_eq!(error.reason, Reason::Truncated);
        }

        #[test]
        fn any_bytes_are_refused_without_harm(bytes: Vec<u8>) {
            prop_assert!(Stream::parse(&bytes.into(), &Limits::default()).is_err());
        }

        #[test]
        fn flipped_bytes_never_harm(at in 0usize..5000, with: u8) {
            let mut bytes = body(100).to_vec();
            let at = at % bytes.len();
            bytes[at] ^= with;
            if let Ok(stream) = Stream::parse(&bytes.into(), &Limits::default()) {
                let _ = stream.decode();
            }
        }
    }
}
