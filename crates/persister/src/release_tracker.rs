use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use batch::{BatchId, Decision, RunId, Stage, TaskHash};
use ledger::{Ledger, RunState, RunStatus, StageStatus};
use tokio::time::Instant;

/// How long nothing of a run may be released before another attempt at a task is chosen instead of one that was not
/// released whole: a batch of it was lost with the broker, and will never come.
const STUCK_TIMEOUT: Duration = Duration::from_secs(30);

/// What becomes of a held batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// It is sent on to the stores.
    Release,
    /// Another attempt at its task was released, or its run was abandoned.
    Drop(String),
    /// Its run's stage `fetch` is not decided yet: what is behind it in the queue waits too.
    Hold,
    /// Another attempt at its task is preferred; this one may still be needed.
    Wait(String),
    /// Its run was rejected, for this cause.
    Quarantine(String),
    /// The ledger does not know its run.
    Unknown,
}

/// Which batches are released: what is known of the runs, and how far the release of each is.
#[derive(Debug, Default)]
pub(crate) struct ReleaseTracker {
    pub ledger: Ledger,
    runs: BTreeMap<RunId, RunRelease>,
}

#[derive(Debug, Default)]
struct RunRelease {
    tasks: HashMap<TaskHash, ReleasedTask>,
    /// When a batch of it was last released.
    latest: Option<Instant>,
    /// Attempts chosen instead of the first success.
    instead: HashMap<TaskHash, u32>,
}

/// Batches of one attempt that were released: each counts once, however often it comes.
#[derive(Debug, Default)]
struct ReleasedTask {
    attempt: u32,
    sequences: BTreeSet<u32>,
    /// All of them were; `sequences` is empty then.
    whole: bool,
}

impl ReleaseTracker {
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            runs: BTreeMap::new(),
        }
    }

    /// What becomes of a batch, by what is known now.
    pub fn disposition(&mut self, run: &RunId, batch: BatchId) -> Disposition {
        if let Some(ended) = self.ledger.record(run) {
            return ended_disposition(ended.progress);
        }
        let Some(state) = self.ledger.run(run) else {
            return Disposition::Unknown;
        };
        if let Some(abandoned) = state.abandoned() {
            let (who, why) = (&abandoned.who, &abandoned.why);
            return Disposition::Drop(format!("the run was abandoned by {who}: {why}"));
        }
        let Some(fetch) = state.outcome(&Stage::Fetch) else {
            return match state.started() {
                // A run is announced before its first task: its beginning is no longer on the ledger.
                None => Disposition::Unknown,
                // A pipeline without gates holds nothing back.
                Some(started) if started.run_plan.is_none() => Disposition::Release,
                Some(_) => Disposition::Hold,
            };
        };
        if fetch.decision != Decision::Passed {
            return Disposition::Quarantine(fetch.why);
        }
        open_disposition(self.runs.entry(run.clone()).or_default(), state, batch)
    }

    /// Notes that a batch was released. If it was the last one of its attempt: how many these are.
    pub fn released(&mut self, run: &RunId, batch: BatchId) -> Option<u32> {
        let state = self.ledger.run(run)?;
        let release = self.runs.entry(run.clone()).or_default();
        release.latest = Some(Instant::now());
        let batches = state.batches_of(batch)?;
        let task = release.tasks.entry(batch.task).or_default();
        if task.whole {
            return None;
        }
        if task.attempt != batch.attempt {
            task.attempt = batch.attempt;
            task.sequences.clear();
        }
        task.sequences.insert(batch.sequence);
        task.whole = task.sequences.len() as u64 >= u64::from(batches);
        if task.whole {
            task.sequences = BTreeSet::new();
        }
        task.whole.then_some(batches)
    }

    /// Whether the run's batches are released by now, although they were put into quarantine.
    pub fn is_open(&self, run: &RunId) -> bool {
        match self.ledger.record(run) {
            Some(ended) => ended_disposition(ended.progress) == Disposition::Release,
            None => self.ledger.run(run).is_some_and(|state| {
                let fetch = state.outcome(&Stage::Fetch);
                fetch.is_some_and(|fetch| fetch.decision == Decision::Passed)
            }),
        }
    }

    /// Runs that an operator decided on and whose batches are released: some may be in quarantine.
    pub fn has_approved(&self) -> bool {
        let mut runs = self.ledger.runs();
        runs.any(|state| state.operator_decisions() > 0 && self.is_open(state.run()))
    }

    /// Nothing could be released for a while: that is no sign of a batch that is lost.
    pub fn restart_stuck_timer(&mut self) {
        for release in self.runs.values_mut() {
            release.latest = Some(Instant::now());
        }
    }

    /// Forgets how far the release of an ended run was.
    pub fn forget(&mut self, run: &RunId) {
        self.runs.remove(run);
    }
}

