use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use app::App;
use batch::{BatchId, Fact, Invalid, Reason, Receipt, RunId};
use pipeline::{Job, Lost, Outcome, Worker};
use tokio::sync::watch;

use crate::held::{Held, Way};
use crate::{BATCHES, RECEIPTS};

/// After this a batch whose place another attempt has taken is looked at again.
const WAIT: Duration = Duration::from_secs(10);
/// Longest time for which a batch in hand waits for room: well within the broker's consumer timeout (30 minutes).
const ROOM: Duration = Duration::from_secs(600);

/// What the judging of runs and the release of their batches share.
#[derive(Clone)]
pub(crate) struct Shared {
    held: Arc<Mutex<Option<Held>>>,
    /// Whether held batches are looked at.
    intake: watch::Sender<bool>,
    /// Whether there is room where they go.
    room: watch::Sender<bool>,
}

impl Shared {
    pub fn new() -> Self {
        Self {
            held: Arc::default(),
            intake: watch::Sender::new(false),
            room: watch::Sender::new(true),
        }
    }

    pub fn intake(&self) -> watch::Receiver<bool> {
        self.intake.subscribe()
    }

    /// This process is at work, and knows this. The held batches are looked at.
    pub fn begin(&self, held: Held) {
        *self.lock() = Some(held);
        self.intake.send_replace(true);
    }

    /// It is no longer.
    pub fn end(&self) {
        *self.lock() = None;
        self.intake.send_replace(false);
    }

    /// Looks at, or changes, what is known. Only between [`Self::begin`] and [`Self::end`].
    pub fn with<T>(&self, look: impl FnOnce(&mut Held) -> T) -> T {
        look(self.lock().get_or_insert_default())
    }

    /// A run was decided on: the held batches are looked at again.
    pub fn decided(&self) {
        self.intake.send_replace(true);
    }

    pub fn set_room(&self, room: bool) {
        self.room
            .send_if_modified(|current| std::mem::replace(current, room) != room);
    }

    fn way(&self, run: &RunId, batch: BatchId) -> Way {
        let mut held = self.lock();
        let way = match held.as_mut() {
            Some(held) => held.way(run, batch),
            None => Way::Hold,
        };
        if way == Way::Hold {
            // Under the lock, so that a verdict is either known here or opens the intake again.
            self.intake.send_replace(false);
        }
        way
    }

    fn released(&self, run: &RunId, batch: BatchId) -> Option<(u32, u32)> {
        self.lock().as_mut()?.released(run, batch)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
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

    async fn release(
        &self,
        job: &mut Job,
        run: RunId,
        batch: BatchId,
        rows: u32,
    ) -> Result<Outcome, Lost> {
        if !self.has_room(job).await {
            let why = "there is no room where it goes".to_owned();
            return Ok(Outcome::Return { why });
        }
        job.send(BATCHES, job.message().clone()).await?;
        self.count("released", rows);
        if let Some((attempt, batches)) = self.shared.released(&run, batch) {
            let receipt = Receipt {
                run,
                at_ms: crate::work::now_ms(),
                fact: Fact::Released {
                    task: batch.task,
                    attempt,
                    batches,
                },
            };
            job.send(RECEIPTS, receipt.to_message()).await?;
        }
        Ok(Outcome::Done)
    }

    /// Waits for room. `false`: not now.
    async fn has_room(&self, job: &Job) -> bool {
        let mut room = self.shared.room.subscribe();
        let mut intake = self.shared.intake();
        tokio::select! {
            biased;
            there = room.wait_for(|room| *room) => there.is_ok(),
            _ = intake.wait_for(|open| !open) => false,
            () = job.stopping() => false,
            () = tokio::time::sleep(ROOM) => false,
        }
    }

    fn count(&self, status: &str, rows: u32) {
        let status = [("status", status)];
        self.app.stats.count("batches", &status, 1);
        self.app.stats.count("rows", &status, rows.into());
    }
}

impl Worker for Release {
    async fn process(&self, job: &mut Job) -> Result<Outcome, Lost> {
        let headers = &job.message().headers;
        if let Err(invalid) = headers.check_schema() {
            return Ok(invalid.into());
        }
        let (run, batch, rows) = match (headers.run(), headers.batch_id(), headers.rows()) {
            (Ok(run), Ok(batch), Ok(rows)) => (run, batch, rows),
            (Err(invalid), ..) | (_, Err(invalid), _) | (.., Err(invalid)) => {
                return Ok(invalid.into());
            }
        };
        Ok(match self.shared.way(&run, batch) {
            Way::Release => return self.release(job, run, batch, rows).await,
            Way::Hold => Outcome::Return {
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
        })
    }
}
