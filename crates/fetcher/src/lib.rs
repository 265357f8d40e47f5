//! Reads the hub: one range of one shard becomes batches.
//!
//! [`Fetcher`] reads a range as one Arrow stream (`range_reader`) from a replica that has the plan's columns and is not
//! too far behind (`replica_check`), and joins its record batches into batches as they come, without decoding them
//! (`cutter`). Its rows are counted by a statement of their own (`row_count`). It sends the batches, goes to the next replica when one fails, and sends a receipt
//! for each attempt.

mod config;
mod cutter;
mod range_reader;
mod replica_check;
mod row_count;
mod worker;

pub use config::FetcherSettings;
pub use worker::Fetcher;

use pipeline::{BATCHES, RECEIPTS, Role, RoleKind};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "fetcher",
    kind: RoleKind::Worker,
    outputs: &[BATCHES, RECEIPTS],
    optional: &[],
};
