use std::time::Duration;

use batch::Message;

use crate::broker::{BrokerError, Lease, Publication, Session};
use crate::unconfirmed::Unconfirmed;
use crate::{Lost, Program, names};

/// How often a process that waits for the lease looks whether it is free.
const LOOK: Duration = Duration::from_secs(1);

/// The one process of a program that is at work. The lease is the session's: whoever loses the connection
/// has lost it, together with everything that was not confirmed.
pub struct Lead {
    program: Program,
    session: Session,
    unconfirmed: Unconfirmed,
    _lease: Lease,
}

/// Connects, waits until the pipeline is configured, and then until no other process of the program is at work.
/// `None` when told to stop.
pub async fn lead(program: &Program) -> Result<Option<Lead>, BrokerError> {
    loop {
        let Some(session) = program.connect().await? else {
            return Ok(None);
        };
        match stand_by(program, &session).await {
            Ok(Some(lease)) => {
                return Ok(Some(Lead {
                    program: program.clone(),
                    session,
                    unconfirmed: Unconfirmed::default(),
                    _lease: lease,
                }));
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the lease cannot be taken; trying again");
                program.app.health.set("lease", Err(error.to_string()));
            }
        }
        session.close().await;
        tokio::select! {
            () = program.app.shutdown.triggered() => return Ok(None),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// Waits for the lease. `None` when told to stop, or when the session is lost first.
async fn stand_by(program: &Program, session: &Session) -> Result<Option<Lease>, BrokerError> {
    let queue = names::lease_queue(program.name());
    let mut said = false;
    while program.configured(session).await? {
        let lease = session.lease(&queue).await?;
        program.app.health.set("lease", Ok(()));
        if lease.is_some() {
            tracing::info!(queue, "this process is the one at work");
            return Ok(lease);
        }
        if !said {
            tracing::info!(queue, "another process is at work; standing by");
            said = true;
        }
        tokio::select! {
            () = program.app.shutdown.triggered() => return Ok(None),
            _ = session.lost() => return Ok(None),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(None)
}

impl Lead {
    /// Publishes to an output, waiting while too many confirms are outstanding; [`Self::flush`] waits for the confirm.
    /// Neither waits any longer when the program is told to stop.
    pub async fn send(&mut self, output: &str, message: Message) -> Result<(), Lost> {
        self.program.count_sent("out");
        let publication = Publication {
            exchange: names::output_exchange(self.program.name()),
            routing_key: output.to_owned(),
            message,
        };
        let app = &self.program.app;
        let published = self
            .unconfirmed
            .publish(&self.session.publisher, app, publication);
        // During an alarm of the broker nothing is confirmed, for as long as it takes.
        tokio::select! {
            published = published => published,
            () = app.shutdown.triggered() => Err(Lost),
        }
    }

    /// Waits until everything sent is stored.
    pub async fn flush(&mut self) -> Result<(), Lost> {
        let app = &self.program.app;
        tokio::select! {
            biased;
            settled = self.unconfirmed.settle(&self.session.publisher, app) => settled,
            () = app.shutdown.triggered() => Err(Lost),
        }
    }

    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Resolves with the cause when the lease is lost.
    pub async fn lost(&self) -> String {
        self.session.lost().await
    }

    /// Gives the lease up, for the next process to take.
    pub async fn close(self) {
        self.session.close().await;
    }
}
