use std::time::Duration;

use batch::{Invalid, Reason, header};

use crate::broker::Publication;
use crate::job::{Job, Lost};
use crate::{BatchWorker, Ladder, Outcome, Program};

/// How long what the broker refuses is published again before the message is put off.
const PATIENCE: Duration = Duration::from_secs(60);
/// For how long it is put off then: full queues and missing ones need an operator.
const PUT_OFF: Duration = Duration::from_secs(600);
/// Numbers left to the redeliveries of one copy of a message: more than `max_deliveries` allows, so that the next copy
/// never has the same attempt as an older one that is delivered once more.
pub(crate) const REDELIVERIES: u32 = 64;

/// Carries an outcome out, up to the confirm. Everything goes through the broker, so that a worker that
/// dies here leaves the message where it was.
pub(super) async fn finish<W: BatchWorker>(
    worker: &W,
    program: &Program,
    job: &mut Job,
    outcome: Outcome,
) -> Result<(), Lost> {
    let outcome = exhausted(job, outcome);
    program
        .app
        .stats
        .count("message", &[("stat", outcome.label())], 1);
    tell(job, &outcome);
    match outcome {
        // It stays where it was, so nothing has to be stored before it may go.
        Outcome::Return { .. } => return Ok(()),
        Outcome::Done | Outcome::Discard { .. } => {}
        Outcome::Retry { error, at } => {
            let mut message = job.message().clone();
            message.headers.add_failure(job.failure(&error, &at));
            let delay = program.ladder.after(message.headers.failures());
            again(program, job, message, delay).await?;
        }
        Outcome::Snooze { delay, .. } => {
            let delay = program.ladder.within(delay);
            again(program, job, job.message().clone(), delay).await?;
        }
        Outcome::Quarantine(why) => {
            if let Some(receipt) = worker.quarantined(job.message(), &why) {
                job.try_send("receipts", receipt).await?;
            }
            job.try_quarantine(job.message().clone(), &why).await?;
        }
    }
    if program.acknowledges_before_confirm() || job.confirmed_within(PATIENCE).await? {
        return Ok(());
    }
    // A full quarantine, or an output that nobody reads, must not hold the message in hand: it would take
    // the place of others, and the broker takes back what is held too long. It is processed again later.
    tracing::warn!("the broker takes not all that this message led to; putting the message off");
    let delay = program.ladder.within(PUT_OFF);
    again(program, job, job.message().clone(), delay).await?;
    job.confirmed().await
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
            Outcome::Quarantine(Invalid::new(
                Reason::TooManyRetries,
                format!("failed {failures} times, the last time with: {error}{at}"),
            ))
        }
        outcome => outcome,
    }
}

async fn again(
    program: &Program,
    job: &mut Job,
    mut message: batch::Message,
    delay: Duration,
) -> Result<(), Lost> {
    program.count_sent("delay");
    // From this delivery's own number on: one that came back often has used up more than those left to it.
    let tries = job.attempt().saturating_add(REDELIVERIES - 1);
    message.headers.set(header::TRIES, i64::from(tries));
    let queue = Ladder::queue(program.name(), delay);
    job.publish(Publication::to_queue(queue, message)).await
}

fn tell(job: &Job, outcome: &Outcome) {
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
        Outcome::Return { why } => tracing::debug!(run, task, attempt, why, "goes back"),
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
