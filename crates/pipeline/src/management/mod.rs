//! The broker's management API: declares a pipeline, says what it would change, counts messages.
//!
//! [`Management`] talks to one virtual host. What is to change is decided by a pure plan over what is
//! [`desired`](crate::topology::desired) and what is present, and carried out step by step by one engine;
//! tests drive both against a broker in memory as well.

mod apply;
mod client;
mod error;
mod live;
mod objects;
mod pause;
mod plan;
mod present;
mod removal;

pub use apply::{Change, Object};
pub use client::Management;
pub use error::ManagementError;
pub use live::QueueFigures;
pub use pause::Pause;
pub use plan::{Action, Discards, parse_discard};

#[cfg(test)]
mod tests;
