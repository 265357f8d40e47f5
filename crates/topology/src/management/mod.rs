//! The broker's management API: declares a pipeline, shows what it would change, counts messages.
//!
//! [`Management`] talks to one virtual host. A pure plan compares the [`desired`](crate::desired) objects with the
//! actual ones, and one engine carries it out step by step. Tests drive both against a virtual host in memory too.

mod actual;
mod apply;
mod client;
mod error;
mod live;
mod marker;
mod objects;
mod plan;
mod removal;

pub use apply::{BrokerChange, ChangeAction, Object};
pub use client::Management;
pub use error::ManagementError;
pub use live::QueueFigures;
pub use plan::{Discards, parse_discard};

#[cfg(test)]
mod tests;
