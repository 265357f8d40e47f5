//! Refreshes the ClickHouse dictionary of a shard, on each of its replicas, once the run's rows are in its table.
//!
//! The flow of an order is in `shard`: the replicas are brought into sync (`sync`), the new dictionary is loaded next to
//! the live one and compared with the table, and once it is good on every replica they are exchanged (`replica`). No
//! step remembers anything: what was done already is in the comments of the dictionaries (`state`), so that an order
//! continues from wherever an earlier try was killed. `worker` takes orders and reports on them.
//!
//! [`status`] and [`rollback`] are the operator's.

mod check;
mod config;
mod failure;
mod memory;
mod operator;
mod replica;
mod shard;
mod spec;
mod state;
mod sync;
mod worker;

pub use config::{DictRefresherSettings, DictionaryLayout, DictionarySettings};
pub use operator::{
    DictionaryStatus, ReplicaStatus, RollbackError, RollbackStep, plan_rollback, rollback, status,
};
pub use worker::DictRefresher;

use pipeline::{ORDERS, RECEIPTS, Role, RoleKind};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "dict-refresher",
    kind: RoleKind::Worker,
    outputs: &[ORDERS, RECEIPTS],
    optional: &[],
};
