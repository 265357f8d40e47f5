//! The domain: what a run, a task, a batch and a receipt are, and how each is written in a message.
//!
//! Pure: no I/O, no clock, no broker. Everything that comes from outside is checked here, by name
//! ([`Reason`]), before anything is decoded or allocated for it.

pub mod arrow;
mod batch_headers;
mod headers;
mod identity;
mod message;
mod order;
mod reason;
mod receipt;
mod stage;
mod task;

pub use batch_headers::BatchHeaders;
pub use headers::{Failure, HeaderValue, Headers, header, truncate};
pub use identity::{BatchId, RunId, TaskHash};
pub use message::{Message, MessageKind};
pub use order::{Command, Order};
pub use reason::{Invalid, Reason};
pub use receipt::{Fact, Receipt, Rows, Started};
pub use stage::{Decision, RunPlan, Stage};
pub use task::{Column, KeyRange, KeyValue, ReadPlan, RunMode, Task};

/// Name of the column of a row's version: its change time, in milliseconds since the epoch (Int64).
pub const VERSION_COLUMN: &str = "_version";

/// Name of the column that a quarantined batch has next to the rows' own: why the store refused the row.
pub const REASON_COLUMN: &str = "_reason";
