//! The persister: lets a run go on only when it is known to be good.
//!
//! It follows the ledger and judges the stages of every run by their receipts ([`judge`]); what a stage that closed
//! well allows, it orders. Where the pipeline sends batches to it, they wait in its queue, unconsumed, until their run's
//! fetching is judged: then one successful attempt of every task goes on ([`release`]), or all of them to quarantine.
//!
//! Of several processes one is at work, by a lease of the broker; it knows nothing that is not on the ledger, so the next
//! one goes on where it stopped.

mod config;
mod held;
mod judge;
mod release;
mod replay;
mod work;

pub use config::{GateSettings, PersisterSettings};
pub use work::{PersisterInputs, run};

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
