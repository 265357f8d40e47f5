//! The broker, as the loops see it: a session is one life of a connection. Every error ends the session, once and
//! with a cause; the loops then begin a new one. Nothing is repaired in between: what was delivered and not
//! acknowledged is delivered again.

mod ack_tracker;
#[cfg(any(test, feature = "testing"))]
mod memory;
mod message_limit;
mod rabbitmq;
mod session;
mod stream;

pub(crate) use ack_tracker::AckTracker;
#[cfg(any(test, feature = "testing"))]
pub use memory::{Memory, QueueOptions};
pub(crate) use message_limit::MessageLimit;
pub use rabbitmq::{RabbitMq, parse_amqp_url};
pub use session::{
    Acknowledgement, Confirm, ConnectionLost, Delivery, Lease, Publication, Publisher, Session,
    Subscription,
};
pub(crate) use session::{ConnectionState, Request};
pub use stream::{StreamConsumer, StreamMessage};

use batch::Message;

/// Why there is no session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BrokerError {
    /// Trying again is of no use until the user, the password or the virtual host is another.
    #[error(
        "the broker at {address} refuses the connection: {detail}. Check user, password and virtual host (broker.url)"
    )]
    Refused { address: String, detail: String },
    #[error("the broker at {address} cannot be reached: {detail}")]
    Unreachable { address: String, detail: String },
    #[error("the broker's {object} {name:?} does not exist: {detail}")]
    NotFound {
        object: &'static str,
        name: String,
        detail: String,
    },
    #[error("the broker's {object} {name:?} is not usable: {detail}")]
    Object {
        object: &'static str,
        name: String,
        detail: String,
    },
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

    /// Hands out the messages of a stream from the offset `from` on, or from the first that is still there, each with
    /// its offset: at least those confirmed before the call. A stream that ends before the offset was made again since
    /// the offset was noted, and is read whole. After an error some messages were handed out.
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
                broker.read_stream(stream, from, take);
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
    ) -> Result<StreamConsumer, BrokerError> {
        match self {
            Self::RabbitMq(broker) => broker.follow_stream(stream, from, take).await,
            #[cfg(any(test, feature = "testing"))]
            Self::Memory(broker) => {
                let end = broker.read_stream(stream, from, take);
                Ok(StreamConsumer::in_memory(broker, stream, end))
            }
        }
    }
}
