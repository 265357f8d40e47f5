//! Restarts the SERP service, so that it loads the dictionary that was refreshed, port by port, so that it stays up.
//!
//! [`Restarter::restart_node`] is the rolling restart of one node (`restarter`), for this program and for the operator's
//! command alike; it reports to an [`Observer`], which can stop it between two ports. [`SerpRestarter`] restarts the node
//! of each order, and puts an order off while the service is paused or outside of its window. No state is kept: a rolling
//! restart that was broken off is done again, and leaves the ports alone that serve the version already.

mod config;
mod observer;
mod progress;
mod restarter;
mod worker;

pub use config::SerpRestarterSettings;
pub use observer::{Observer, RestartEvent, StopReason};
pub use progress::{PortRestartError, RestartError, RestartGoal, RestartStep, RestartSummary};
pub use restarter::{PortCheck, Restarter};
pub use worker::SerpRestarter;

use pipeline::{RECEIPTS, Role, RoleKind};

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "serp-restarter",
    kind: RoleKind::Worker,
    outputs: &[RECEIPTS],
    optional: &[],
};
