//! How programs are joined and driven: topology, worker and producer loops, outcomes, retries, quarantine.
//!
//! A role implements [`Worker`], [`BatchWorker`] or [`Producer`] and knows neither who is before nor
//! after it. This crate connects, prefetches, groups, publishes, confirms, acknowledges, delays,
//! quarantines, counts and shuts down.

mod job;
mod ladder;
pub mod names;
mod outcome;
mod role;

pub use job::{Job, Lost};
pub use ladder::Ladder;
pub use outcome::Outcome;
pub use role::{BatchWorker, GroupLimits, Role, RoleKind, Weight, Worker};
