use std::future::Future;
use std::hash::Hash;
use std::time::Duration;

use batch::{Invalid, Message};

use crate::{Job, Outcome};

/// Output for what happened in a run: the ledger reads it.
pub const RECEIPTS: &str = "receipts";
/// Output for batches of rows, on their way into the stores.
pub const BATCHES: &str = "batches";
/// Output for orders to refresh dictionaries, and after them to restart SERP nodes.
pub const ORDERS: &str = "orders";

/// What a role is to the topology: its name, its kind and the outputs that it may send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Role {
    pub name: &'static str,
    pub kind: RoleKind,
    /// Names that [`Job::send`] takes; an edge of the topology gives each its readers.
    pub outputs: &'static [&'static str],
    /// Those of them that a type may leave unread: the role sends nothing there then.
    pub optional: &'static [&'static str],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoleKind {
    /// Reads a queue: [`Worker`] or [`BatchWorker`].
    Worker,
    /// Reads nothing.
    Producer,
    /// Reads the ledger as it grows, one process at a time; a type may have it read a queue too.
    Controller,
    /// No program at all: an append-only stream that others read.
    Stream,
}

/// A role that processes one message at a time; `concurrency` of them at once.
pub trait Worker: Send + Sync + 'static {
    /// Processes one message. Outputs go out through [`Job::send`] while it runs. It is cancelled at its next
    /// `await` when the connection is lost: nothing is acknowledged then, and the message is delivered again.
    fn process(&self, job: &mut Job) -> impl Future<Output = Outcome> + Send;

    /// The message that tells the ledger of a quarantined message, sent to output [`crate::RECEIPTS`].
    fn quarantined(&self, _message: &Message, _why: &Invalid) -> Option<Message> {
        None
    }
}

/// A role that processes groups of messages that belong together.
pub trait BatchWorker: Send + Sync + 'static {
    /// What messages of one group have in common, such as a shard.
    type Key: Clone + Eq + Hash + Send + Sync + std::fmt::Debug + 'static;
    /// A message, checked and made ready when it is admitted.
    type Item: Send + 'static;

    /// Checks a message as it comes in, cheaply. One that is refused here goes to quarantine alone.
    fn admit(&self, message: &Message) -> Result<(Self::Key, Weight, Self::Item), Invalid>;

    /// When a group is full.
    fn limits(&self) -> GroupLimits;

    /// Processes a group and returns one outcome for each of its messages, in their order. It is cancelled as
    /// [`Worker::process`] is.
    fn process(
        &self,
        key: Self::Key,
        group: &mut [(Job, Self::Item)],
    ) -> impl Future<Output = Vec<Outcome>> + Send;

    /// As [`Worker::quarantined`].
    fn quarantined(&self, _message: &Message, _why: &Invalid) -> Option<Message> {
        None
    }
}

/// What a message adds to its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Weight {
    pub rows: u64,
    pub bytes: u64,
}

/// A group is processed as soon as one of these is reached. A message that would take it past
/// `rows` or `bytes` begins the next group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupLimits {
    pub rows: u64,
    pub bytes: u64,
    /// Time since the first message of the group came in.
    pub wait: Duration,
}
