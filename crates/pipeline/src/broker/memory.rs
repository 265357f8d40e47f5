mod subscription;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use batch::Message;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::session::{Backend, ChannelCommand};
use super::{
    Acknowledgement, BrokerError, Confirm, ConnectionState, MessageLimit, Publication, Publisher,
    Request, Session,
};
pub(crate) use subscription::MemoryConnection;

/// A broker in memory that behaves as RabbitMQ does where the loops depend on it: durable queues,
/// prefetch, confirms, unroutable messages, bounds, delays, delivery limits, streams, and the ways
/// to fail. Its time is tokio's, so tests can pause it.
#[derive(Clone, Default)]
pub struct Memory {
    state: Arc<Mutex<MemoryState>>,
    /// Something happened that a subscription or a held confirm may wait for.
    changed: Arc<Notify>,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

/// Arguments of a queue in memory.
#[derive(Debug, Clone, Default)]
pub struct QueueOptions {
    /// Messages move on to queue `dead_letter` after this time.
    pub ttl: Option<Duration>,
    /// Queue for messages whose time or deliveries are used up.
    pub dead_letter: Option<String>,
    /// Deliveries without an acknowledgement, after which a message moves on.
    pub delivery_limit: Option<u32>,
    /// Messages that it holds at most; further ones are refused.
    pub max_length: Option<usize>,
}

#[derive(Default)]
struct MemoryState {
    queues: BTreeMap<String, MemoryQueue>,
    /// Exchange → (routing key, queue).
    exchanges: BTreeMap<String, Vec<(String, String)>>,
    connections: Vec<ConnectionState>,
    leases: BTreeMap<String, LeaseHolder>,
    sessions: u64,
    confirms_held: bool,
    refuses_connections: bool,
    blocked: Option<String>,
}

#[derive(Default)]
struct MemoryQueue {
    options: QueueOptions,
    ready: VecDeque<QueuedMessage>,
    /// How many of the first were requeued: they are delivered first, in the order in which they came back.
    requeued: usize,
    unacked: Vec<(Holder, QueuedMessage)>,
}

/// Who holds the lease of a queue: until the session is lost, or the subscription is dropped.
struct LeaseHolder {
    connection: ConnectionState,
    commands: mpsc::WeakUnboundedSender<ChannelCommand>,
}

impl LeaseHolder {
    fn is_over(&self) -> bool {
        self.connection.is_lost() || self.commands.upgrade().is_none()
    }
}

#[derive(Clone)]
struct QueuedMessage {
    message: Message,
    delivery_count: u32,
    death: Option<String>,
    since: Instant,
}

/// Which delivery of which subscription.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Holder {
    subscription: u64,
    tag: u64,
}

impl Memory {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn declare_queue(&self, name: &str, options: QueueOptions) {
        self.lock()
            .queues
            .entry(name.to_owned())
            .or_default()
            .options = options;
    }

    pub fn declare_exchange(&self, name: &str) {
        self.lock().exchanges.entry(name.to_owned()).or_default();
    }

    pub fn bind(&self, exchange: &str, routing_key: &str, queue: &str) {
        let binding = (routing_key.to_owned(), queue.to_owned());
        let mut state = self.lock();
        state
            .exchanges
            .entry(exchange.to_owned())
            .or_default()
            .push(binding);
    }

    pub fn delete_queue(&self, name: &str) {
        self.lock().queues.remove(name);
    }

    /// Ends every session, as a broker that restarts does: what is unacknowledged returns to its queue.
    pub fn disconnect(&self, cause: &str) {
        let connections = std::mem::take(&mut self.lock().connections);
        connections
            .iter()
            .for_each(|connection| connection.fail(cause));
        self.changed.notify_waiters();
    }

    /// Confirms are stored up until [`Self::release_confirms`].
    pub fn hold_confirms(&self) {
        self.lock().confirms_held = true;
    }

    pub fn release_confirms(&self) {
        self.lock().confirms_held = false;
        self.changed.notify_waiters();
    }

    pub fn refuse_connections(&self, refuse: bool) {
        self.lock().refuses_connections = refuse;
    }

    /// Raises or clears a resource alarm.
    pub fn block(&self, reason: Option<&str>) {
        let mut state = self.lock();
        state.blocked = reason.map(str::to_owned);
        let blocked = state.blocked.clone();
        state
            .connections
            .iter()
            .for_each(|connection| connection.block(blocked.clone()));
        drop(state);
        self.changed.notify_waiters();
    }

    /// Ready messages of a queue, first to last.
    pub fn ready(&self, queue: &str) -> Vec<Message> {
        let state = self.lock();
        let queue = state.queues.get(queue);
        let entries = queue.into_iter().flat_map(|queue| &queue.ready);
        entries.map(|entry| entry.message.clone()).collect()
    }

    /// Messages of a queue that are delivered and not acknowledged.
    pub fn unacked(&self, queue: &str) -> usize {
        self.lock()
            .queues
            .get(queue)
            .map_or(0, |queue| queue.unacked.len())
    }

    /// Hands out what [`super::Broker::read_stream_from`] does, and returns the offset of the end.
    pub(super) fn read_stream(
        &self,
        stream: &str,
        from: u64,
        mut take: impl FnMut(u64, Message),
    ) -> u64 {
        let messages = self.ready(stream);
        let end = messages.len() as u64;
        let from = if from > end { 0 } else { from };
        let wanted = (0..).zip(messages).filter(|(offset, _)| *offset >= from);
        wanted.for_each(|(offset, message)| take(offset, message));
        end
    }

    /// The message at `offset` of a stream, once there is one.
    pub(super) async fn stream_message(&self, stream: &str, offset: u64) -> Message {
        loop {
            let changed = self.changed.notified();
            if let Some(message) = self.ready(stream).get(offset as usize) {
                return message.clone();
            }
            changed.await;
        }
    }

