use std::sync::Arc;
use std::time::Duration;

use batch::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::{BrokerError, MessageLimit};
use crate::names;

/// How long an end in good order is waited for: from a connection that publishes during a resource alarm the broker
/// reads nothing, this included.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The connection to the broker was lost while a message was in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the connection to the broker was lost while a message was in flight; it will be delivered again"
)]
pub struct ConnectionLost;

/// A message on its way to the broker.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Empty for the default exchange, whose routing keys are names of queues.
    pub exchange: String,
    pub routing_key: String,
    pub message: Message,
}

impl Publication {
    /// To an output of `program`.
    pub fn to_output(program: &str, output: &str, message: Message) -> Self {
        Self {
            exchange: names::output_exchange(program),
            routing_key: output.to_owned(),
            message,
        }
    }

    pub fn to_queue(queue: String, message: Message) -> Self {
        Self {
            exchange: String::new(),
            routing_key: queue,
            message,
        }
    }
}

/// The broker's reply to a publication. Only with `Stored` is it done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Confirm {
    /// Written to disk by a majority of every queue that it was routed to.
    Stored,
    /// Refused, as by a queue that is full.
    Refused,
    /// There is no queue to route it to.
    Unroutable,
}

pub(crate) struct Request {
    pub publication: Publication,
    pub confirm: oneshot::Sender<Confirm>,
    /// The publication's part of the window; released with the confirm.
    pub permit: OwnedSemaphorePermit,
}

/// The way out. Clones share one window of outstanding confirms, bounded in messages and in bytes.
#[derive(Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
    limit: MessageLimit,
}

impl Publisher {
    /// Publications that may be unconfirmed at once. A window of 1 costs a round trip a message
    /// (4,000-5,000/s); beyond some hundreds throughput no longer grows.
    pub const WINDOW: usize = 512;
    /// Bytes that may be unconfirmed at once, in KiB: bounds a worker's memory with large bodies.
    const WINDOW_KIB: usize = 32 << 10;

    /// `limit` is what the broker is known to take.
    pub(crate) fn new(limit: MessageLimit) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(Self::WINDOW);
        let window = Arc::new(Semaphore::new(Self::WINDOW_KIB));
        let publisher = Self {
            requests,
            window,
            limit,
        };
        (publisher, receiver)
    }

    /// Bytes of the largest body that the broker takes; `None` while it has refused none.
    pub fn max_message_bytes(&self) -> Option<usize> {
        self.limit.bytes()
    }

    /// Hands a publication over, waiting for room in the window. The confirm comes through the receiver,
    /// which fails when the session ends first.
    pub async fn publish(
        &self,
        publication: Publication,
    ) -> Result<oneshot::Receiver<Confirm>, ConnectionLost> {
        let kib = publication.message.body.len() / 1024;
        let least = Self::WINDOW_KIB / Self::WINDOW;
        let kib = kib.clamp(least, Self::WINDOW_KIB) as u32;
        let permit = self.window.clone().acquire_many_owned(kib).await;
        let (confirm, confirmed) = oneshot::channel();
        let request = Request {
            publication,
            confirm,
            permit: permit.map_err(|_| ConnectionLost)?,
        };
        let sent = self.requests.send(request).await;
        sent.map_err(|_| ConnectionLost)?;
        Ok(confirmed)
    }

    /// Publishes one message by itself, up to the confirm: for a sender that handles a refusal itself.
    pub async fn publish_and_wait(
        &self,
        publication: Publication,
    ) -> Result<Confirm, ConnectionLost> {
        let confirm = self.publish(publication).await?;
        confirm.await.map_err(|_| ConnectionLost)
    }
}

/// A message that the broker handed out and wants acknowledged.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message: Message,
    /// Counts from 1 in each subscription.
    pub tag: u64,
    /// How often the broker delivered it before without getting an acknowledgement.
    pub delivery_count: u32,
    /// Why the broker itself moved it here from another queue (`delivery_limit`, `expired`…), if it did.
    pub death: Option<String>,
}

/// What becomes of delivered messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// This one, or with `multiple` all up to it.
    Ack { tag: u64, multiple: bool },
    /// A negative one: the message will be delivered again, to the next consumer.
    Requeue { tag: u64 },
}

impl Acknowledgement {
    /// Of this one alone.
    pub const fn single(tag: u64) -> Self {
        let multiple = false;
        Self::Ack { tag, multiple }
    }
}

pub(crate) enum ChannelCommand {
    Acknowledgement(Acknowledgement),
    /// No more deliveries; the channel stays for what is in flight.
    Cancel,
    /// Replies when everything before it has reached the broker.
    Close(oneshot::Sender<()>),
}

/// Deliveries of one queue.
pub struct Subscription {
    /// Ends when the session does.
    pub deliveries: mpsc::Receiver<Delivery>,
    pub(crate) commands: mpsc::UnboundedSender<ChannelCommand>,
}

