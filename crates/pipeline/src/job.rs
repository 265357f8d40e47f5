use std::sync::Arc;

use batch::{Fact, Failure, Headers, Invalid, Message, RunId, header};
use tokio::sync::Notify;

use crate::broker::{ConnectionLost, Publisher};
use crate::outbox::Outbox;
use crate::{Program, RECEIPTS, now_ms, receipt};

/// One delivered message that a role processes, with the way to its outputs.
pub struct Job {
    message: Message,
    attempt: u32,
    pub(crate) outbox: Outbox,
    abandoned: Arc<Notify>,
}

impl Job {
    pub(crate) fn new(
        message: Message,
        attempt: u32,
        program: &Program,
        publisher: Publisher,
    ) -> Self {
        Self {
            message,
            attempt,
            outbox: Outbox::new(program, publisher),
            abandoned: Arc::default(),
        }
    }

    pub fn message(&self) -> &Message {
        &self.message
    }

    /// The headers that the message has at its next try, or in quarantine.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.message.headers
    }

    /// Names this try at the message: 1 for the first, and a greater number for every later one after a retry, a snooze
    /// or a redelivery, also of an older copy of the message.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Publishes `message` to the named output, waiting while too many confirms are outstanding.
    /// The job's own message is acknowledged only after the confirm. Never resolves once the connection is lost:
    /// the loop cancels the job then.
    pub async fn send(&mut self, output: &str, message: Message) {
        let sent = self.outbox.send(output, message).await;
        self.or_abandon(sent).await;
    }

    /// Sends the ledger what happened in a run, as [`Self::send`] does.
    pub async fn report(&mut self, run: &RunId, fact: Fact) {
        self.send(RECEIPTS, receipt(run, fact).to_message()).await;
    }

    /// Keeps `part`, the rows of the job's message that can never be stored, in quarantine.
    /// The history of the message comes first in it, `why` last. Never resolves once the connection is lost.
    pub async fn quarantine_rows(&mut self, part: Message, why: &Invalid) {
        let message = self.with_reason(part, why);
        let sent = self.outbox.quarantine(message).await;
        self.or_abandon(sent).await;
    }

    /// Bytes of the largest message that the broker takes; `None` while it has refused none. What is larger must not be
    /// sent: it would end the session, and the job would begin again.
    pub fn max_message_bytes(&self) -> Option<usize> {
        self.outbox.max_message_bytes()
    }

    /// Resolves when the program is stopped: long waits should end then with [`crate::Outcome::Snooze`].
    pub async fn stopping(&self) {
        self.program().app.shutdown.triggered().await;
    }

    /// What can no longer be sent ends the whole job, at whatever point the role is: its message is delivered again.
    async fn or_abandon(&self, sent: Result<(), ConnectionLost>) {
        if let Err(ConnectionLost) = sent {
            self.abandoned.notify_one();
            std::future::pending().await
        }
    }

    /// Has `abandoned` notified when the job cannot be finished, so that its task ends at once.
    pub(crate) fn abandon_through(&mut self, abandoned: &Arc<Notify>) {
        self.abandoned = abandoned.clone();
    }

    pub(crate) fn program(&self) -> &Program {
        self.outbox.program()
    }

    /// `message` as it goes to quarantine.
    pub(crate) fn with_reason(&self, mut message: Message, why: &Invalid) -> Message {
        message.headers.set(header::REASON, why.reason.as_str());
        message.headers.set(header::PROGRAM, self.program().name());
        message.headers.add_failure(self.failure(&why.detail, ""));
        message
    }

    pub(crate) fn failure(&self, what: &str, at: &str) -> Failure {
        Failure {
            who: self.program().name().to_owned(),
            host: self.program().app.host.to_string(),
            when_ms: now_ms(),
            what: what.to_owned(),
            r#where: at.to_owned(),
            times: 1,
            first_ms: None,
        }
    }
}