fn ended_disposition(ended: &ledger::Progress) -> Disposition {
    if ended.status == RunStatus::Abandoned {
        return Disposition::Drop("the run was abandoned".to_owned());
    }
    let fetch = ended
        .stages
        .iter()
        .find(|stage| stage.stage == Stage::Fetch);
    match fetch {
        // What comes after the end was repaired: a task out of quarantine. A repeated batch changes nothing.
        None => Disposition::Release,
        Some(fetch) if fetch.status == StageStatus::Passed => Disposition::Release,
        Some(fetch) => Disposition::Quarantine(fetch.why.clone()),
    }
}

fn open_disposition(release: &mut RunRelease, state: &RunState, batch: BatchId) -> Disposition {
    let instead = release.instead.get(&batch.task).copied();
    let task = release.tasks.get(&batch.task);
    let whole = task.filter(|task| task.whole).map(|task| task.attempt);
    let chosen = whole
        .or(instead)
        .or_else(|| state.attempt_to_release(batch.task));
    if chosen == Some(batch.attempt) {
        return Disposition::Release;
    }
    if whole.is_some() || state.has_arrived(batch.task) {
        return Disposition::Drop("another attempt at its task was released".to_owned());
    }
    let since = *release.latest.get_or_insert_with(Instant::now);
    let is_whole = state.batches_of(batch).is_some();
    if is_whole && since.elapsed() >= STUCK_TIMEOUT {
        tracing::warn!(
            run = %state.run(), task = %batch.task, attempt = batch.attempt,
            "batches of the attempt that was chosen did not come; this attempt is released instead"
        );
        release.instead.insert(batch.task, batch.attempt);
        return Disposition::Release;
    }
    Disposition::Wait("another attempt at its task is released first".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use batch::{Fact, Receipt, RunMode, RunPlan, Started};

    fn run() -> RunId {
        "batched-1".parse().unwrap()
    }

    fn task() -> TaskHash {
        TaskHash::new([b"t".as_slice()])
    }

    fn batch(attempt: u32, sequence: u32) -> BatchId {
        BatchId {
            task: task(),
            attempt,
            sequence,
        }
    }

    fn apply(tracker: &mut ReleaseTracker, fact: Fact) {
        tracker.ledger.apply(&Receipt {
            run: run(),
            at_ms: 1,
            fact,
        });
    }

    fn fetched(attempt: u32) -> Fact {
        Fact::Fetched {
            task: task(),
            attempt,
            shard: 0,
            batches: 2,
            rows: 20,
            bytes: 1,
        }
    }

    fn decided(decision: Decision) -> [Fact; 2] {
        let of = |stage, decision| Fact::GateDecided {
            stage,
            decision,
            why: "8 of 10 tasks fetched".into(),
            operator_decisions: 0,
        };
        [
            of(Stage::Plan, Decision::Passed),
            of(Stage::Fetch, decision),
        ]
    }

    /// A run of which one task was fetched by these attempts.
    fn held(attempts: &[u32]) -> ReleaseTracker {
        let mut tracker = ReleaseTracker::default();
        apply(
            &mut tracker,
            Fact::Started(Started {
                pipeline: "batched".into(),
                mode: RunMode::Full,
                until_ms: 1,
                shards: 1,
                stores: vec!["es".into()],
                partial: false,
                source: String::new(),
                nonce: String::new(),
                differences: Vec::new(),
                run_plan: Some(RunPlan::default()),
            }),
        );
        attempts
            .iter()
            .for_each(|n| apply(&mut tracker, fetched(*n)));
        tracker
    }

    fn open(attempts: &[u32]) -> ReleaseTracker {
        let mut tracker = held(attempts);
        decided(Decision::Passed)
            .into_iter()
            .for_each(|fact| apply(&mut tracker, fact));
        tracker
    }

    #[test]
    fn batches_wait_until_their_runs_fetching_is_decided() {
        let mut tracker = held(&[1]);
        assert_eq!(tracker.disposition(&run(), batch(1, 0)), Disposition::Hold);
        for fact in decided(Decision::Passed) {
            apply(&mut tracker, fact);
        }
        assert_eq!(
            tracker.disposition(&run(), batch(1, 0)),
            Disposition::Release
        );
    }

    #[test]
    fn batches_of_a_rejected_run_have_the_decision_as_their_one_cause() {
        let mut tracker = held(&[1]);
        for fact in decided(Decision::Rejected) {
            apply(&mut tracker, fact);
        }
        let cause = "8 of 10 tasks fetched".to_owned();
        assert_eq!(
            tracker.disposition(&run(), batch(1, 0)),
            Disposition::Quarantine(cause)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_successful_attempts_the_first_is_released_and_the_other_is_dropped_then() {
        let mut tracker = open(&[9, 1]);
        assert!(matches!(
            tracker.disposition(&run(), batch(9, 0)),
            Disposition::Wait(_)
        ));
        assert_eq!(
            tracker.disposition(&run(), batch(1, 0)),
            Disposition::Release
        );
        assert_eq!(tracker.released(&run(), batch(1, 0)), None);
        // The same batch again counts once.
        assert_eq!(tracker.released(&run(), batch(1, 0)), None);
        assert!(matches!(
            tracker.disposition(&run(), batch(9, 0)),
            Disposition::Wait(_)
        ));
        assert_eq!(tracker.released(&run(), batch(1, 1)), Some(2));
        assert!(matches!(
            tracker.disposition(&run(), batch(9, 0)),
            Disposition::Drop(_)
        ));
        assert!(matches!(
            tracker.disposition(&run(), batch(2, 0)),
            Disposition::Drop(_)
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_never_comes_whole_is_made_up_for_by_another_one() {
        let mut tracker = open(&[1, 9]);
        tracker.released(&run(), batch(1, 0));
        assert!(matches!(
            tracker.disposition(&run(), batch(9, 0)),
            Disposition::Wait(_)
        ));
        tokio::time::advance(STUCK_TIMEOUT).await;
        // An attempt that was not read to its end cannot.
        assert!(matches!(
            tracker.disposition(&run(), batch(5, 0)),
            Disposition::Wait(_)
        ));
        assert_eq!(
            tracker.disposition(&run(), batch(9, 0)),
            Disposition::Release
        );
        assert_eq!(
            tracker.disposition(&run(), batch(9, 1)),
            Disposition::Release
        );
        tracker.released(&run(), batch(9, 0));
        assert_eq!(tracker.released(&run(), batch(9, 1)), Some(2));
        assert!(matches!(
            tracker.disposition(&run(), batch(1, 1)),
            Disposition::Drop(_)
        ));
    }

    #[test]
    fn what_another_process_released_is_known_from_the_ledger() {
        let mut tracker = open(&[1, 9]);
        apply(
            &mut tracker,
            Fact::Released {
                task: task(),
                attempt: 1,
                batches: 2,
            },
        );
        assert!(matches!(
            tracker.disposition(&run(), batch(9, 0)),
            Disposition::Drop(_)
        ));
    }

    #[test]
    fn an_abandoned_run_is_dropped_and_an_unknown_one_is_neither_dropped_nor_released() {
        let mut tracker = held(&[1]);
        assert_eq!(
            tracker.disposition(&"other".parse().unwrap(), batch(1, 0)),
            Disposition::Unknown
        );
        let (who, why) = ("ada".to_owned(), "wrong table".to_owned());
        apply(&mut tracker, Fact::Abandoned { who, why });
        assert!(matches!(
            tracker.disposition(&run(), batch(1, 0)),
            Disposition::Drop(_)
        ));
    }
}
