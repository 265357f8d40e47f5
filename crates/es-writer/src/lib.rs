//! Writes batches of keyword metrics as documents into Elasticsearch.
//!
//! The path of a batch is in `worker`: it is admitted (headers, Arrow framing, columns), gathered with a few others,
//! and decoded into documents, whose rows are checked one by one (`documents`). `encode` writes the documents of each
//! configured index once; a `BulkSender` sends them to the index, and another to each of its followers, until
//! every row has a status there. `results` makes a report on each batch of them.
//!
//! A document's `_id` is its row's key: the values of the key columns joined by `/`, where a `/` or `\`
//! within any but the last stands behind a `\` (`us/buy shoes`). A longer one than the 512 bytes that
//! Elasticsearch takes is `sha256:` and the hash of it in hexadecimal. Its external version is the row's:
//! an older row never replaces a newer one, and the same row again changes nothing.

mod bulk_sender;
mod bulk_store;
mod config;
mod decimal;
mod documents;
mod encode;
mod json_column;
mod layout;
mod results;
mod worker;

pub use config::EsWriterSettings;
pub use worker::EsWriter;

use pipeline::{RECEIPTS, Role, RoleKind};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "es-writer",
    kind: RoleKind::Worker,
    outputs: &[RECEIPTS],
    optional: &[],
};
