use batch::Message;

use crate::broker::{BrokerError, ConnectionLost, Lease, Session};
use crate::outbox::Outbox;
use crate::program::POLL_INTERVAL;
use crate::{Program, Sessions, names};

/// The one active process of a program. The lease belongs to the session: a process that loses the connection
/// loses the lease with it, and everything that was not confirmed.
pub struct Leader {
    session: Session,
    outbox: Outbox,
    _lease: Lease,
}

impl Sessions {
    /// Waits until no other process of the program is active. `None` when the program is stopped.
    pub async fn elect(&mut self) -> Result<Option<Leader>, BrokerError> {
        while let Some(session) = self.next().await? {
            let cause = match wait_for_lease(&self.program, &session).await {
                Ok(Some(lease)) => {
                    return Ok(Some(Leader {
                        outbox: Outbox::new(&self.program, session.publisher.clone()),
                        session,
                        _lease: lease,
                    }));
                }
                Ok(None) if self.program.app.shutdown.is_triggered() => {
                    session.close().await;
                    break;
                }
                Ok(None) => session.lost().await,
                Err(error) => {
                    let health = &self.program.app.health;
                    health.set("lease", Err(error.to_string()));
                    error.to_string()
                }
            };
            session.close().await;
            self.lost(&cause, false).await;
        }
        Ok(None)
    }
}

/// `None` when the program is stopped, or the session is lost first.
async fn wait_for_lease(
    program: &Program,
    session: &Session,
) -> Result<Option<Lease>, BrokerError> {
    let queue = names::lease_queue(program.name());
    let mut logged = false;
    loop {
        let lease = session.lease(&queue).await?;
        program.app.health.set("lease", Ok(()));
        if lease.is_some() {
            tracing::info!(queue, "this process is the active one");
            return Ok(lease);
        }
        if !logged {
            tracing::info!(queue, "another process is active; standing by");
            logged = true;
        }
        tokio::select! {
            running = program.pause(POLL_INTERVAL) => if !running { return Ok(None) },
            _ = session.lost() => return Ok(None),
        }
    }
}

impl Leader {
    /// Publishes to an output, waiting while too many confirms are outstanding; [`Self::flush`] waits for the confirm.
    /// Neither waits any longer when the program is stopped.
    pub async fn send(&mut self, output: &str, message: Message) -> Result<(), ConnectionLost> {
        let shutdown = self.outbox.program().app.shutdown.clone();
        // During an alarm of the broker nothing is confirmed, for as long as it takes.
        tokio::select! {
            sent = self.outbox.send(output, message) => sent,
            () = shutdown.triggered() => Err(ConnectionLost),
        }
    }

    /// Waits until everything sent is stored.
    pub async fn flush(&mut self) -> Result<(), ConnectionLost> {
        let shutdown = self.outbox.program().app.shutdown.clone();
        tokio::select! {
            biased;
            flushed = self.outbox.flush() => flushed,
            () = shutdown.triggered() => Err(ConnectionLost),
        }
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Gives the lease up, for the next process to take.
    pub async fn close(self) {
        self.session.close().await;
    }
}
