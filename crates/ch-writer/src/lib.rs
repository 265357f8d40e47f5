//! Writes batches into ClickHouse: `keywords_metrics_local` of the batch's shard.
//!
//! The flow of a group is [`worker`]: batches of one shard and one schema are gathered, go into one INSERT
//! without being decoded ([`inserter`]), and are halved if the table refuses them until the refused rows
//! stand alone ([`search`]). A shard that takes nothing from anyone is waited for ([`stores::CircuitBreakers`]).

mod config;
mod inserter;
mod layout;
mod loader;
mod rows;
mod search;
mod unchanged;
mod worker;

use pipeline::{Role, RoleKind};

pub use config::ChWriterSettings;
pub use worker::{ChWriter, GroupKey, Item};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "ch-writer",
    kind: RoleKind::Worker,
    outputs: &["receipts"],
    optional: &[],
};
