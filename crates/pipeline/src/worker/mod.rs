//! The worker loop.
//!
//! One session of the broker at a time: deliveries are admitted, gathered into groups, processed with
//! bounded concurrency, carried out and acknowledged. Whatever the session loses comes again.

mod finish;
mod groups;
mod serve;
mod single;

use std::time::Duration;

use crate::broker::BrokerError;
use crate::program::watch_alarms;
use crate::{BatchWorker, Program, Worker, names};

/// Pause after a lost session that had begun well: a broker that restarts is not hurried.
const AFTER_LOSS: Duration = Duration::from_millis(500);

/// Runs a role that processes one message at a time, until the program is told to stop.
pub async fn run_worker<W: Worker>(program: &Program, worker: W) -> Result<(), BrokerError> {
    run_batch_worker(program, single::Single(worker)).await
}

/// Runs a role that processes groups of messages, until the program is told to stop. Fails when the broker
/// refuses the program, or cannot be reached for longer than `broker.give_up_seconds`.
pub async fn run_batch_worker<W: BatchWorker>(
    program: &Program,
    worker: W,
) -> Result<(), BrokerError> {
    let worker = std::sync::Arc::new(worker);
    let queue = names::input_queue(program.name());
    while !program.app.shutdown.is_triggered() {
        let Some(session) = program.connect().await? else {
            break;
        };
        let alarms = tokio::spawn(watch_alarms(program.app.clone(), session.clone()));
        let served = async {
            if !program.configured(&session).await? {
                return Ok(());
            }
            let subscription = session.subscribe(&queue, program.options.prefetch).await?;
            tracing::info!(queue, "consuming");
            serve::Serving::new(program, &worker, &session, subscription)
                .run()
                .await;
            Ok::<_, BrokerError>(())
        };
        let served = served.await;
        session.close().await;
        alarms.abort();
        if program.app.shutdown.is_triggered() {
            break;
        }
        let cause = match served {
            Ok(()) => session.lost().await,
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            error = cause,
            "session with the broker lost; beginning a new one"
        );
        program.app.health.set("broker", Err(cause));
        tokio::select! {
            () = program.app.shutdown.triggered() => {}
            () = tokio::time::sleep(AFTER_LOSS) => {}
        }
    }
    Ok(())
}
