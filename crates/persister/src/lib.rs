//! The persister. In spite of its name it persists nothing: it is the persister of the batch persistence, the program
//! that lets a run continue only when it is known to be good.
//!
//! It follows the ledger and decides, by the receipts of every run, which of its stages passed ([`gate_controller`]); what
//! a passed stage allows, it orders. Where the pipeline sends batches to it, they wait in its queue, unconsumed, until the
//! run's stage `fetch` is decided: then one successful attempt of every task is released ([`release`]), or all of them go
//! to quarantine.
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

use pipeline::{RECEIPTS, Role, RoleKind};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "persister",
    kind: RoleKind::Controller,
    outputs: &[BATCHES, ORDERS, RECEIPTS, RECORDS],
    optional: &[BATCHES, ORDERS],
};

const BATCHES: &str = "batches";
const ORDERS: &str = "orders";
const RECORDS: &str = "records";
