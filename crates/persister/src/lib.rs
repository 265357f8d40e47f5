//! The persister. In spite of its name it persists nothing: it is the persister of the batch persistence, the program
//! that lets a run go on only when it is known to be good.
//!
//! It follows the ledger and decides, by the receipts of every run, which of its stages passed ([`gate_controller`]);
//! what a passed stage allows, it orders. Where the pipeline sends batches to it, they wait in its queue, unconsumed,
//! until their run's fetching is decided: then one successful attempt of every task goes on ([`release`]), or all of
//! them go to quarantine.
//!
//! One process of several has the lease of the broker and does this; it knows nothing that is not on the ledger, so the
//! next one goes on where it stopped.

mod config;
mod gate_controller;
mod release;
mod release_tracker;
mod replay;
mod shared_ledger;
mod worker;

pub use config::{GateSettings, PersisterSettings};
pub use worker::{PersisterInputs, run};

use pipeline::{Role, RoleKind};

/// The persister, to the topology.
pub const ROLE: Role = Role {
    name: "persister",
    kind: RoleKind::Controller,
    outputs: &[BATCHES, ORDERS, RECEIPTS, RECORDS],
    optional: &[BATCHES, ORDERS],
};

const BATCHES: &str = "batches";
const ORDERS: &str = "orders";
const RECEIPTS: &str = "receipts";
const RECORDS: &str = "records";
