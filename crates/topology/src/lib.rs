//! Which programs a pipeline type has and which outputs they read, and the broker objects that follow from it.
//!
//! A [`Catalog`] is the declarative file, or the one built in with a user's on top. A [`Topology`] is one type
//! of it, resolved against the known roles; [`Topology::check`] finds what is missing in it, and [`desired`]
//! gives every object that the broker must have for it. [`management`] declares these objects. The loops that
//! use them are in the crate `pipeline`, which knows nothing of this one.

mod catalog;
mod check;
mod desired;
mod edge;
mod error;
mod graph;
pub mod management;
mod naming;
mod queue_class;
mod resolve;
mod settings;

pub use catalog::{Catalog, TypeEntry};
pub use desired::{Binding, Desired, DesiredQueue, Exchange, ObjectArguments, Policy, desired};
pub use error::{Problem, TopologyError};
pub use graph::{dot, mermaid};
pub use queue_class::QueueClass;
pub use resolve::{Edge, ProgramSpec, Topology};
pub use settings::PipelineSettings;

use pipeline::{Role, RoleKind};
use settings::QueueSettings;

/// The stream of receipts: a part of the pipeline that belongs to no program.
pub const LEDGER: Role = Role {
    name: pipeline::names::LEDGER,
    kind: RoleKind::Stream,
    outputs: &[],
    optional: &[],
};

/// The stream of the records of runs that have ended.
pub const RUNS: Role = Role {
    name: pipeline::names::RUNS,
    kind: RoleKind::Stream,
    outputs: &[],
    optional: &[],
};

#[cfg(test)]
pub(crate) mod tests;
