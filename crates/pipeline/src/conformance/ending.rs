//! The end of a session or of the program reaches every job, whatever the job waits for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tokio::sync::{Semaphore, mpsc};

use super::fixture::{Fixture, Running, eventually, options};
use crate::{Job, LoopOptions, Outcome, Worker};

/// Seconds of grace that no test waits for: a stop that does is hanging.
const NEVER: f64 = 3600.0;

fn patient() -> LoopOptions {
    LoopOptions {
        grace_seconds: NEVER,
        ..options(5, 2)
    }
}

/// Waits for ever at the first delivery and passes on every later one. Tells of each delivery that is cancelled.
struct Stuck {
    deliveries: AtomicU32,
    begun: Arc<Semaphore>,
    cancelled: mpsc::UnboundedSender<()>,
}

struct TellOnDrop<'a>(&'a mpsc::UnboundedSender<()>);

impl Drop for TellOnDrop<'_> {
    fn drop(&mut self) {
        let _ = self.0.send(());
    }
}

impl Worker for Stuck {
    async fn process(&self, job: &mut Job) -> Outcome {
        if self.deliveries.fetch_add(1, Ordering::SeqCst) == 0 {
            let _tell = TellOnDrop(&self.cancelled);
            self.begun.add_permits(1);
            std::future::pending::<()>().await;
        }
        job.send("next", job.message().clone()).await;
        Outcome::Done
    }
}

fn stuck() -> (Stuck, Arc<Semaphore>, mpsc::UnboundedReceiver<()>) {
    let (cancelled, cancellations) = mpsc::unbounded_channel();
    let begun = Arc::new(Semaphore::new(0));
    let worker = Stuck {
        deliveries: AtomicU32::new(0),
        begun: begun.clone(),
        cancelled,
    };
    (worker, begun, cancellations)
}

/// The broker may be some seconds in listing a session.
async fn lose_until_cancelled(fixture: &Fixture, cancellations: &mut mpsc::UnboundedReceiver<()>) {
    let lost = eventually(async || {
        fixture.lose_sessions().await;
        cancellations.try_recv().is_ok()
    });
    assert!(lost.await, "the job is cancelled");
}

async fn a_job_is_cancelled_with_its_session_and_its_message_comes_again(fixture: Fixture) {
    fixture.fill(1).await;
    let (worker, begun, mut cancellations) = stuck();
    let running = Running::start(fixture.program(patient()), worker);
    begun.acquire().await.unwrap().forget();
    lose_until_cancelled(&fixture, &mut cancellations).await;
    fixture.take("end", 1).await;
    running.stop().await;
    fixture.length_becomes("relay-in", 0).await;
}

async fn a_stop_ends_with_the_session_that_it_waits_in(fixture: Fixture) {
    fixture.fill(1).await;
    let (worker, begun, mut cancellations) = stuck();
    let running = Running::start(fixture.program(patient()), worker);
    begun.acquire().await.unwrap().forget();
    running.program.app.shutdown.trigger();
    lose_until_cancelled(&fixture, &mut cancellations).await;
    running.stop().await;
    fixture.length_becomes("relay-in", 1).await;
}

/// Sends without end where no queue takes anything.
struct ToNowhere;

impl Worker for ToNowhere {
    async fn process(&self, job: &mut Job) -> Outcome {
        loop {
            job.send("nowhere", job.message().clone()).await;
            tokio::task::yield_now().await;
        }
    }
}

async fn a_stop_does_not_wait_for_an_output_that_no_queue_takes(fixture: Fixture) {
    fixture.fill(3).await;
    let running = Running::start(fixture.program(patient()), ToNowhere);
    let app = running.program.app.clone();
    assert!(eventually(async || app.health.failures().contains_key("publishing")).await);
    running.stop().await;
    fixture.length_becomes("relay-in", 3).await;
}

on_every_broker!(
    a_job_is_cancelled_with_its_session_and_its_message_comes_again,
    a_stop_ends_with_the_session_that_it_waits_in,
    a_stop_does_not_wait_for_an_output_that_no_queue_takes,
);
