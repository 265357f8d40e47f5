//! Restarts the SERP service, so that it loads the dictionary that was refreshed, port by port, so that it stays up.
//!
//! [`Roller`] does it for one node: [`Roller::roll`] is the whole of it, for this program and for the operator's
//! command alike. [`SerpRestarter`] takes orders, one node each, and holds back while the service is paused or
//! outside of its window. Nothing is remembered: a roll that was broken off anywhere is done again, and leaves alone
//! what already serves the version.

mod config;
mod roll;
mod switch;
mod watch;
mod worker;

use pipeline::{Role, RoleKind};

pub use config::SerpRestarterSettings;
pub use roll::{Goal, RollError, Rolled, Roller, Step, Stopped};
pub use watch::{Event, Halt, Watch};
pub use worker::SerpRestarter;

/// The role as the topology knows it.
pub const ROLE: Role = Role {
    name: "serp-restarter",
    kind: RoleKind::Worker,
    outputs: &["receipts"],
    optional: &[],
};
