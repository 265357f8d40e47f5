use std::sync::Arc;
use std::time::Duration;

use batch::{Failure, Invalid, Message, header};

use tokio::sync::Notify;

use crate::broker::{Publication, Publisher};
use crate::unconfirmed::Unconfirmed;
use crate::{Program, names, now_ms};

/// The connection to the broker went away while a message was in work. It will be delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the connection to the broker was lost while the message was in work; it will be delivered again"
)]
pub struct Lost;

/// One delivered message in the hands of a role, with the way to its outputs.
pub struct Job {
    message: Message,
    attempt: u32,
    program: Program,
    publisher: Publisher,
    unconfirmed: Unconfirmed,
    abandoned: Arc<Notify>,
}

impl Job {
    pub(crate) fn new(
        message: Message,
        attempt: u32,
        program: Program,
        publisher: Publisher,
    ) -> Self {
        Self {
            message,
            attempt,
            program,
            publisher,
            unconfirmed: Unconfirmed::default(),
            abandoned: Arc::default(),
        }
    }

    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Names this try at the message: 1 for the first, and another, greater number for every later one, be it a
    /// retry, a snooze or a redelivery, also of an older copy of the message.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Publishes `message` to the named output, waiting while too many confirms are outstanding.
    /// The job's own message is acknowledged only after the confirm. Never resolves once the connection is lost:
    /// the loop cancels the job then.
    pub async fn send(&mut self, output: &str, message: Message) {
        let sent = self.try_send(output, message).await;
        self.or_abandon(sent).await;
    }

    /// Keeps `part`, the rows of the job's message that can never be stored, in quarantine.
    /// The history of the message comes first in it, `why` last. Never resolves once the connection is lost.
    pub async fn quarantine_rows(&mut self, part: Message, why: &Invalid) {
        let sent = self.try_quarantine(part, why).await;
        self.or_abandon(sent).await;
    }

    pub(crate) async fn try_send(&mut self, output: &str, message: Message) -> Result<(), Lost> {
        self.program.count_sent("out");
        let exchange = names::output_exchange(self.program.name());
        self.publish(Publication {
            exchange,
            routing_key: output.to_owned(),
            message,
        })
        .await
    }

    pub(crate) async fn try_quarantine(
        &mut self,
        part: Message,
        why: &Invalid,
    ) -> Result<(), Lost> {
        self.program.count_sent("quar");
        let message = self.with_reason(part, why);
        let queue = names::quarantine_queue(self.program.name());
        self.publish(Publication::to_queue(queue, message)).await
    }

    /// What cannot be sent any more ends the whole job: the role is not asked, and its message is delivered again.
    async fn or_abandon(&self, sent: Result<(), Lost>) {
        if let Err(Lost) = sent {
            self.abandoned.notify_one();
            std::future::pending().await
        }
    }

    /// Has `abandoned` notified when the job cannot be finished, so that its task ends at once.
    pub(crate) fn abandon_through(&mut self, abandoned: &Arc<Notify>) {
        self.abandoned = abandoned.clone();
    }

    /// Resolves when the program is told to stop: long waits should end then with
    /// [`Outcome::Snooze`].
    pub async fn stopping(&self) {
        self.program.app.shutdown.triggered().await;
    }

    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    pub(crate) fn with_reason(&self, mut message: Message, why: &Invalid) -> Message {
        message.headers.set(header::REASON, why.reason.as_str());
        message.headers.set(header::PROGRAM, self.program.name());
        message.headers.add_failure(self.failure(&why.detail, ""));
        message
    }

    pub(crate) fn failure(&self, what: &str, at: &str) -> Failure {
        Failure {
            who: self.program.name().to_owned(),
            host: self.program.app.host.to_string(),
            when_ms: now_ms(),
            what: what.to_owned(),
            r#where: at.to_owned(),
            times: 1,
        }
    }

    pub(crate) async fn publish(&mut self, publication: Publication) -> Result<(), Lost> {
        let app = &self.program.app;
        self.unconfirmed
            .publish(&self.publisher, app, publication)
            .await
    }

    /// Waits until every output of the message is stored.
    pub(crate) async fn confirmed(&mut self) -> Result<(), Lost> {
        self.unconfirmed
            .settle(&self.publisher, &self.program.app)
            .await
    }

    /// [`Self::confirmed`] for as long as `patience`; then whether they are all stored, and no longer waited for.
    pub(crate) async fn confirmed_within(&mut self, patience: Duration) -> Result<bool, Lost> {
        self.unconfirmed
            .settle_within(patience, &self.publisher, &self.program.app)
            .await
    }
}
