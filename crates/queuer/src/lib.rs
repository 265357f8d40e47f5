//! The queuer: plans a run from the primary index of the source and publishes it, one task for each
//! range, then the manifest with their number.
//!
//! Planning ([`Planner`]) needs ClickHouse alone; publishing ([`run`]) adds the broker. A run begins only when the
//! ledger has no other unfinished run of its pipeline.

mod admission;
mod baseline;
mod clock;
mod columns;
mod config;
mod downstream;
mod first_seen;
mod options;
mod plan;
mod publisher;
mod ranges;
mod report;
mod source;
mod worker;

pub use admission::AdmissionError;
pub use baseline::History;
pub use columns::SourceColumns;
pub use config::QueuerSettings;
pub use downstream::Downstream;
pub use options::{Options, Since};
pub use plan::{PlanError, PlannedRun, Planner, ShardPlan};
pub use publisher::Published;
pub use ranges::RangeEstimate;
pub use report::{PlanReport, ShardReport};
pub use worker::{QueuerError, QueuerExit, run};

use pipeline::{RECEIPTS, Role, RoleKind};
use stores::clickhouse::{Cluster, SourceSettings};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "queuer",
    kind: RoleKind::Producer,
    outputs: &[TASKS, RECEIPTS],
    optional: &[],
};

const TASKS: &str = "tasks";

/// The columns that a run would read if it were planned now: the stores have to be configured for them. Asks every
/// shard; fails when they differ, or lack a column of the settings.
pub async fn source_columns(
    cluster: &Cluster,
    settings: &SourceSettings,
) -> Result<SourceColumns, PlanError> {
    let shards: Vec<_> = cluster.shards().collect();
    let tables = source::survey(&shards, settings).await?;
    columns::resolve(&tables, settings).map_err(PlanError::Source)
}
