use std::collections::BTreeMap;

use batch::Message;

use crate::broker::{BrokerError, ConnectionLost, Session};
use crate::outbox::Outbox;
use crate::program::POLL_INTERVAL;
use crate::{Program, Sessions};

/// Messages sent between two checks of the queues, at most: bounds how far a queue is overfilled.
const CHECK_EVERY: usize = 1000;

/// Why a producer stopped before it was done.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    #[error(transparent)]
    Broker(#[from] BrokerError),
    #[error("stopped before everything was published; begin again, or abandon the run")]
    Stopped,
}

/// The way out of a program that reads no queue. Holds it back while a queue that it fills is too long or the broker
/// has an alarm, and outlives sessions: what is not known to be stored is published again on the next one.
pub struct Producer {
    program: Program,
    sessions: Sessions,
    session: Session,
    outbox: Outbox,
    /// Queues that each output fills.
    readers: BTreeMap<String, Vec<String>>,
    max_queue_len: u64,
    since_check: usize,
    held_back: bool,
}

impl Producer {
    /// Connects and waits until the pipeline is configured. `readers`: for each output the queues that
    /// it fills and that must not grow beyond `max_queue_len` messages.
    pub async fn open(
        program: &Program,
        readers: BTreeMap<String, Vec<String>>,
        max_queue_len: u64,
    ) -> Result<Self, ProducerError> {
        let mut sessions = Sessions::new(program);
        let session = sessions.next().await?.ok_or(ProducerError::Stopped)?;
        Ok(Self {
            program: program.clone(),
            outbox: Outbox::new(program, session.publisher.clone()),
            sessions,
            session,
            readers,
            max_queue_len,
            // The first message checks first.
            since_check: CHECK_EVERY,
            held_back: false,
        })
    }

    /// Publishes `message` to the named output, when there is room.
    pub async fn send(&mut self, output: &str, message: Message) -> Result<(), ProducerError> {
        self.wait_for_room(output).await?;
        self.since_check += 1;
        let shutdown = self.program.app.shutdown.clone();
        // Waits while too many confirms are outstanding: during an alarm, without end.
        let sent = tokio::select! {
            sent = self.outbox.send(output, message) => sent,
            () = shutdown.triggered() => return Err(ProducerError::Stopped),
        };
        match sent {
            Ok(()) => Ok(()),
            Err(ConnectionLost) => self.reconnect().await,
        }
    }

    /// Waits until everything sent is stored.
    pub async fn flush(&mut self) -> Result<(), ProducerError> {
        let shutdown = self.program.app.shutdown.clone();
        loop {
            let flushed = tokio::select! {
                biased;
                flushed = self.outbox.flush() => flushed,
                () = shutdown.triggered() => return Err(ProducerError::Stopped),
            };
            match flushed {
                Ok(()) => return Ok(()),
                Err(ConnectionLost) => self.reconnect().await?,
            }
        }
    }

    /// Ends in good order; everything sent is stored.
    pub async fn close(mut self) -> Result<(), ProducerError> {
        self.flush().await?;
        self.session.close().await;
        Ok(())
    }

    async fn wait_for_room(&mut self, output: &str) -> Result<(), ProducerError> {
        let blocked = self.session.blocked().borrow().is_some();
        let due = self.since_check >= CHECK_EVERY && self.readers.contains_key(output);
        if !due && !blocked && !self.held_back {
            return Ok(());
        }
        self.since_check = 0;
        loop {
            if self.session.is_lost() {
                self.reconnect().await?;
            }
            let Err(why) = self.check_room(output).await else {
                break;
            };
            if !self.held_back {
                tracing::info!(why, "holding back");
                self.program.app.health.set("room", Err(why));
                self.held_back = true;
            }
            if !self.program.pause(POLL_INTERVAL).await {
                return Err(ProducerError::Stopped);
            }
        }
        if std::mem::take(&mut self.held_back) {
            tracing::info!("sending again");
            self.program.app.health.set("room", Ok(()));
        }
        Ok(())
    }

    /// Why nothing may be sent at the moment, if so. If it is the session's fault, the next check has another one.
    async fn check_room(&self, output: &str) -> Result<(), String> {
        if let Some(reason) = self.session.blocked().borrow().clone() {
            return Err(format!("the broker has an alarm: {reason}"));
        }
        let queues = self.readers.get(output).map_or(&[][..], Vec::as_slice);
        self.session.check_room(queues, self.max_queue_len).await
    }

    /// Begins a new session and publishes what is not known to be stored. Repeated messages are harmless:
    /// tasks and receipts count once, whatever the number of their copies.
    async fn reconnect(&mut self) -> Result<(), ProducerError> {
        let shutdown = self.program.app.shutdown.clone();
        let mut made_progress = true;
        while !shutdown.is_triggered() {
            self.session.close().await;
            let cause = self.session.lost().await;
            tracing::info!(unconfirmed = self.outbox.len(), "to be published again");
            self.sessions.lost(&cause, made_progress).await;
            let Some(session) = self.sessions.next().await? else {
                break;
            };
            self.session = session;
            tokio::select! {
                resent = self.outbox.resend(&self.session) => if resent.is_ok() { return Ok(()) },
                () = shutdown.triggered() => break,
            }
            made_progress = false;
        }
        Err(ProducerError::Stopped)
    }
}
