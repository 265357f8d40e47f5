//! Writes batches of keyword metrics as documents into Elasticsearch.
//!
//! The way of a batch: [`EsWriter`] admits it (headers, Arrow framing, columns), gathers a few of them, and
//! makes a `Table` of each, whose rows are checked one by one; `encode` writes the documents of each
//! configured index once; a `Delivery` sends them to the index, and another to each of its followers, until
//! every row has its answer; `judge` makes a verdict on each batch of the answers. Refused rows go to
//! quarantine by themselves, and a receipt says what became of the batch.
//!
//! A document's `_id` is its row's key: the values of the key columns joined by `/`, where a `/` or `\`
//! within any but the last stands behind a `\` (`us/buy shoes`). A longer one than the 512 bytes that
//! Elasticsearch takes is `sha256:` and the hash of it in hexadecimal. Its external version is the row's:
//! an older row never replaces a newer one, and the same row again changes nothing.

mod cells;
mod config;
mod delivery;
mod encode;
mod judge;
mod layout;
mod sink;
mod table;
mod worker;

use pipeline::{Role, RoleKind};

pub use config::Settings;
pub use worker::EsWriter;

/// Output for what became of each batch.
const RECEIPTS: &str = "receipts";

pub const ROLE: Role = Role {
    name: "es-writer",
    kind: RoleKind::Worker,
    outputs: &[RECEIPTS],
    optional: &[],
};
