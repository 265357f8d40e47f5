use std::collections::VecDeque;
use std::time::Duration;

use batch::Message;
use tokio::sync::oneshot;

use crate::backoff::Backoff;
use crate::broker::{Confirm, ConnectionLost, Publication, Publisher, Session};
use crate::{Program, RetrySchedule, names};

/// What programs send from their loops, kept until the confirm has come. A message that the broker refuses or cannot
/// route is published again until it is stored, for dropping it would lose it. A single message outside of a loop,
/// whose sender decides itself what a refusal means, is sent by [`Publisher::publish_and_wait`].
///
/// Methods fail when the connection is lost, and when the program is stopped while the broker refuses something.
/// Everything that is not known to be stored is still there then, for [`Self::resend`].
pub(crate) struct Outbox {
    program: Program,
    publisher: Publisher,
    pending: VecDeque<Pending>,
}

struct Pending {
    publication: Publication,
    state: PendingState,
}

enum PendingState {
    Waiting(oneshot::Receiver<Confirm>),
    Confirmed(Confirm),
    /// The session was lost before it was handed over.
    Unsent,
}

impl Outbox {
    pub fn new(program: &Program, publisher: Publisher) -> Self {
        Self {
            program: program.clone(),
            publisher,
            pending: VecDeque::new(),
        }
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    pub fn max_message_bytes(&self) -> Option<usize> {
        self.publisher.max_message_bytes()
    }

    /// Publishes to an output of the program, waiting while too many confirms are outstanding.
    pub async fn send(&mut self, output: &str, message: Message) -> Result<(), ConnectionLost> {
        self.program.count_sent("out");
        let publication = Publication::to_output(self.program.name(), output, message);
        self.publish(publication).await
    }

    /// Publishes to the program's quarantine.
    pub async fn quarantine(&mut self, message: Message) -> Result<(), ConnectionLost> {
        self.program.count_sent("quar");
        let queue = names::quarantine_queue(self.program.name());
        self.publish(Publication::to_queue(queue, message)).await
    }

    /// Publishes to one of the program's delay queues.
    pub async fn delay(&mut self, message: Message, delay: Duration) -> Result<(), ConnectionLost> {
        self.program.count_sent("delay");
        let queue = RetrySchedule::queue(self.program.name(), delay);
        self.publish(Publication::to_queue(queue, message)).await
    }

    async fn publish(&mut self, publication: Publication) -> Result<(), ConnectionLost> {
        self.forget_stored();
        let published = async {
            // What was refused goes first, so that no more is kept than the window of confirms holds.
            let is_confirmed = |p: &Pending| matches!(p.state, PendingState::Confirmed(_));
            if self.pending.iter().any(is_confirmed) {
                self.flush().await?;
            }
            self.publisher.publish(publication.clone()).await
        };
        let (state, result) = match published.await {
            Ok(confirm) => (PendingState::Waiting(confirm), Ok(())),
            Err(lost) => (PendingState::Unsent, Err(lost)),
        };
        self.pending.push_back(Pending { publication, state });
        result
    }

    /// Waits until everything is stored, publishing again what was refused.
    pub async fn flush(&mut self) -> Result<(), ConnectionLost> {
        let mut backoff = Backoff::new();
        while let Some(problem) = self.wait_for_confirms().await? {
            let (messages, pause) = (self.pending.len(), backoff.next_pause());
            let pause_ms = pause.as_millis() as u64;
            tracing::warn!(error = problem, messages, pause_ms, "publishing again");
            let health = self.program.app.health.clone();
            health.set("publishing", Err(problem));
            if !self.program.pause(pause).await {
                return Err(ConnectionLost);
            }
            self.republish().await?;
            health.set("publishing", Ok(()));
        }
        Ok(())
    }

    /// [`Self::flush`], publishing again for as long as `timeout`. Whether everything is stored; if not, what is not
    /// is dropped.
    pub async fn flush_within(&mut self, timeout: Duration) -> Result<bool, ConnectionLost> {
        if self.wait_for_confirms().await?.is_none() {
            return Ok(true);
        }
        if let Ok(flushed) = tokio::time::timeout(timeout, self.flush()).await {
            return flushed.map(|()| true);
        }
        self.forget_stored();
        let all_stored = self.pending.is_empty();
        self.pending.clear();
        Ok(all_stored)
    }

    /// Continues with another session: publishes everything that is not known to be stored.
    pub async fn resend(&mut self, session: &Session) -> Result<(), ConnectionLost> {
        self.publisher = session.publisher.clone();
        self.forget_stored();
        self.republish().await
    }

    /// Messages that are not known to be stored.
    pub fn len(&self) -> usize {
        self.pending.len()
    }

    async fn republish(&mut self) -> Result<(), ConnectionLost> {
        for pending in &mut self.pending {
            let publication = pending.publication.clone();
            pending.state = PendingState::Waiting(self.publisher.publish(publication).await?);
        }
        Ok(())
    }

    /// Drops what is stored by now, so that a long job holds no more than the window.
    fn forget_stored(&mut self) {
        self.pending.retain_mut(|pending| !pending.is_stored());
    }

    /// Waits until everything is confirmed, and keeps what was refused; returns why the first of it was.
    async fn wait_for_confirms(&mut self) -> Result<Option<String>, ConnectionLost> {
        let mut n = 0;
        while let Some(pending) = self.pending.get_mut(n) {
            let confirm = match &mut pending.state {
                PendingState::Waiting(confirm) => confirm.await.map_err(|_| ConnectionLost)?,
                PendingState::Confirmed(confirm) => confirm.clone(),
                PendingState::Unsent => return Err(ConnectionLost),
            };
            // Remembered, because this wait may be cut off.
            pending.state = PendingState::Confirmed(confirm.clone());
            match confirm {
                Confirm::Stored => drop(self.pending.remove(n)),
                Confirm::Refused | Confirm::Unroutable => n += 1,
            }
        }
        Ok(self.pending.front().map(Pending::problem))
    }
}

impl Pending {
    /// Whether it is stored, as far as is known by now.
    fn is_stored(&mut self) -> bool {
        if let PendingState::Waiting(confirm) = &mut self.state
            && let Ok(confirm) = confirm.try_recv()
        {
            self.state = PendingState::Confirmed(confirm);
        }
        matches!(self.state, PendingState::Confirmed(Confirm::Stored))
    }

    /// Why the broker did not take it.
    fn problem(&self) -> String {
        let Publication {
            exchange,
            routing_key,
            ..
        } = &self.publication;
        let target = if exchange.is_empty() {
            format!("queue {routing_key}")
        } else {
            format!("output {routing_key} of exchange {exchange}")
        };
        if matches!(self.state, PendingState::Confirmed(Confirm::Unroutable)) {
            return format!(
                "no queue takes messages for {target}: configure the pipeline again (fleet pipeline configure)"
            );
        }
        format!(
            "{target} is full: inspect its messages (fleet pipeline qlen, fleet quarantine list)"
        )
    }
}
