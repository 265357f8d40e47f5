use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use batch::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

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
    Memory(super::memory::Connected),
}

impl Session {
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
            Backend::Memory(connected) => connected.subscribe(queue, prefetch, &self.link),
        }
    }

    /// Whether the exchange exists.
    pub async fn exchange_exists(&self, name: &str) -> Result<bool, super::BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connected) => connected.exchange_exists(name).await,
            Backend::Memory(connected) => Ok(connected.exchange_exists(name)),
        }
    }

    /// Messages that are ready in a queue: what the loops hold producers back by.
    pub async fn queue_length(&self, name: &str) -> Result<u64, super::BrokerError> {
        match &self.backend {
            Backend::RabbitMq(connected) => connected.queue_length(name).await,
            Backend::Memory(connected) => connected.queue_length(name),
        }
    }

    /// Ends the session in good order.
    pub async fn close(&self) {
        self.link.lose("closed");
        if let Backend::RabbitMq(connected) = &self.backend {
            let _ = tokio::time::timeout(FAREWELL, connected.close()).await;
        }
    }
}

/// Which deliveries are answered for. Turns completions in any order into few acknowledgements:
/// one for all up to a tag where order allows, single ones for the rest.
#[derive(Debug, Default)]
pub struct AckBook {
    /// Tag of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    InWork,
    Done,
    Answered,
}

impl AckBook {
    pub fn new() -> Self {
        Self {
            first: 1,
            entries: VecDeque::new(),
        }
    }

    /// A delivery came in; tags come in order.
    pub fn delivered(&mut self, tag: u64) {
        debug_assert_eq!(tag, self.first + self.entries.len() as u64);
        self.entries.push_back(Entry::InWork);
    }

    /// Everything that the delivery takes is confirmed.
    pub fn done(&mut self, tag: u64) {
        self.set(tag, Entry::Done);
    }

    /// The delivery was given back.
    pub fn given_back(&mut self, tag: u64) {
        self.set(tag, Entry::Answered);
    }

    fn set(&mut self, tag: u64, entry: Entry) {
        let index = tag.checked_sub(self.first).map(|n| n as usize);
        if let Some(slot) = index.and_then(|n| self.entries.get_mut(n)) {
            *slot = entry;
        }
    }

    /// One acknowledgement for the unbroken run of completions at the front, if there is one.
    pub fn front(&mut self) -> Option<Acknowledgement> {
        let mut last_done = None;
        while let Some(entry) = self.entries.front() {
            match entry {
                Entry::InWork => break,
                Entry::Done => last_done = Some(self.first),
                Entry::Answered => {}
            }
            self.entries.pop_front();
            self.first += 1;
        }
        last_done.map(|tag| Acknowledgement::Ack {
            tag,
            multiple: true,
        })
    }

    /// [`Self::front`], then one acknowledgement for each completion behind a gap.
    pub fn all(&mut self) -> Vec<Acknowledgement> {
        let mut answers: Vec<_> = self.front().into_iter().collect();
        for (n, entry) in self.entries.iter_mut().enumerate() {
            if *entry == Entry::Done {
                *entry = Entry::Answered;
                answers.push(Acknowledgement::Ack {
                    tag: self.first + n as u64,
                    multiple: false,
                });
            }
        }
        answers
    }

    /// Tags that nobody has answered for.
    pub fn in_work(&self) -> impl Iterator<Item = u64> + '_ {
        let tags = self.entries.iter().enumerate();
        tags.filter(|(_, entry)| **entry == Entry::InWork)
            .map(|(n, _)| self.first + n as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ack(tag: u64, multiple: bool) -> Acknowledgement {
        Acknowledgement::Ack { tag, multiple }
    }

    #[test]
    fn completions_in_order_take_one_acknowledgement() {
        let mut book = AckBook::new();
        (1..=5).for_each(|tag| book.delivered(tag));
        (1..=4).for_each(|tag| book.done(tag));
        assert_eq!(book.all(), [ack(4, true)]);
        book.done(5);
        assert_eq!(book.front(), Some(ack(5, true)));
        assert_eq!(book.front(), None);
    }

    #[test]
    fn a_gap_is_never_acknowledged_over() {
        let mut book = AckBook::new();
        (1..=4).for_each(|tag| book.delivered(tag));
        book.done(1);
        book.done(3);
        assert_eq!(book.all(), [ack(1, true), ack(3, false)]);
        assert_eq!(book.in_work().collect::<Vec<_>>(), [2, 4]);
        book.done(2);
        assert_eq!(book.all(), [ack(2, true)]);
    }

    proptest! {
        /// The model: a set of tags. Whatever the order of completions and flushes, exactly the
        /// completed deliveries are acknowledged, each once.
        #[test]
        fn exactly_the_completed_deliveries_are_acknowledged(
            order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle(),
            keep in 0usize..=40,
            flush_every in 1usize..10,
        ) {
            let mut book = AckBook::new();
            (1..=40).for_each(|tag| book.delivered(tag));
            let mut open: std::collections::BTreeSet<u64> = (1..=40).collect();
            let mut apply = |answers: Vec<Acknowledgement>| {
                for answer in answers {
                    match answer {
                        Acknowledgement::Ack { tag, multiple: true } => {
                            assert!(open.contains(&tag), "{tag} is acknowledged twice");
                            open.retain(|t| *t > tag);
                        }
                        Acknowledgement::Ack { tag, .. } => assert!(open.remove(&tag)),
                        Acknowledgement::GiveBack { .. } => unreachable!(),
                    }
                }
            };
            for (n, tag) in order[..keep].iter().enumerate() {
                book.done(*tag);
                if n % flush_every == 0 {
                    apply(if n % 2 == 0 { book.all() } else { book.front().into_iter().collect() });
                }
            }
            apply(book.all());
            let mut left: Vec<u64> = order[keep..].to_vec();
            left.sort_unstable();
            prop_assert_eq!(open.into_iter().collect::<Vec<_>>(), left);
        }
    }
}
