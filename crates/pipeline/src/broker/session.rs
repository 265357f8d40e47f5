use std::sync::Arc;
use std::time::Duration;

use batch::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::Lost;

/// How long an end in good order is waited for. From a connection that publishes during a resource alarm the
/// broker reads nothing, this included, and takes back what is unanswered when the connection is gone.
const FAREWELL: Duration = Duration::from_secs(5);

/// A message on its way to the broker.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Empty for the default exchange, whose routing keys are names of queues.
    pub exchange: String,
    pub routing_key: String,
    pub message: Message,
}

impl Publication {
    pub fn to_queue(queue: String, message: Message) -> Self {
        Self {
            exchange: String::new(),
            routing_key: queue,
            message,
        }
    }
}

/// The broker's answer to a publication. Only `Stored` lets go of it.
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
    /// The publication's share of the window; released with the confirm.
    pub share: OwnedSemaphorePermit,
}

/// The way out. Clones share one window of outstanding confirms, bounded in messages and in bytes.
#[derive(Clone)]
pub struct Publisher {
    requests: mpsc::Sender<Request>,
    window: Arc<Semaphore>,
}

impl Publisher {
    /// Publications that may be unconfirmed at once. A window of 1 costs a round trip a message
    /// (4,000-5,000/s); beyond some hundreds throughput no longer grows.
    pub const WINDOW: usize = 512;
    /// Bytes that may be unconfirmed at once, in KiB: bounds a worker's memory with large bodies.
    const WINDOW_KIB: usize = 32 << 10;

    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(Self::WINDOW);
        let window = Arc::new(Semaphore::new(Self::WINDOW_KIB));
        (Self { requests, window }, receiver)
    }

    /// Hands a publication over, waiting for room in the window. The answer comes through the receiver,
    /// which fails when the session ends first.
    pub async fn publish(
        &self,
        publication: Publication,
    ) -> Result<oneshot::Receiver<Confirm>, Lost> {
        let kib = publication.message.body.len() / 1024;
        let least = Self::WINDOW_KIB / Self::WINDOW;
        let share = kib.clamp(least, Self::WINDOW_KIB) as u32;
        let share = self.window.clone().acquire_many_owned(share).await;
        let (confirm, answer) = oneshot::channel();
        let request = Request {
            publication,
            confirm,
            share: share.map_err(|_| Lost)?,
        };
        self.requests.send(request).await.map_err(|_| Lost)?;
        Ok(answer)
    }
}

/// A message that the broker handed out and wants acknowledged.
#[derive(Debug, Clone)]
pub struct Delivery {
    pub message: Message,
    /// Counts from 1 in each subscription.
    pub tag: u64,
    /// How often the broker delivered it before without getting an answer.
    pub delivery_count: u32,
    /// Why the broker itself moved it here from another queue (`delivery_limit`, `expired`…), if it did.
    pub death: Option<String>,
}

/// Messages answered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledgement {
    /// This one, or with `multiple` all up to it.
    Ack { tag: u64, multiple: bool },
    /// Given back: it will be delivered again, to whoever is next.
    GiveBack { tag: u64 },
}

pub(crate) enum Answer {
    Acknowledgement(Acknowledgement),
    /// No more deliveries, please; the channel stays for what is in hand.
    Cancel,
    /// Answers when everything before it has reached the broker.
    Close(oneshot::Sender<()>),
}

/// Deliveries of one queue.
pub struct Subscription {
    /// Ends when the session does.
    pub deliveries: mpsc::Receiver<Delivery>,
    pub(crate) answers: mpsc::UnboundedSender<Answer>,
}

impl Subscription {
    pub fn answer(&self, acknowledgement: Acknowledgement) {
        // Fails only after the session's end, when the broker has taken everything back already.
        let _ = self.answers.send(Answer::Acknowledgement(acknowledgement));
    }

    /// Asks for no more deliveries.
    pub fn cancel(&self) {
        let _ = self.answers.send(Answer::Cancel);
    }