impl Subscription {
    pub fn acknowledge(&self, acknowledgement: Acknowledgement) {
        // Fails only after the session's end, when the broker has taken everything back already.
        let command = ChannelCommand::Acknowledgement(acknowledgement);
        let _ = self.commands.send(command);
    }

    pub fn cancel(&self) {
        let _ = self.commands.send(ChannelCommand::Cancel);
    }

    /// Flushes the acknowledgements and closes; what is unacknowledged returns to the queue.
    pub async fn close(self) {
        let (done, flushed) = oneshot::channel();
        if self.commands.send(ChannelCommand::Close(done)).is_ok() {
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, flushed).await;
        }
    }
}

/// The right to be the one active process; given up when it is dropped or its session ends.
pub struct Lease {
    /// One task, aborted on drop.
    _holder: JoinSet<()>,
}

impl Lease {
    /// Holds a subscription, and takes what is delivered out of the way: the broker ends a consumer that leaves a
    /// message unacknowledged for half an hour.
    pub(crate) fn new(mut subscription: Subscription) -> Self {
        let mut holder = JoinSet::new();
        holder.spawn(async move {
            while let Some(Delivery { tag, .. }) = subscription.deliveries.recv().await {
                subscription.acknowledge(Acknowledgement::single(tag));
            }
        });
        Self { _holder: holder }
    }
}

/// What a backend keeps to tell the loops about the connection.
#[derive(Clone, Default)]
pub(crate) struct ConnectionState {
    lost: watch::Sender<Option<String>>,
    blocked: watch::Sender<Option<String>>,
}

impl ConnectionState {
    /// Ends the session; the first cause stands.
    pub fn fail(&self, cause: impl Into<String>) {
        let cause = cause.into();
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            lost.get_or_insert(cause);
            first
        });
        // The alarm of a broker that is gone will never be lifted.
        self.block(None);
    }

    pub fn is_lost(&self) -> bool {
        self.lost.borrow().is_some()
    }

    pub fn block(&self, reason: Option<String>) {
        self.blocked.send_replace(reason);
    }

    pub async fn lost(&self) -> String {
        let mut lost = self.lost.subscribe();
        let cause = lost.wait_for(Option::is_some).await;
        cause
            .ok()
            .and_then(|cause| cause.clone())
            .unwrap_or_default()
    }
}

/// One life of a connection. Clones are the same session.
#[derive(Clone)]
pub struct Session {
    pub publisher: Publisher,
    pub(crate) state: ConnectionState,
    pub(crate) backend: Backend,
}

#[derive(Clone)]
pub(crate) enum Backend {
    RabbitMq(Arc<super::rabbitmq::RabbitMqConnection>),
    #[cfg(any(test, feature = "testing"))]
    Memory(super::memory::MemoryConnection),
}

impl Session {
    /// Whether the session has ended.
    pub fn is_lost(&self) -> bool {
        self.state.is_lost()
    }

    /// Resolves with the cause when the session has ended.
    pub async fn lost(&self) -> String {
        self.state.lost().await
    }

    /// Why the broker takes no messages at the moment (a memory or disk alarm), if so.
    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.state.blocked.subscribe()
    }

    /// Subscribes to `queue`, with at most `prefetch` deliveries unacknowledged.
    pub async fn subscribe(&self, queue: &str, prefetch: u16) -> Result<Subscription, BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connection) => {
                connection.subscribe(queue, prefetch, &self.state).await
            }
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connection) => connection.subscribe(queue, prefetch, &self.state),
        }
    }

    /// Takes the lease of `queue`, which one session holds at a time; `None`: another holds it. The queue must have
    /// a single active consumer, no room for messages, and no other subscribers.
    pub async fn lease(&self, queue: &str) -> Result<Option<Lease>, BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connection) => connection.lease(queue, &self.state).await,
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connection) => connection.lease(queue, &self.state),
        }
    }

    pub async fn exchange_exists(&self, name: &str) -> Result<bool, BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connection) => connection.exchange_exists(name).await,
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connection) => Ok(connection.exchange_exists(name)),
        }
    }

    /// Messages that are ready in a queue.
    pub async fn queue_length(&self, name: &str) -> Result<u64, BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connection) => connection.queue_length(name).await,
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connection) => connection.queue_length(name),
        }
    }

    /// Whether every queue has room, none holding more than `max_queue_len` messages; why not, otherwise.
    pub async fn check_room(&self, queues: &[String], max_queue_len: u64) -> Result<(), String> {
        for queue in queues {
            let length = self.queue_length(queue).await;
            let length = length.map_err(|error| error.to_string())?;
            if length > max_queue_len {
                return Err(format!(
                    "queue {queue} has {length} messages, more than max_queue_len {max_queue_len}"
                ));
            }
        }
        Ok(())
    }

    /// Ends the session in good order.
    pub async fn close(&self) {
        self.state.fail("closed");
        match &self.backend {
            Backend::RabbitMq(connection) => {
                let _ = tokio::time::timeout(CLOSE_TIMEOUT, connection.close()).await;
            }
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(_) => {}
        }
    }
}
