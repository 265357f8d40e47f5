use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Headers, Invalid, Reason};

/// A message: headers and body, wherever it travels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub headers: Headers,
    pub body: Bytes,
}

impl Message {
    pub fn new(headers: Headers, body: impl Into<Bytes>) -> Self {
        Self {
            headers,
            body: body.into(),
        }
    }
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    Task,
    Batch,
    Receipt,
    Order,
    /// How a run ended.
    RunRecord,
}

impl MessageKind {
    /// Version of such messages that this release writes, and the only one that it reads. It is in their header
    /// `fleet-schema`, and in their bodies where these are JSON.
    pub const fn schema(self) -> i64 {
        match self {
            Self::Task | Self::Batch => 1,
            Self::Receipt | Self::Order | Self::RunRecord => 2,
        }
    }
}

impl fmt::Display for MessageKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Task => "a task",
            Self::Batch => "a batch",
            Self::Receipt => "a receipt",
            Self::Order => "an order",
            Self::RunRecord => "the record of a run",
        })
    }
}

/// JSON with its schema version next to the content's own fields.
#[derive(Serialize, Deserialize)]
struct Versioned<T> {
    schema: i64,
    #[serde(flatten)]
    content: T,
}

/// Writes a body of this kind.
pub(crate) fn to_json(kind: MessageKind, content: &impl Serialize) -> Vec<u8> {
    let schema = kind.schema();
    serde_json::to_vec(&Versioned { schema, content }).expect("the content is plain data")
}

/// Reads a message of this kind.
pub(crate) fn from_json<T: for<'de> Deserialize<'de>>(
    kind: MessageKind,
    message: &Message,
) -> Result<T, Invalid> {
    message.headers.check_schema(kind)?;
    #[derive(Deserialize)]
    struct BodySchema {
        schema: i64,
    }
    let unreadable = |e: serde_json::Error| {
        Invalid::new(Reason::NotReadable, format!("body is not {kind}: {e}"))
    };
    let BodySchema { schema } = serde_json::from_slice(&message.body).map_err(unreadable)?;
    let reads = kind.schema();
    if schema != reads {
        let detail = format!("body has schema {schema}; this release reads {reads}");
        return Err(Invalid::new(Reason::UnknownVersion, detail));
    }
    let versioned: Versioned<T> = serde_json::from_slice(&message.body).map_err(unreadable)?;
    Ok(versioned.content)
}
