//! How programs are driven: worker and producer loops, outcomes, retries, quarantine, and the broker as they see it.
//!
//! A role implements [`Worker`] or [`BatchWorker`], or sends through a [`Sender`], and knows neither who
//! is before nor after it. This crate connects, prefetches, groups, publishes, confirms, acknowledges,
//! delays, quarantines, counts and shuts down.

pub mod broker;
#[cfg(test)]
mod conformance;
pub mod history;
mod job;
mod ladder;
mod lead;
pub mod names;
mod options;
mod outcome;
mod producer;
mod program;
pub mod quarantine;
mod receipts;
mod role;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod unconfirmed;
mod worker;

pub use job::{Job, Lost};
pub use ladder::Ladder;
pub use lead::{Lead, lead};
pub use options::{BrokerSettings, LoopOptions};
pub use outcome::Outcome;
pub use producer::{ProducerError, Sender};
pub use program::Program;
pub use receipts::{now_ms, receipt};
pub use role::{BatchWorker, GroupLimits, Role, RoleKind, Weight, Worker};
pub use worker::{run_batch_worker, run_worker, run_worker_while};
