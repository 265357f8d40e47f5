//! The broker, as the loops see it: a session is one life of a connection. Whatever goes wrong ends
//! the session, once and with a cause; the loops then begin a new one. Nothing is patched up in between:
//! what was delivered and not acknowledged comes again.

mod ackbook;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod rabbitmq;
mod session;
mod stream;

pub use ackbook::AckBook;
#[cfg(any(test, feature = "testing"))]
pub use memory::{Memory, QueueOptions};
pub use rabbitmq::RabbitMq;
pub use session::{
    Acknowledgement, Confirm, Delivery, Lease, Publication, Publisher, Session, Subscription,
};
pub(crate) use session::{Link, Request};
pub use stream::Follower;

use batch::Message;

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Trying again is of no use until someone changes something.
    #[error(
        "the broker at {address} refuses the connection: {detail}. Check user, password and virtual host (broker.url)"
    )]
    Refused { address: String, detail: String },
    #[error("the broker at {address} cannot be reached: {detail}")]
    Unreachable { address: String, detail: String },
    #[error("the broker's {object} {name:?} is not usable: {detail}")]
    Object {
        object: &'static str,
        name: String,
        detail: String,
    },
}

impl BrokerError {
    /// Whether the broker says that what was asked for is not there.
    pub fn is_missing(&self) -> bool {
        let Self::Object { detail, .. } = self else {
            return false;
        };
        detail.contains("NOT_FOUND - no ")
    }
}

/// A broker: RabbitMQ, or, with the feature `testing`, one in memory with the same behaviour.
#[derive(Clone, Debug)]
pub enum Broker {
    RabbitMq(RabbitMq),
    #[cfg(any(test, feature = "testing"))]
    Memory(Memory),
}

impl Broker {
    /// Begins a session. `program` is the connection's name in the broker's own tools.
    pub async fn connect(&self, program: &str) -> Result<Session, BrokerError> {
        match self {
            Self::RabbitMq(broker) => broker.connect(program).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(broker) => broker.connect().await,
        }
    }

    /// All messages of a stream, from its beginning: at least those confirmed before the call.
    pub async fn read_stream(&self, stream: &str) -> Result<Vec<Message>, BrokerError> {
        let mut messages = Vec::new();
        let read = self.read_stream_from(stream, 0, |_, message| messages.push(message));
        read.await?;
        Ok(messages)
    }

    /// The messages of a stream from the place `from` on, or from the first that is still there, each with its place,
    /// handed out as they come: a ledger of months is far smaller folded than it is as messages. A stream that has not
    /// come to the place yet is not the one whose place it is, and is read whole. After an error some messages were
    /// handed out.
    pub async fn read_stream_from(
        &self,
        stream: &str,
        from: u64,
        take: impl FnMut(u64, Message),
    ) -> Result<(), BrokerError> {
        match self {
            Self::RabbitMq(broker) => broker.read_stream(stream, from, take).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(broker) => {
                broker.read_stream_from(stream, from, take);
                Ok(())
            }
        }
    }

    /// As [`Self::read_stream_from`], then the messages that are added, each once.
    pub async fn follow_stream(
        &self,
        stream: &str,
        from: u64,
        take: impl FnMut(u64, Message),
    ) -> Result<Follower, BrokerError> {
        match self {
            Self::RabbitMq(broker) => broker.follow_stream(stream, from, take).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(broker) => {
                let read = broker.read_stream_from(stream, from, take);
                Ok(Follower::of_memory(broker, stream, read))
            }
        }
    }
}