    pub(super) async fn connect(&self) -> Result<Session, BrokerError> {
        let connection = ConnectionState::default();
        {
            let mut state = self.lock();
            if state.refuses_connections {
                return Err(BrokerError::Refused {
                    address: "memory".into(),
                    detail: "connections are refused".into(),
                });
            }
            connection.block(state.blocked.clone());
            state.connections.push(connection.clone());
        }
        let (publisher, requests) = Publisher::new(MessageLimit::default());
        tokio::spawn(self.clone().publish(requests, connection.clone()));
        Ok(Session {
            publisher,
            state: connection,
            backend: Backend::Memory(MemoryConnection(self.clone())),
        })
    }

    fn lock(&self) -> MutexGuard<'_, MemoryState> {
        self.state
            .lock()
            .expect("no test panics while it holds the broker")
    }

    async fn publish(self, mut requests: mpsc::Receiver<Request>, connection: ConnectionState) {
        loop {
            let request = tokio::select! {
                biased;
                _ = connection.lost() => return,
                request = requests.recv() => request,
            };
            let Some(request) = request else { return };
            let taking = async {
                self.until(|state| state.blocked.is_none()).await;
                let confirm = self.lock().route(&request.publication);
                self.changed.notify_waiters();
                confirm
            };
            let confirm = tokio::select! {
                biased;
                _ = connection.lost() => return,
                confirm = taking => confirm,
            };
            let (memory, connection) = (self.clone(), connection.clone());
            tokio::spawn(async move {
                tokio::select! {
                    biased;
                    _ = connection.lost() => {}
                    () = memory.until(|state| !state.confirms_held) => {
                        let _ = request.confirm.send(confirm);
                        drop(request.permit);
                    }
                }
            });
        }
    }

    async fn until(&self, condition: impl Fn(&MemoryState) -> bool) {
        loop {
            let changed = self.changed.notified();
            if condition(&self.lock()) {
                return;
            }
            changed.await;
        }
    }
}

impl MemoryQueue {
    fn pop(&mut self) -> Option<QueuedMessage> {
        self.requeued = self.requeued.saturating_sub(1);
        self.ready.pop_front()
    }
}

impl MemoryState {
    fn route(&mut self, publication: &Publication) -> Confirm {
        let key = &publication.routing_key;
        let targets: Vec<String> = if publication.exchange.is_empty() {
            vec![key.clone()]
        } else {
            let bindings = self.exchanges.get(&publication.exchange);
            let bindings = bindings.into_iter().flatten();
            bindings
                .filter(|(k, _)| k == key)
                .map(|(_, queue)| queue.clone())
                .collect()
        };
        let targets: Vec<_> = targets
            .into_iter()
            .filter(|t| self.queues.contains_key(t))
            .collect();
        if targets.is_empty() {
            return Confirm::Unroutable;
        }
        let full = |queue: &MemoryQueue| {
            queue
                .options
                .max_length
                .is_some_and(|max| queue.ready.len() >= max)
        };
        if targets.iter().any(|target| full(&self.queues[target])) {
            return Confirm::Refused;
        }
        for target in targets {
            self.push(&target, publication.message.clone(), None);
        }
        Confirm::Stored
    }

    fn push(&mut self, queue: &str, message: Message, death: Option<String>) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.ready.push_back(QueuedMessage {
                message,
                delivery_count: 0,
                death,
                since: Instant::now(),
            });
        }
    }

    /// Moves what has waited long enough; returns when the next message will have.
    fn expire(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        let mut expired = Vec::new();
        for queue in self.queues.values_mut() {
            let Some(ttl) = queue.options.ttl else {
                continue;
            };
            while queue
                .ready
                .front()
                .is_some_and(|entry| entry.since + ttl <= now)
            {
                let entry = queue.pop().expect("it has a front");
                expired.push((queue.options.dead_letter.clone(), entry.message));
            }
            let due = queue.ready.front().map(|entry| entry.since + ttl);
            next = next.into_iter().chain(due).min();
        }
        for (target, message) in expired {
            if let Some(target) = target {
                self.push(&target, message, Some("expired".into()));
            }
        }
        next
    }

    fn acknowledge(&mut self, queue: &str, subscription: u64, acknowledgement: Acknowledgement) {
        let Some(queue) = self.queues.get_mut(queue) else {
            return;
        };
        match acknowledgement {
            Acknowledgement::Ack { tag, multiple } => queue.unacked.retain(|(holder, _)| {
                let meant = holder.tag == tag || (multiple && holder.tag < tag);
                holder.subscription != subscription || !meant
            }),
            Acknowledgement::Requeue { tag } => {
                let requeued = Holder { subscription, tag };
                self.requeue(|holder| *holder == requeued);
            }
        }
    }

    /// Returns deliveries to their queue, before all that were never delivered, or past the limit to the next queue.
    fn requeue(&mut self, which: impl Fn(&Holder) -> bool) {
        let mut dead = Vec::new();
        for queue in self.queues.values_mut() {
            let taken = queue.unacked.extract_if(.., |(holder, _)| which(holder));
            let taken: Vec<_> = taken.collect();
            for (_, mut entry) in taken {
                entry.delivery_count += 1;
                match queue.options.delivery_limit {
                    Some(limit) if entry.delivery_count > limit => {
                        dead.push((queue.options.dead_letter.clone(), entry.message));
                    }
                    _ => {
                        queue.ready.insert(queue.requeued, entry);
                        queue.requeued += 1;
                    }
                }
            }
        }
        for (target, message) in dead {
            if let Some(target) = target {
                self.push(&target, message, Some("delivery_limit".into()));
            }
        }
    }
}
