//! The queuer: plans a run from the primary index of the source and publishes it, one task for each
//! range, then the manifest that says how many there are.
//!
//! Planning ([`Planner`]) asks ClickHouse alone; publishing ([`run`]) adds the broker. A run begins only when
//! no other run of its pipeline is unfinished, which the ledger tells.

mod admission;
mod clock;
mod columns;
mod config;
mod cut;
mod follow;
mod look;
mod options;
mod plan;
mod publish;
mod report;
mod source;

pub use admission::Refused;
pub use columns::Resolved;
pub use config::QueuerSettings;
pub use cut::Cut;
pub use follow::Past;
pub use options::{Options, Since};
pub use plan::{Plan, PlanError, Planner, ShardPlan};
pub use publish::{Error, Finished, Pipeline, Published, run};
pub use report::{Report, ShardReport};

use pipeline::{Role, RoleKind};
use stores::clickhouse::{Cluster, SourceSettings};

/// The queuer, to the topology.
pub const ROLE: Role = Role {
    name: "queuer",
    kind: RoleKind::Producer,
    outputs: &[TASKS, RECEIPTS],
    optional: &[],
};

const TASKS: &str = "tasks";
/// What fetchers send, and stores read.
const BATCHES: &str = "batches";
const RECEIPTS: &str = "receipts";
/// What the judge of a pipeline sends after a stage that passed, and who carries it out may send on.
const ORDERS: &str = "orders";
/// The role whose stores have the dictionaries.
const CH_WRITER: &str = "ch-writer";

/// The columns that a run would carry if it were planned now: what the stores have to be configured
/// for. Asks every shard; fails when they differ, or lack a column of the settings.
pub async fn source_columns(
    cluster: &Cluster,
    settings: &SourceSettings,
) -> Result<Resolved, PlanError> {
    let shards: Vec<_> = cluster.shards().collect();
    let survey = source::survey(&shards, settings).await?;
    columns::resolve(&survey.tables, settings).map_err(PlanError::Source)
}
