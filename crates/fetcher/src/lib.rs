//! Reads the hub: one range of one shard becomes batches.
//!
//! A range is read as one Arrow stream ([`reading`]) from a replica that has the plan's columns
//! ([`source`]) and is not too far behind ([`delays`]), and its record batches are joined into batches as they come, without being decoded
//! ([`cutter`]). [`Fetcher`] sends them on, goes to the next replica when one breaks off, and tells the
//! ledger of each attempt.

mod config;
mod cutter;
mod delays;
mod reading;
mod source;
mod worker;

use pipeline::{Role, RoleKind};

pub use config::FetcherSettings;
pub use worker::Fetcher;

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "fetcher",
    kind: RoleKind::Worker,
    outputs: &["batches", "receipts"],
    optional: &[],
};
