use std::ops::Range;
use std::sync::Arc;

use arrow_ipc::{Message, MessageHeader, root_as_message_with_opts};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::{Buf, Bytes, BytesMut};
use flatbuffers::VerifierOptions;

use super::{END, Frame, Limits, not_readable};
use crate::{Invalid, Reason};

const CONTINUATION: [u8; 4] = [0xFF; 4];
/// Bytes before the metadata: the continuation and the metadata's length.
const PREFIX: usize = 8;
/// Metadata of one message: a schema of some thousand columns stays far below.
const MAX_METADATA: usize = 1 << 20;

/// Metadata may name one table or text many times: this bounds what reading it takes, not only its size.
const VERIFY: VerifierOptions = VerifierOptions {
    max_depth: 16,
    max_tables: 16_384,
    max_apparent_size: 4 << 20,
    ignore_missing_null_terminator: true,
};

/// The message that metadata describes.
pub(super) fn parse_metadata(metadata: &[u8]) -> Result<Message<'_>, Invalid> {
    let broken = |e| not_readable(format!("an Arrow message's metadata is broken: {e}"));
    root_as_message_with_opts(&VERIFY, metadata).map_err(broken)
}

/// A schema, and the message that it came in.
#[derive(Debug)]
pub struct SchemaMessage {
    pub schema: SchemaRef,
    pub bytes: Bytes,
}

/// Cuts a stream that arrives in pieces into its messages, copying a piece only when a message spans two.
#[derive(Debug)]
pub struct Framer {
    limits: Limits,
    pending: BytesMut,
    /// The rest of the latest piece, while nothing is pending.
    rest: Bytes,
    schema: Option<SchemaMessage>,
    ended: bool,
}

/// A message as it came, and where its metadata is in it.
struct RawMessage {
    bytes: Bytes,
    metadata: Range<usize>,
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
        let rest = std::mem::take(&mut self.rest);
        self.pending.extend_from_slice(&rest);
        self.pending.extend_from_slice(&piece);
    }

    /// The stream's schema, once its message has come.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref().map(|message| &message.schema)
    }

    /// The schema message as it came.
    pub fn schema_bytes(&self) -> Option<&Bytes> {
        self.schema.as_ref().map(|message| &message.bytes)
    }

    /// The next record batch, or `None` when more bytes are needed or the stream has ended.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Invalid> {
        while let Some(RawMessage { bytes, metadata }) = self.next_message()? {
            if let Some(frame) = self.check(bytes, metadata)? {
                return Ok(Some(frame));
            }
        }
        Ok(None)
    }

    /// After the last piece: the schema, if the stream was complete.
    pub fn finish(self) -> Result<SchemaMessage, Invalid> {
        let truncated = |what: &str| Invalid::new(Reason::Truncated, what);
        if !self.ended {
            return Err(truncated("the Arrow stream ends before its end marker"));
        }
        if !self.buffered().is_empty() {
            return Err(not_readable("bytes follow the Arrow stream's end marker"));
        }
        let no_schema = || truncated("the Arrow stream has no schema");
        self.schema.ok_or_else(no_schema)
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

    /// The next whole message.
    fn next_message(&mut self) -> Result<Option<RawMessage>, Invalid> {
        let buffered = self.buffered();
        if self.ended || buffered.len() < PREFIX {
            return Ok(None);
        }
        let (mut prefix, rest) = buffered.split_at(PREFIX);
        if !prefix.starts_with(&CONTINUATION) {
            let found = &prefix[..CONTINUATION.len()];
            return Err(not_readable(format!(
                "body is not an Arrow stream: it has {found:02x?} where a message begins"
            )));
        }
        prefix.advance(CONTINUATION.len());
        let length = prefix.get_i32_le();
        if length == 0 {
            self.take(END.len());
            self.ended = true;
            return Ok(None);
        }
        let metadata = usize::try_from(length).ok().filter(|n| *n <= MAX_METADATA);
        let metadata = metadata.ok_or_else(|| {
            not_readable(format!(
                "an Arrow message says its metadata has {length} bytes"
            ))
        })?;
        let Some(message) = rest.get(..metadata) else {
            return Ok(None);
        };
        let (length, most) = (
            parse_metadata(message)?.bodyLength(),
            self.limits.body_bytes,
        );
        let body = usize::try_from(length).ok().filter(|n| *n <= most);
        let body = body.ok_or_else(|| {
            let detail = format!(
                "an Arrow message says its body has {length} bytes; at most {most} are accepted"
            );
            Invalid::new(Reason::Oversized, detail)
        })?;
        let metadata = PREFIX..PREFIX + metadata;
        let whole = metadata.end + body;
        let complete = buffered.len() >= whole;
        Ok(complete.then(|| RawMessage {
            bytes: self.take(whole),
            metadata,
        }))
    }

    /// The record batch of a message; `None`: it is the schema, which is noted.
    fn check(&mut self, bytes: Bytes, metadata: Range<usize>) -> Result<Option<Frame>, Invalid> {
        let message = parse_metadata(&bytes[metadata.clone()])?;
        match (message.header_type(), &self.schema) {
            (MessageHeader::Schema, None) => {
                let none = || not_readable("the Arrow schema message has no schema");
                let schema = message.header_as_schema().ok_or_else(none)?;
                let schema = arrow_ipc::convert::try_fb_to_schema(schema)
                    .map_err(|e| not_readable(format!("the Arrow schema is broken: {e}")))?;
                let schema = Arc::new(schema);
                self.schema = Some(SchemaMessage { schema, bytes });
                Ok(None)
            }
            (MessageHeader::RecordBatch, Some(SchemaMessage { schema, .. })) => {
                let body = &bytes[metadata.end..];
                let DecodedSize {
                    rows,
                    bytes: decoded_bytes,
                } = measure(&message, body, schema)?;
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

/// What a record batch takes once it is decoded.
struct DecodedSize {
    rows: u64,
    bytes: u64,
}

/// The size of a record batch, by its metadata and buffer prefixes. The decoder refuses a buffer of
/// another size than its prefix has, so this bounds what decoding allocates.
fn measure(message: &Message<'_>, body: &[u8], schema: &Schema) -> Result<DecodedSize, Invalid> {
    let broken = |what: &str| not_readable(format!("record batch {what}"));
    let header = message.header_as_record_batch();
    let header = header.ok_or_else(|| broken("is missing"))?;
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
    Ok(DecodedSize {
        rows,
        bytes: decoded,
    })
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

pub(super) fn bomb(rows: u64, decoded: u64, limits: &Limits) -> Invalid {
    let detail = format!(
        "body holds {rows} rows of {decoded} bytes once decompressed; at most {} rows and {} bytes are accepted",
        limits.rows, limits.decoded_bytes
    );
    Invalid::new(Reason::DecompressionBomb, detail)
}
