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
mod options;
mod plan;
mod publish;
mod report;
mod source;

pub use admission::Refused;
pub use config::QueuerSettings;
pub use cut::Cut;
pub use options::{Options, Since};
pub use plan::{Plan, PlanError, Planner, ShardPlan};
pub use publish::{Error, Finished, Pipeline, Published, run};
pub use report::{Report, ShardReport};

use pipeline::{Role, RoleKind};

/// The queuer, to the topology.
pub const ROLE: Role = Role {
    name: "queuer",
    kind: RoleKind::Producer,
    outputs: &[TASKS, RECEIPTS],
};

const TASKS: &str = "tasks";
const RECEIPTS: &str = "receipts";
