use std::time::Duration;

use app::App;
use batch::{BatchHeaders, BatchId, Fact, Invalid, MessageKind, Reason, RunId, header};
use pipeline::{BATCHES, Job, Outcome, Worker};

use crate::release_tracker::Disposition;
use crate::shared_ledger::SharedLedger;

/// Pause before a batch that another attempt is preferred to comes again.
const OTHER_ATTEMPT_DELAY: Duration = Duration::from_secs(10);

/// Takes held batches out of the queue and releases, drops or quarantines them.
pub(crate) struct Release {
    pub app: App,
    pub ledger: SharedLedger,
}

impl Release {
    async fn release(&self, job: &mut Job, run: RunId, batch: BatchId, rows: u32) -> Outcome {
        let mut message = job.message().clone();
        // What failed on the way here is no failure of the writers; the history stays.
        message.headers.remove(header::FAILURES);
        message.headers.remove(header::TRIES);
        job.send(BATCHES, message).await;
        self.count("released", rows);
        if let Some(batches) = self.ledger.with(|tracker| tracker.released(&run, batch)) {
            let fact = Fact::Released {
                task: batch.task,
                attempt: batch.attempt,
                batches,
            };
            job.report(&run, fact).await;
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
    async fn process(&self, job: &mut Job) -> Outcome {
        let headers = &job.message().headers;
        let known = headers.check_schema(MessageKind::Batch);
        let BatchHeaders {
            run, batch, rows, ..
        } = match known.and_then(|()| BatchHeaders::from_headers(headers)) {
            Ok(headers) => headers,
            Err(invalid) => return invalid.into(),
        };
        match self.ledger.disposition(&run, batch) {
            Disposition::Release => self.release(job, run, batch, rows).await,
            Disposition::Hold => Outcome::Requeue {
                why: format!("the fetching of run {run} is not decided yet"),
            },
            Disposition::Wait(why) => Outcome::Snooze {
                why,
                delay: OTHER_ATTEMPT_DELAY,
            },
            Disposition::Drop(why) => {
                self.count("dropped", rows);
                Outcome::Discard { why }
            }
            Disposition::Quarantine(cause) => {
                self.count("quarantined", rows);
                let cause = format!("run {run} was rejected: {cause}");
                Invalid::new(Reason::Rejected, cause).into()
            }
            Disposition::Unknown => {
                Outcome::retry(format!("the ledger knows no run {run}"), "ledger")
            }
        }
    }
}
