//! The domain: what a run, a task, a batch and a receipt are, and how each is written in a message.
//!
//! Pure: no I/O, no clock, no broker. Everything that comes from outside is checked here, by name
//! ([`Reason`]), before anything is decoded or allocated for it.

pub mod arrow;
mod headers;
mod identity;
mod order;
mod reason;
mod receipt;
mod stage;
mod task;

pub use headers::{Failure, HeaderError, HeaderValue, Headers, Message, SCHEMA_VERSION, header};
pub use identity::{BatchId, RunId, TaskHash};
pub use order::{Command, Order};
pub use reason::{Invalid, Reason};
pub use receipt::{Fact, Receipt, Rows, RunPlan};
pub use stage::{Decision, Stage};
pub use task::{Column, KeyRange, KeyValue, ReadPlan, RunMode, Task};

/// Name of the column that carries a row's version: its change time, in milliseconds since the epoch (Int64).
pub const VERSION_COLUMN: &str = "_version";

/// Name of the column that a quarantined batch has beside the rows' own: why the store refused the row.
pub const REASON_COLUMN: &str = "_reason";
