//! The worker loop.
//!
//! One session of the broker at a time: deliveries are admitted, gathered into groups, processed with
//! bounded concurrency, carried out and acknowledged. Whatever the session loses comes again.

mod finish;
mod groups;
mod serve;
mod single;

pub(crate) use finish::{REDELIVERIES, exhausted};

use std::time::Duration;

use tokio::sync::watch;

use crate::broker::BrokerError;
use crate::program::watch_alarms;
use crate::{BatchWorker, Program, Worker, names};

/// Pause after a lost session that had begun well: a broker that restarts is not hurried.
const AFTER_LOSS: Duration = Duration::from_millis(500);
/// The pause doubles with every session in which nothing was acknowledged, to half a minute.
const MOST_DOUBLINGS: u32 = 6;
/// Sessions of that kind in a row after which messages are taken one by one: each loss counts as a delivery
/// without an answer for every message in hand.
const BARREN: u32 = 2;

/// Runs a role that processes one message at a time, until the program is told to stop.
pub async fn run_worker<W: Worker>(program: &Program, worker: W) -> Result<(), BrokerError> {
    run_batch_worker(program, single::Single(worker)).await
}

/// As [`run_worker`], while `intake` is true: as soon as it is not, what is in work is finished, the rest goes back
/// to the queue, and nothing is taken out of it until it is true again. Each time costs what goes back a delivery
/// without an answer, so `max_deliveries` does not apply: nothing is held against a message that comes often.
pub async fn run_worker_while<W: Worker>(
    program: &Program,
    worker: W,
    intake: watch::Receiver<bool>,
) -> Result<(), BrokerError> {
    run(program, single::Single(worker), Intake::Gated(intake)).await
}

/// Runs a role that processes groups of messages, until the program is told to stop. Fails when the broker
/// refuses the program, or cannot be reached for longer than `broker.give_up_seconds`.
pub async fn run_batch_worker<W: BatchWorker>(
    program: &Program,
    worker: W,
) -> Result<(), BrokerError> {
    run(program, worker, Intake::Open).await
}

/// Whether messages are taken in.
#[derive(Clone)]
enum Intake {
    Open,
    /// As the watched value says; when nobody is left to change it, as it said last.
    Gated(watch::Receiver<bool>),
}

impl Intake {
    /// Resolves as soon as the intake is so.
    async fn is(&mut self, open: bool) {
        let reached = match self {
            Self::Open => open,
            Self::Gated(gate) => gate.wait_for(|now| *now == open).await.is_ok(),
        };
        if !reached {
            std::future::pending().await
        }
    }

    /// Whether deliveries without an answer tell that a message kills its worker.
    const fn counts_deliveries(&self) -> bool {
        matches!(self, Self::Open)
    }
}

async fn run<W: BatchWorker>(
    program: &Program,
    worker: W,
    mut intake: Intake,
) -> Result<(), BrokerError> {
    let worker = std::sync::Arc::new(worker);
    let queue = names::input_queue(program.name());
    let mut barren = 0;
    while !program.app.shutdown.is_triggered() {
        tokio::select! {
            () = program.app.shutdown.triggered() => break,
            () = intake.is(true) => {}
        }
        let Some(session) = program.connect().await? else {
            break;
        };
        let alarms = tokio::spawn(watch_alarms(program.app.clone(), session.clone()));
        let served = async {
            if !program.configured(&session).await? {
                return Ok(serve::Served {
                    fruitful: false,
                    shut: false,
                });
            }
            let prefetch = prefetch(program, barren);
            let subscription = session.subscribe(&queue, prefetch).await?;
            tracing::info!(queue, prefetch, "consuming");
            let intake = intake.clone();
            let serving = serve::Serving::new(program, &worker, &session, subscription, intake);
            Ok::<_, BrokerError>(serving.run().await)
        };
        let served = served.await;
        session.close().await;
        alarms.abort();
        if program.app.shutdown.is_triggered() {
            break;
        }
        let (cause, fruitful) = match served {
            Ok(served) if served.shut => {
                barren = 0;
                continue;
            }
            Ok(served) => (session.lost().await, served.fruitful),
            Err(error) => (error.to_string(), false),
        };
        barren = if fruitful { 0 } else { barren + 1 };
        tracing::warn!(
            error = cause,
            "session with the broker lost; beginning a new one"
        );
        program.app.health.set("broker", Err(cause));
        // These were of the session that is gone.
        program.app.health.set("broker-alarm", Ok(()));
        program.app.health.set("publishing", Ok(()));
        let pause = AFTER_LOSS * 2u32.pow(barren.min(MOST_DOUBLINGS));
        tokio::select! {
            () = program.app.shutdown.triggered() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    Ok(())
}

fn prefetch(program: &Program, barren: u32) -> u16 {
    match barren {
        BARREN.. => 1,
        _ => program.options.prefetch,
    }
}
