use std::time::Duration;

use batch::{Invalid, Message, Reason, header};

use super::attempt::tries_after;
use crate::broker::ConnectionLost;
use crate::{BatchWorker, Job, Outcome, Program, RECEIPTS};

/// How long what the broker refuses is published again before the message is put off.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(60);
/// For how long it is put off then: full queues and missing ones need an operator.
const REFUSED_DELAY: Duration = Duration::from_secs(600);

/// Does what an outcome asks for, up to the confirm. Everything goes through the broker, so that a worker that dies
/// here leaves the message where it was.
pub(super) async fn finish<W: BatchWorker>(
    worker: &W,
    job: &mut Job,
    outcome: Outcome,
) -> Result<(), ConnectionLost> {
    let outcome = exhausted(job, outcome);
    let label = [("stat", outcome.label())];
    job.program().app.stats.count("message", &label, 1);
    log(job, &outcome);
    match outcome {
        // It stays where it was, so nothing has to be stored before it may go.
        Outcome::Requeue { .. } => return Ok(()),
        Outcome::Done | Outcome::Discard { .. } => {}
        Outcome::Retry { error, at } => {
            let mut message = job.message().clone();
            message.headers.add_failure(job.failure(&error, &at));
            let delay = job.program().schedule.after(message.headers.failures());
            put_off(job, message, delay).await?;
        }
        Outcome::Snooze { delay, .. } => {
            let delay = job.program().schedule.within(delay);
            put_off(job, job.message().clone(), delay).await?;
        }
        Outcome::Quarantine(why) => {
            if let Some(receipt) = worker.quarantined(job.message(), &why) {
                job.outbox.send(RECEIPTS, receipt).await?;
            }
            let message = job.with_reason(job.message().clone(), &why);
            job.outbox.quarantine(message).await?;
        }
    }
    if job.program().acknowledges_before_confirm()
        || job.outbox.flush_within(PUBLISH_TIMEOUT).await?
    {
        return Ok(());
    }
    // A full quarantine, or an output without a queue, must not keep the message in flight: it would hold up others,
    // and the broker takes back what is unacknowledged for too long. It is processed again later.
    tracing::warn!(
        "the broker refuses a part of what this message led to; putting the message off"
    );
    let delay = job.program().schedule.within(REFUSED_DELAY);
    put_off(job, job.message().clone(), delay).await?;
    job.outbox.flush().await
}

/// A retry becomes quarantine when its tries are used up. Before that, an answer that no store gives
/// ([`Reason::UnexpectedAnswer`]) is a failure like any other: it is mostly that of a proxy which will be set right.
pub(crate) fn exhausted(job: &Job, outcome: Outcome) -> Outcome {
    let failures = job.message().headers.failures() + 1;
    let used_up = failures > job.program().options.max_retries;
    match outcome {
        Outcome::Quarantine(Invalid {
            reason: reason @ Reason::UnexpectedAnswer,
            detail,
        }) if !used_up => Outcome::retry(format!("{reason}: {detail}"), ""),
        Outcome::Retry { error, at } if used_up => {
            let at = if at.is_empty() {
                at
            } else {
                format!(" ({at})")
            };
            let detail = format!("failed {failures} times, the last time with: {error}{at}");
            Invalid::new(Reason::TooManyRetries, detail).into()
        }
        outcome => outcome,
    }
}

/// Publishes `message`, a copy of the job's, to come again after `delay`.
async fn put_off(
    job: &mut Job,
    mut message: Message,
    delay: Duration,
) -> Result<(), ConnectionLost> {
    let tries = tries_after(job.attempt());
    message.headers.set(header::TRIES, i64::from(tries));
    job.outbox.delay(message, delay).await
}

fn log(job: &Job, outcome: &Outcome) {
    let headers = &job.message().headers;
    let run = headers.text(header::RUN).unwrap_or("-");
    let task = headers.text(header::TASK).unwrap_or("-");
    let attempt = job.attempt();
    match outcome {
        Outcome::Done => tracing::debug!(run, task, attempt, "done"),
        Outcome::Retry { error, at } => {
            tracing::warn!(run, task, attempt, error, at, "failed; trying again later");
        }
        Outcome::Snooze { why, .. } => tracing::info!(run, task, why, "not now"),
        Outcome::Quarantine(why) => {
            tracing::error!(run, task, attempt, reason = %why.reason, error = why.detail, "quarantined");
        }
        Outcome::Requeue { why } => tracing::debug!(run, task, attempt, why, "requeued"),
        Outcome::Discard { why } => tracing::info!(run, task, attempt, why, "discarded"),
    }
}

impl Program {
    /// Whether messages are acknowledged too early. Never, but in the mutant that the tests must catch.
    fn acknowledges_before_confirm(&self) -> bool {
        #[cfg(test)]
        return self.mutant == crate::conformance::Mutant::AcknowledgesBeforeConfirm;
        #[cfg(not(test))]
        false
    }
}
