//! What the ledger says: the state of every run, as a fold over its receipts, and the decisions that are due.
//!
//! Pure: no I/O, no clock. Receipts may come late, repeated and in any order, and the state is the
//! same: every part of it is the maximum, by a fixed order, of what was said about it. Whoever asks
//! (the queuer, the operator's commands, the tests) folds the same receipts into the same answer.

mod gates;
mod history;
mod progress;
mod run;
mod stage_progress;
mod stages;
mod summary;
mod task;
mod totals;

pub use gates::{GateDecision, GateRules, check_rule, evaluate_gates};
pub use history::{EndedRun, Ledger};
pub use progress::{Abandoned, ProblemKind, Progress, State, StoreProgress, TaskProblem};
pub use run::{RunState, Started};
pub use stage_progress::{StageProgress, Status};
pub use stages::StageOutcome;
pub use summary::{Content, Record};
