//! The worker loop.
//!
//! One session with the broker at a time: deliveries are admitted, gathered into groups, processed with bounded
//! concurrency, finished and acknowledged. What a lost session leaves unacknowledged is delivered again.

mod attempt;
mod calls;
mod consumer_loop;
mod finish;
mod groups;
mod single;

use std::sync::Arc;

use tokio::sync::watch;

pub(crate) use attempt::REDELIVERIES;
use consumer_loop::{ConsumerLoop, SessionEnd};
#[cfg(any(test, feature = "testing"))]
pub(crate) use finish::exhausted;

use crate::broker::{BrokerError, Session};
use crate::program::watch_alarms;
use crate::{BatchWorker, Program, Sessions, Worker, names};

/// Sessions in a row without progress after which messages are taken one by one: each loss counts as a delivery
/// without an acknowledgement for every message in flight.
const ONE_BY_ONE_AFTER: u32 = 2;

/// Runs a role that processes one message at a time, until the program is stopped.
pub async fn run_worker<W: Worker>(program: &Program, worker: W) -> Result<(), BrokerError> {
    run_batch_worker(program, single::Single(worker)).await
}

/// As [`run_worker`], while `intake` is true: as soon as it is not, what is in flight is finished, the rest is
/// requeued, and nothing is consumed until it is true again. Each time costs what is requeued a delivery without an
/// acknowledgement, so `max_deliveries` does not apply: nothing is held against a message that comes often.
pub async fn run_worker_while<W: Worker>(
    program: &Program,
    worker: W,
    intake: watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    run(program, single::Single(worker), Intake::Pausable(intake)).await
}

/// Runs a role that processes groups of messages, until the program is stopped. Fails when the broker refuses the
/// program, or cannot be reached for longer than `broker.give_up_seconds`.
pub async fn run_batch_worker<W: BatchWorker>(
    program: &Program,
    worker: W,
) -> Result<(), BrokerError> {
    run(program, worker, Intake::Always).await
}

/// Whether messages are consumed.
#[derive(Clone)]
enum Intake {
    Always,
    /// While the watched value is true; when it can no longer change, as it was last.
    Pausable(watch::Receiver<bool>),
}

impl Intake {
    /// Resolves as soon as the intake is so.
    async fn becomes(&mut self, open: bool) {
        let reached = match self {
            Self::Always => open,
            Self::Pausable(intake) => intake.wait_for(|now| *now == open).await.is_ok(),
        };
        if !reached {
            std::future::pending().await
        }
    }

    /// Whether deliveries without an acknowledgement tell that a message kills its worker.
    const fn counts_deliveries(&self) -> bool {
        matches!(self, Self::Always)
    }
}

async fn run<W: BatchWorker>(
    program: &Program,
    worker: W,
    mut intake: Intake,
) -> Result<(), BrokerError> {
    let worker = Arc::new(worker);
    let mut sessions = Sessions::new(program);
    loop {
        tokio::select! {
            () = program.app.shutdown.triggered() => return Ok(()),
            () = intake.becomes(true) => {}
        }
        let Some(session) = sessions.next().await? else {
            return Ok(());
        };
        let one_by_one = sessions.without_progress() >= ONE_BY_ONE_AFTER;
        let prefetch = if one_by_one {
            1
        } else {
            program.options.prefetch
        };
        let end = consume(program, &worker, &session, prefetch, intake.clone()).await;
        session.close().await;
        match end {
            Ok(SessionEnd::Stopped) => return Ok(()),
            Ok(SessionEnd::IntakePaused) => sessions.made_progress(),
            Ok(SessionEnd::ConnectionLost { made_progress }) => {
                sessions.lost(&session.lost().await, made_progress).await;
            }
            Err(error) => sessions.lost(&error.to_string(), false).await,
        }
    }
}

/// Consumes in one session, to its end.
async fn consume<W: BatchWorker>(
    program: &Program,
    worker: &Arc<W>,
    session: &Session,
    prefetch: u16,
    intake: Intake,
) -> Result<SessionEnd, BrokerError> {
    let queue = names::input_queue(program.name());
    let subscription = session.subscribe(&queue, prefetch).await?;
    tracing::info!(queue, prefetch, "consuming");
    // Ends with the session.
    tokio::spawn(watch_alarms(program.app.clone(), session.clone()));
    let consumer_loop = ConsumerLoop::new(program, worker, session, subscription, intake);
    Ok(consumer_loop.run().await)
}
