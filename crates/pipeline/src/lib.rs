//! How programs are driven: worker and producer loops, outcomes, retries, quarantine, and the broker as they see it.
//!
//! A role implements [`Worker`] or [`BatchWorker`], or sends through a [`Producer`] or as a [`Leader`], and does
//! not know which programs come before and after it. This crate connects, prefetches, groups, publishes, waits for
//! confirms, acknowledges, delays, quarantines, counts and shuts down.

mod backoff;
pub mod broker;
#[cfg(test)]
mod conformance;
pub mod history;
mod job;
mod leader;
pub mod names;
mod options;
mod outbox;
mod outcome;
mod pause;
mod producer;
mod program;
pub mod quarantine;
mod receipts;
mod retry_schedule;
mod role;
mod sessions;
mod store_report;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod worker;

pub use broker::ConnectionLost;
pub use job::Job;
pub use leader::Leader;
pub use options::{BrokerSettings, LoopOptions};
pub use outcome::Outcome;
pub use pause::{MAX_IN_FLIGHT_SECONDS, PauseSettings, check_positive, paused};
pub use producer::{Producer, ProducerError};
pub use program::Program;
pub use receipts::{now_ms, receipt};
pub use retry_schedule::RetrySchedule;
pub use role::{
    BATCHES, BatchWorker, GroupLimits, ORDERS, RECEIPTS, Role, RoleKind, Weight, Worker,
};
pub use sessions::Sessions;
pub use store_report::{AdmittedBatch, RefusedRows, StoreReport, settle};
pub use worker::{run_batch_worker, run_worker, run_worker_while};
