//! The persister. Despite its name it stores nothing: the name is that of the program it replaces, the batch
//! persistence. It evaluates the gates of runs.
//!
//! It follows the ledger and decides, by the receipts of every run, which of its stages passed ([`gate_controller`]);
//! what a passed stage allows, it orders. Where the pipeline sends batches to it, they wait in its queue, unconsumed,
//! until the run's stage `fetch` is decided: then one successful attempt of every task is released ([`release`]), or
//! all of them go to quarantine.
//!
//! One process of several has the lease and does this. It knows nothing that is not on the ledger, so the next one
//! continues at the same point.

mod config;
mod gate_controller;
mod release;
mod release_tracker;
mod replay;
mod shared_ledger;
mod worker;

pub use config::{GateSettings, PersisterSettings};
pub use worker::{PersisterInputs, run};

use pipeline::{BATCHES, ORDERS, RECEIPTS, Role, RoleKind};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "persister",
    kind: RoleKind::Controller,
    outputs: &[BATCHES, ORDERS, RECEIPTS, RECORDS],
    optional: &[BATCHES, ORDERS],
};

const RECORDS: &str = "records";
