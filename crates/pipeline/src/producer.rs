use std::collections::BTreeMap;
use std::time::Duration;

use batch::Message;

use crate::broker::{BrokerError, Publication, Session};
use crate::unconfirmed::Unconfirmed;
use crate::{Lost, Program, history, names};

/// How often a producer looks at the queues that it fills.
const LOOK: Duration = Duration::from_secs(1);
/// Messages sent between two looks, at most: bounds how far a queue is overfilled.
const LOOK_AFTER: usize = 1000;

/// Why a producer stopped before it was done.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("told to stop before everything was published; begin again, or give the run up")]
    Stopped,
}

/// The way out of a producer. Holds it back while a queue that it fills is too long or the broker has an
/// alarm, and outlives sessions: what is not known to be stored is published again on the next one.
pub struct Sender {
    program: Program,
    session: Session,
    unconfirmed: Unconfirmed,
    /// Queues that each output fills.
    readers: BTreeMap<String, Vec<String>>,
    max_queue_len: u64,
    since_look: usize,
    held_back: bool,
}

impl Sender {
    /// Connects and waits until the pipeline is configured. `readers`: for each output the queues that
    /// it fills and that must not grow beyond `max_queue_len` messages.
    pub async fn open(
        program: &Program,
        readers: BTreeMap<String, Vec<String>>,
        max_queue_len: u64,
    ) -> Result<Self, ProducerError> {
        Ok(Self {
            program: program.clone(),
            session: session(program).await?,
            unconfirmed: Unconfirmed::default(),
            readers,
            max_queue_len,
            // The first message looks first.
            since_look: LOOK_AFTER,
            held_back: false,
        })
    }

    /// Publishes `message` to the named output, when there is room.
    pub async fn send(&mut self, output: &str, message: Message) -> Result<(), ProducerError> {
        self.wait_for_room(output).await?;
        self.since_look += 1;
        self.program.count_sent("out");
        let publication = Publication {
            exchange: names::output_exchange(self.program.name()),
            routing_key: output.to_owned(),
            message,
        };
        let shutdown = self.program.app.shutdown.clone();
        // Waits while too many confirms are outstanding: during an alarm, without end.
        let published = tokio::select! {
            published = self.unconfirmed.publish(&self.session.publisher, &self.program.app, publication) => published,
            () = shutdown.triggered() => return Err(ProducerError::Stopped),
        };
        if let Err(Lost) = published {
            self.begin_again().await?;
        }
        Ok(())
    }

    /// Waits until everything sent is stored.
    pub async fn flush(&mut self) -> Result<(), ProducerError> {
        let app = self.program.app.clone();
        loop {
            let settled = tokio::select! {
                biased;
                settled = self.unconfirmed.settle(&self.session.publisher, &app) => settled,
                () = app.shutdown.triggered() => return Err(ProducerError::Stopped),
            };
            match settled {
                Ok(()) => return Ok(()),
                Err(Lost) => self.begin_again().await?,
            }
        }
    }

    /// What the ledger says up to now, with each receipt that was not spared by a record shown to `see` beside the
    /// `T` of the caller. A reading that is cut off begins again, with nothing seen.
    pub async fn read_history<T: Default>(
        &self,
        see: impl Fn(&mut T, &batch::Receipt),
    ) -> Result<(ledger::Ledger, T), ProducerError> {
        let read = || async {
            let mut seen = T::default();
            let ledger = history::read(&self.program.broker, |r| see(&mut seen, r)).await?;
            Ok((ledger, seen))
        };
        let read = self.program.persistently(read).await?;
        read.ok_or(ProducerError::Stopped)
    }

    /// Ends in good order; everything sent is stored.
    pub async fn close(mut self) -> Result<(), ProducerError> {
        self.flush().await?;
        self.session.close().await;
        Ok(())
    }

    async fn wait_for_room(&mut self, output: &str) -> Result<(), ProducerError> {
        let blocked = self.session.blocked().borrow().clone();
        let due = self.since_look >= LOOK_AFTER && self.readers.contains_key(output);
        if !due && blocked.is_none() && !self.held_back {
            return Ok(());
        }
        self.since_look = 0;
        while let Some(why) = self.no_room(output).await? {
            if !self.held_back {
                tracing::info!(why, "holding back");
                self.program.app.health.set("room", Err(why));
                self.held_back = true;
            }
            tokio::select! {
                () = self.program.app.shutdown.triggered() => return Err(ProducerError::Stopped),
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        if std::mem::take(&mut self.held_back) {
            tracing::info!("going on");
            self.program.app.health.set("room", Ok(()));
        }
        Ok(())
    }

    /// Why nothing may be sent at the moment, if so.
    async fn no_room(&mut self, output: &str) -> Result<Option<String>, ProducerError> {
        if self.session.is_lost() {
            self.begin_again().await?;
        }
        if let Some(reason) = self.session.blocked().borrow().clone() {
            return Ok(Some(format!("the broker has an alarm: {reason}")));
        }
        for queue in self.readers.get(output).cloned().unwrap_or_default() {
            let length = match self.session.queue_length(&queue).await {
                Ok(length) => length,
                // If it is the session's fault, the next look begins with another one.
                Err(error) => return Ok(Some(error.to_string())),
            };
            if length > self.max_queue_len {
                return Ok(Some(format!(
                    "queue {queue} has {length} messages, more than max_queue_len {}",
                    self.max_queue_len
                )));
            }
        }
        Ok(None)
    }

    /// Begins a new session and publishes what is not known to be stored. Repeated messages are harmless:
    /// tasks and receipts count once, whatever the number of their copies.
    async fn begin_again(&mut self) -> Result<(), ProducerError> {
        loop {
            if self.program.app.shutdown.is_triggered() {
                return Err(ProducerError::Stopped);
            }
            let left = self.unconfirmed.take();
            self.session.close().await;
            tracing::warn!(
                unconfirmed = left.len(),
                "session with the broker lost; beginning a new one"
            );
            self.session = session(&self.program).await?;
            let (app, shutdown) = (&self.program.app, &self.program.app.shutdown);
            let mut lost = false;
            for publication in left {
                let published = self
                    .unconfirmed
                    .publish(&self.session.publisher, app, publication);
                tokio::select! {
                    published = published => lost |= published.is_err(),
                    () = shutdown.triggered() => return Err(ProducerError::Stopped),
                }
            }
            if !lost {
                return Ok(());
            }
        }
    }
}

async fn session(program: &Program) -> Result<Session, ProducerError> {
    loop {
        let session = program.connect().await?.ok_or(ProducerError::Stopped)?;
        if program.configured(&session).await? {
            return Ok(session);
        }
        if program.app.shutdown.is_triggered() {
            return Err(ProducerError::Stopped);
        }
    }
}
