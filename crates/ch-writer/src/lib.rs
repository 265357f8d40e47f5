//! Writes batches into ClickHouse: `keywords_metrics_local` of the batch's shard.
//!
//! The path of a batch is in `worker`: batches of one shard and one schema are gathered, go into one INSERT
//! without being decoded (`inserter`), and are halved if the table refuses them until the refused rows
//! stand alone (`search`). A shard that takes no writes is waited for ([`stores::CircuitBreakers`]).

mod columns;
mod config;
mod inserter;
mod search;
mod unchanged;
mod worker;

pub use config::ChWriterSettings;
pub use worker::ChWriter;

use pipeline::{RECEIPTS, Role, RoleKind};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "ch-writer",
    kind: RoleKind::Worker,
    outputs: &[RECEIPTS],
    optional: &[],
};
