use std::sync::Arc;

use arrow_ipc::{Message, MessageHeader, root_as_message_with_opts};
use arrow_schema::{DataType, Field, Schema, SchemaRef};
use bytes::{Buf, Bytes, BytesMut};
use flatbuffers::{InvalidFlatbuffer, VerifierOptions};

use super::{END, Frame, Limits};
use crate::{Invalid, Reason};

const CONTINUATION: [u8; 4] = [0xFF; 4];
/// Metadata of one message: a schema of some thousand columns stays far below.
const MAX_METADATA: usize = 1 << 20;

/// Metadata may name one table or text many times: this bounds what reading it takes, not only what it is.
const VERIFY: VerifierOptions = VerifierOptions {
    max_depth: 16,
    max_tables: 16_384,
    max_apparent_size: 4 << 20,
    ignore_missing_null_terminator: true,
};

/// The message that metadata describes.
pub(super) fn root_of(metadata: &[u8]) -> Result<Message<'_>, InvalidFlatbuffer> {
    root_as_message_with_opts(&VERIFY, metadata)
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
            if let Some(frame) = self.check(message)? {
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
        let message = root_of(&buffered[8..8 + metadata]).map_err(|e| {
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

    fn check(&mut self, (bytes, metadata): (Bytes, usize)) -> Result<Option<Frame>, Invalid> {
        let not_readable = |what: String| Invalid::new(Reason::NotReadable, what);
        let metadata = 8..8 + metadata;
        let message = root_of(&bytes[metadata.clone()])
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

pub(super) fn bomb(rows: u64, decoded: u64, limits: &Limits) -> Invalid {
    Invalid::new(
        Reason::DecompressionBomb,
        format!(
            "body holds {rows} rows of {decoded} bytes once decompressed; at most {} rows and {} bytes are accepted",
            limits.rows, limits.decoded_bytes
        ),
    )
}