    /// Flushes the acknowledgements and closes; what is unanswered returns to the queue.
    pub async fn close(self) {
        let (done, flushed) = oneshot::channel();
        if self.answers.send(Answer::Close(done)).is_ok() {
            let _ = tokio::time::timeout(FAREWELL, flushed).await;
        }
    }
}

/// The right to be the one at work; given up when it is dropped or its session ends.
pub struct Lease {
    /// Aborts what it has on drop.
    _holding: JoinSet<()>,
}

impl Lease {
    /// Holds a subscription, and takes what is delivered out of the way: the broker ends a consumer that leaves a
    /// message unanswered for half an hour.
    pub(crate) fn of(mut subscription: Subscription) -> Self {
        let mut holding = JoinSet::new();
        holding.spawn(async move {
            while let Some(Delivery { tag, .. }) = subscription.deliveries.recv().await {
                let multiple = false;
                subscription.answer(Acknowledgement::Ack { tag, multiple });
            }
        });
        Self { _holding: holding }
    }
}

/// What a backend keeps to tell the loops about the connection.
#[derive(Clone)]
pub(crate) struct Link {
    lost: watch::Sender<Option<String>>,
    blocked: watch::Sender<Option<String>>,
}

impl Link {
    pub fn new() -> Self {
        Self {
            lost: watch::Sender::new(None),
            blocked: watch::Sender::new(None),
        }
    }

    /// Ends the session; the first cause stands.
    pub fn lose(&self, cause: impl Into<String>) {
        let cause = cause.into();
        self.lost.send_if_modified(|lost| {
            let first = lost.is_none();
            if first {
                *lost = Some(cause);
            }
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
    pub(crate) link: Link,
    pub(crate) backend: Backend,
}

#[derive(Clone)]
pub(crate) enum Backend {
    RabbitMq(Arc<super::rabbitmq::Connected>),
    #[cfg(any(test, feature = "testing"))]
    Memory(super::memory::Connected),
}

impl Session {
    /// Whether the session has ended.
    pub fn is_lost(&self) -> bool {
        self.link.is_lost()
    }

    /// Resolves with the cause when the session has ended.
    pub async fn lost(&self) -> String {
        self.link.lost().await
    }

    /// Why the broker takes nothing at the moment (a memory or disk alarm), if so.
    pub fn blocked(&self) -> watch::Receiver<Option<String>> {
        self.link.blocked.subscribe()
    }

    /// Subscribes to `queue`, with at most `prefetch` deliveries unanswered.
    pub async fn subscribe(
        &self,
        queue: &str,
        prefetch: u16,
    ) -> Result<Subscription, super::BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connected) => connected.subscribe(queue, prefetch, &self.link).await,
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connected) => connected.subscribe(queue, prefetch, &self.link),
        }
    }

    /// Takes the lease of `queue`, which one session holds at a time; `None`: another holds it. The queue must have
    /// a single active consumer, no room for messages, and no other subscribers.
    pub async fn lease(&self, queue: &str) -> Result<Option<Lease>, super::BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connected) => connected.lease(queue, &self.link).await,
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connected) => connected.lease(queue, &self.link),
        }
    }

    /// Whether the exchange exists.
    pub async fn exchange_exists(&self, name: &str) -> Result<bool, super::BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connected) => connected.exchange_exists(name).await,
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connected) => Ok(connected.exchange_exists(name)),
        }
    }

    /// Messages that are ready in a queue: what the loops hold producers back by.
    pub async fn queue_length(&self, name: &str) -> Result<u64, super::BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connected) => connected.queue_length(name).await,
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(connected) => connected.queue_length(name),
        }
    }

    /// Ends the session in good order.
    pub async fn close(&self) {
        self.link.lose("closed");
        match &self.backend {
            Backend::RabbitMq(connected) => {
                let _ = tokio::time::timeout(FAREWELL, connected.close()).await;
            }
            #[cfg(any(test, feature = "testing"))]
            Backend::Memory(_) => {}
        }
    }
}
