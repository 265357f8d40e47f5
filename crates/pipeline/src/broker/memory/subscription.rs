use tokio::sync::mpsc;

use super::{Holder, LeaseHolder, Memory, QueuedMessage};
use crate::broker::session::{ChannelCommand, Lease};
use crate::broker::{BrokerError, ConnectionState, Delivery, Subscription};

/// One session's way to the broker's state.
#[derive(Clone)]
pub(crate) struct MemoryConnection(pub(super) Memory);

impl MemoryConnection {
    pub fn subscribe(
        &self,
        queue: &str,
        prefetch: u16,
        connection: &ConnectionState,
    ) -> Result<Subscription, BrokerError> {
        let mut state = self.0.lock();
        if !state.queues.contains_key(queue) {
            return Err(missing("queue", queue));
        }
        state.sessions += 1;
        let subscription = state.sessions;
        drop(state);
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch).max(1));
        let (commands, receiver) = mpsc::unbounded_channel();
        let reader = QueueReader {
            memory: self.0.clone(),
            queue: queue.to_owned(),
            subscription,
            prefetch: usize::from(prefetch),
            next_tag: 1,
            cancelled: false,
        };
        tokio::spawn(reader.run(sender, receiver, connection.clone()));
        Ok(Subscription {
            deliveries,
            commands,
        })
    }

    /// As [`crate::broker::Session::lease`].
    pub fn lease(
        &self,
        queue: &str,
        connection: &ConnectionState,
    ) -> Result<Option<Lease>, BrokerError> {
        let subscription = self.subscribe(queue, 1, connection)?;
        let mut state = self.0.lock();
        if state.leases.get(queue).is_some_and(|held| !held.is_over()) {
            return Ok(None);
        }
        let holder = LeaseHolder {
            connection: connection.clone(),
            commands: subscription.commands.downgrade(),
        };
        state.leases.insert(queue.to_owned(), holder);
        Ok(Some(Lease::new(subscription)))
    }

    pub fn exchange_exists(&self, name: &str) -> bool {
        self.0.lock().exchanges.contains_key(name)
    }

    pub fn queue_length(&self, name: &str) -> Result<u64, BrokerError> {
        let state = self.0.lock();
        let queue = state
            .queues
            .get(name)
            .ok_or_else(|| missing("queue", name))?;
        Ok(queue.ready.len() as u64)
    }
}

fn missing(object: &'static str, name: &str) -> BrokerError {
    BrokerError::NotFound {
        object,
        name: name.to_owned(),
        detail: "NOT_FOUND - no such object".into(),
    }
}

/// Delivers from a queue to one subscription.
struct QueueReader {
    memory: Memory,
    queue: String,
    subscription: u64,
    prefetch: usize,
    next_tag: u64,
    cancelled: bool,
}

impl QueueReader {
    async fn run(
        mut self,
        sender: mpsc::Sender<Delivery>,
        mut commands: mpsc::UnboundedReceiver<ChannelCommand>,
        connection: ConnectionState,
    ) {
        let memory = self.memory.clone();
        loop {
            let changed = memory.changed.notified();
            let due = memory.lock().expire();
            if !self.cancelled {
                while let Some(delivery) = self.take() {
                    if sender.try_send(delivery).is_err() {
                        break;
                    }
                }
            }
            let due = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                _ = connection.lost() => break,
                command = commands.recv() => match command {
                    Some(ChannelCommand::Acknowledgement(acknowledgement)) => {
                        memory.lock().acknowledge(&self.queue, self.subscription, acknowledgement);
                        memory.changed.notify_waiters();
                    }
                    Some(ChannelCommand::Cancel) => self.cancelled = true,
                    Some(ChannelCommand::Close(done)) => {
                        self.end();
                        let _ = done.send(());
                        return;
                    }
                    None => break,
                },
                () = changed => {}
                () = due => {}
            }
        }
        self.end();
    }

    fn take(&mut self) -> Option<Delivery> {
        let mut state = self.memory.lock();
        let queue = state.queues.get_mut(&self.queue)?;
        let mine =
            |(holder, _): &&(Holder, QueuedMessage)| holder.subscription == self.subscription;
        if queue.options.ttl.is_some() || queue.unacked.iter().filter(mine).count() >= self.prefetch
        {
            return None;
        }
        let entry = queue.pop()?;
        let holder = Holder {
            subscription: self.subscription,
            tag: self.next_tag,
        };
        self.next_tag += 1;
        let delivery = Delivery {
            message: entry.message.clone(),
            tag: holder.tag,
            delivery_count: entry.delivery_count,
            death: entry.death.clone(),
        };
        queue.unacked.push((holder, entry));
        Some(delivery)
    }

    fn end(&self) {
        let subscription = self.subscription;
        self.memory
            .lock()
            .requeue(|holder| holder.subscription == subscription);
        self.memory.changed.notify_waiters();
    }
}
