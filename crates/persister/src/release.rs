use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use app::App;
use batch::{BatchId, Fact, Invalid, Reason, RunId, header};
use pipeline::{Job, Outcome, Worker, receipt};
use tokio::sync::watch;

use crate::held::{Held, Way};
use crate::{BATCHES, RECEIPTS};

/// After this a batch whose place another attempt has taken is looked at again.
const WAIT: Duration = Duration::from_secs(10);

/// What the judging of runs and the release of their batches share.
#[derive(Clone)]
pub(crate) struct Shared {
    state: Arc<Mutex<State>>,
    /// Whether held batches are looked at.
    intake: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// What is known; absent while another process is at work.
    held: Option<Held>,
    /// Where released batches go there is no room.
    full: bool,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            intake: watch::Sender::new(false),
        }
    }

    pub fn intake(&self) -> watch::Receiver<bool> {
        self.intake.subscribe()
    }

    /// This process is at work, and knows this. Held batches are looked at from [`Self::decided`] on.
    pub fn begin(&self, held: Held) {
        self.lock().held = Some(held);
    }

    /// It is no longer.
    pub fn end(&self) {
        self.lock().held = None;
        self.intake.send_replace(false);
    }

    /// Looks at, or changes, what is known. Only between [`Self::begin`] and [`Self::end`].
    pub fn with<T>(&self, look: impl FnOnce(&mut Held) -> T) -> T {
        let mut state = self.lock();
        look(
            state
                .held
                .as_mut()
                .expect("who judges has begun and not ended"),
        )
    }

    /// Whether batches in quarantine belong to a run that goes on by now; `false` when this process is not at work.
    pub fn is_open(&self, run: &RunId) -> bool {
        let state = self.lock();
        state.held.as_ref().is_some_and(|held| held.is_open(run))
    }

    /// A run was decided on: the held batches are looked at again.
    pub fn decided(&self) {
        let state = self.lock();
        if state.held.is_some() && !state.full {
            self.intake.send_replace(true);
        }
    }

    /// While there is no room, nothing is taken out of the queue.
    pub fn set_room(&self, room: bool) {
        let mut state = self.lock();
        let was_full = std::mem::replace(&mut state.full, !room);
        if was_full && room {
            state.held.iter_mut().for_each(Held::excuse);
            drop(state);
            self.decided();
        } else if !room {
            self.intake.send_replace(false);
        }
    }

    fn way(&self, run: &RunId, batch: BatchId) -> Way {
        let mut state = self.lock();
        let way = match state.held.as_mut() {
            Some(held) => held.way(run, batch),
            None => Way::Hold,
        };
        if way == Way::Hold {
            // Under the lock, so that a decision is either known here or opens the intake again.
            self.intake.send_replace(false);
        }
        way
    }

    fn released(&self, run: &RunId, batch: BatchId) -> Option<(u32, u32)> {
        self.lock().held.as_mut()?.released(run, batch)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes held batches out of the queue and sends them where they belong.
pub(crate) struct Release {
    app: App,
    shared: Shared,
}

impl Release {
    pub fn new(app: &App, shared: &Shared) -> Self {
        Self {
            app: app.clone(),
            shared: shared.clone(),
        }
    }

    async fn release(&self, job: &mut Job, run: RunId, batch: BatchId, rows: u32) -> Outcome {
        let mut message = job.message().clone();
        // What failed on the way here is no failure of the writers; the history stays.
        message.headers.remove(header::FAILURES);
        message.headers.remove(header::TRIES);
        job.send(BATCHES, message).await;
        self.count("released", rows);
        if let Some((attempt, batches)) = self.shared.released(&run, batch) {
            let fact = Fact::Released {
                task: batch.task,
                attempt,
                batches,
            };
            job.send(RECEIPTS, receipt(&run, fact).to_message()).await;
        }
        Outcome::Done
    }

    fn count(&self, status: &str, rows: u32) {
        let status = [("status", status)];
        self.app.stats.count("batches", &status, 1);
        self.app.stats.count("rows", &status, rows.into());
    }
}

impl Worker for Release {
    const RECEIPTS: &'static str = RECEIPTS;

    async fn process(&self, job: &mut Job) -> Outcome {
        let headers = &job.message().headers;
        if let Err(invalid) = headers.check_schema() {
            return invalid.into();
        }
        let (run, batch, rows) = match (headers.run(), headers.batch_id(), headers.rows()) {
            (Ok(run), Ok(batch), Ok(rows)) => (run, batch, rows),
            (Err(invalid), ..) | (_, Err(invalid), _) | (.., Err(invalid)) => {
                return invalid.into();
            }
        };
        match self.shared.way(&run, batch) {
            Way::Release => self.release(job, run, batch, rows).await,
            Way::Hold => Outcome::Requeue {
                why: format!("run {run} is not judged yet"),
            },
            Way::Wait(why) => Outcome::Snooze { why, delay: WAIT },
            Way::Drop(why) => {
                self.count("dropped", rows);
                Outcome::Discard { why }
            }
            Way::Quarantine(cause) => {
                self.count("quarantined", rows);
                let cause = format!("run {run} was rejected: {cause}");
                Invalid::new(Reason::Rejected, cause).into()
            }
            Way::Unknown => Outcome::retry(format!("the ledger knows no run {run}"), "ledger"),
        }
    }
}
