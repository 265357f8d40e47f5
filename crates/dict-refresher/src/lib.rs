//! Refreshes the ClickHouse dictionary of a shard, on each of its replicas, once the run's rows are in its table.
//!
//! The flow of an order is [`worker`]: the replicas are brought into sync ([`sync`]), the new dictionary is loaded
//! beside the live one and compared with the table ([`prepare`]), and once it is good on every replica they are
//! exchanged ([`apply`]). No step remembers anything: what was done already stands in the comments of the
//! dictionaries ([`state`]), so that an order goes on from wherever an earlier try was killed.
//!
//! [`status`] and [`rollback`] are the operator's.

mod apply;
mod blueprint;
mod check;
mod config;
mod failure;
mod memory;
mod operator;
mod prepare;
mod state;
mod sync;
mod types;
mod worker;

use pipeline::{Role, RoleKind};

pub use config::{DictRefresherSettings, DictionarySettings, Layout};
pub use operator::{
    DictionaryStatus, ReplicaStatus, RollbackError, RollbackStep, plan_rollback, rollback, status,
};
pub use worker::DictRefresher;

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "dict-refresher",
    kind: RoleKind::Worker,
    outputs: &["orders", "receipts"],
    optional: &[],
};
