//! The state of every run, as a fold over its receipts, and the decisions that are due.
//!
//! Pure: no I/O, no clock. Receipts may come late, repeated and in any order, and the state is the same: every part of
//! it is the maximum, by a fixed order, of what was received about it.
//!
//! [`RunState`] takes in the receipts of one run and answers every question about it: begin with `run.rs`. Behind it
//! are its tasks and their totals (`tasks`, `task`, `receipts`, `totals`) and its stages (`stage_log`).
//! [`evaluate_gates`] and [`Progress`] ask it; [`Ledger`] holds all runs.

mod gates;
mod ledger;
mod progress;
mod receipts;
mod record;
mod rules;
mod run;
mod stage_log;
mod stage_progress;
mod status;
mod task;
mod tasks;
mod totals;

pub use gates::{GateDecision, evaluate_gates};
pub use ledger::{EndedRun, Ledger};
pub use progress::{Progress, StoreProgress};
pub use record::{RecordContent, RunRecord};
pub use rules::{GateRules, check_rule};
pub use run::RunState;
pub use stage_log::StageOutcome;
pub use stage_progress::StageProgress;
pub use status::{Abandoned, RunStatus, StageStatus};
pub use task::{ProblemKind, TaskProblem};
