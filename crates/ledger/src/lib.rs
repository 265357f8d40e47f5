//! What the ledger says: the state of every run, as a fold over its receipts.
//!
//! Pure: no I/O, no clock. Receipts may come late, repeated and in any order, and the state is the
//! same: every part of it is the maximum, by a fixed order, of what was said about it. Whoever asks
//! (the queuer, the operator's commands, the tests) folds the same receipts into the same answer.

mod history;
mod progress;
mod run;
mod tally;
mod task;

pub use history::Ledger;
pub use progress::{Progress, State, StoreProgress, TaskTrouble, Trouble};
pub use run::{RunState, Started};
