use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use batch::{BatchId, Decision, RunId, Stage, TaskHash};
use ledger::{Ledger, RunState, State, Status};
use tokio::time::Instant;

/// How long nothing of a run may go on before another attempt at a task takes the place of one that has not
/// gone on whole: a batch of it was lost with the broker, and will never come.
const STUCK: Duration = Duration::from_secs(30);

/// What becomes of a held batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Way {
    /// It goes on to the stores.
    Release,
    /// Its task went on by another attempt, or nobody wants the run any more.
    Drop(String),
    /// Its run's fetching is not judged yet: nothing behind it in the queue is looked at either.
    Hold,
    /// Another attempt at its task goes on first; this one may still be needed.
    Wait(String),
    /// Its run was rejected, for this cause.
    Quarantine(String),
    /// The ledger does not know its run.
    Unknown,
}

/// Which batches go on: what is known of the runs, and how far the release of each is.
#[derive(Debug, Default)]
pub(crate) struct Held {
    pub ledger: Ledger,
    runs: BTreeMap<RunId, Releasing>,
}

#[derive(Debug, Default)]
struct Releasing {
    tasks: HashMap<TaskHash, Released>,
    /// When something of it last went on.
    latest: Option<Instant>,
    /// Attempts that took the place of the first success.
    instead: HashMap<TaskHash, u32>,
}

/// Batches of one attempt that went on: each counts once, however often it comes.
#[derive(Debug, Default)]
struct Released {
    attempt: u32,
    sequences: BTreeSet<u32>,
    /// All of them; they are no longer told apart.
    whole: bool,
}

impl Held {
    pub fn new(ledger: Ledger) -> Self {
        Self {
            ledger,
            runs: BTreeMap::new(),
        }
    }

    /// What becomes of a batch, by what is known now.
    pub fn way(&mut self, run: &RunId, batch: BatchId) -> Way {
        if let Some(ended) = self.ledger.record(run) {
            return way_of_ended(ended.progress);
        }
        let Some(state) = self.ledger.run(run) else {
            return Way::Unknown;
        };
        if let Some((who, why)) = state.abandoned_by() {
            return Way::Drop(format!("the run was abandoned by {who}: {why}"));
        }
        let Some(fetch) = state.outcome(&Stage::Fetch) else {
            return match state.started() {
                // A run is announced before its first task: its beginning is no longer on the ledger.
                None => Way::Unknown,
                // A pipeline that nobody judges holds nothing back; its runs say so when they begin.
                Some(started) if started.run_plan.is_none() => Way::Release,
                Some(_) => Way::Hold,
            };
        };
        if fetch.decision != Decision::Passed {
            return Way::Quarantine(fetch.why);
        }
        way_of_open(self.runs.entry(run.clone()).or_default(), state, batch)
    }

    /// Takes in that a batch went on. When it was the last one of its task: the attempt and the number of its batches.
    pub fn released(&mut self, run: &RunId, batch: BatchId) -> Option<(u32, u32)> {
        let state = self.ledger.run(run)?;
        let releasing = self.runs.entry(run.clone()).or_default();
        releasing.latest = Some(Instant::now());
        let of = state.has_read(batch.task, batch.attempt)?;
        let task = releasing.tasks.entry(batch.task).or_default();
        if task.whole {
            return None;
        }
        if task.attempt != batch.attempt {
            task.attempt = batch.attempt;
            task.sequences.clear();
        }
        task.sequences.insert(batch.sequence);
        task.whole = task.sequences.len() as u64 >= u64::from(of);
        if task.whole {
            task.sequences = BTreeSet::new();
        }
        task.whole.then_some((batch.attempt, of))
    }

    /// Whether the run's batches go on by now, although they were put into quarantine.
    pub fn is_open(&self, run: &RunId) -> bool {
        match self.ledger.record(run) {
            Some(ended) => way_of_ended(ended.progress) == Way::Release,
            None => self.ledger.run(run).is_some_and(|state| {
                let fetch = state.outcome(&Stage::Fetch);
                fetch.is_some_and(|fetch| fetch.decision == Decision::Passed)
            }),
        }
    }

    /// Runs that an operator decided on and whose batches go on: some may be in quarantine.
    pub fn has_approved(&self) -> bool {
        let mut runs = self.ledger.runs();
        runs.any(|state| state.operator_decisions() > 0 && self.is_open(state.run()))
    }

    /// Nothing could go on for a while: that is no sign of a batch that is lost.
    pub fn excuse(&mut self) {
        for releasing in self.runs.values_mut() {
            releasing.latest = Some(Instant::now());
        }
    }

    /// Forgets how far the release of an ended run was.
    pub fn forget(&mut self, run: &RunId) {
        self.runs.remove(run);
    }
}

fn way_of_ended(ended: &ledger::Progress) -> Way {
    if ended.state == State::Abandoned {
        return Way::Drop("the run was abandoned".to_owned());
    }
    let fetch = ended
        .stages
        .iter()
        .find(|stage| stage.stage == Stage::Fetch);
    match fetch {
        // What comes after the end was repaired: a task out of quarantine. A repeated batch changes nothing.
        None => Way::Release,
        Some(fetch) if fetch.status == Status::Passed => Way::Release,
        Some(fetch) => Way::Quarantine(fetch.why.clone()),
    }
}

fn way_of_open(releasing: &mut Releasing, state: &RunState, batch: BatchId) -> Way {
    let instead = releasing.instead.get(&batch.task).copied();
    let task = releasing.tasks.get(&batch.task);
    let whole = task.filter(|task| task.whole).map(|task| task.attempt);
    let chosen = whole.or(instead).or_else(|| state.chosen(batch.task));
    if chosen == Some(batch.attempt) {
        return Way::Release;
    }
    if whole.is_some() || state.has_gone_on(batch.task) {
        return Way::Drop("another attempt at its task went on".to_owned());
    }
    let since = *releasing.latest.get_or_insert_with(Instant::now);
    let is_whole = state.has_read(batch.task, batch.attempt).is_some();
    if is_whole && since.elapsed() >= STUCK {
        tracing::warn!(
            run = %state.run(), task = %batch.task, attempt = batch.attempt,
            "batches of the attempt that was chosen did not come; this attempt goes on instead"
        );
        releasing.instead.insert(batch.task, batch.attempt);
        return Way::Release;
    }
    Way::Wait("another attempt at its task goes on first".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use batch::{Fact, Receipt, RunMode, RunPlan};

    fn run() -> RunId {
        "batched-1".parse().unwrap()
    }

    fn task() -> TaskHash {
        TaskHash::of([b"t".as_slice()])
    }

    fn batch(attempt: u32, sequence: u32) -> BatchId {
        BatchId {
            task: task(),
            attempt,
            sequence,
        }
    }

    fn say(held: &mut Held, fact: Fact) {
        held.ledger.apply(&Receipt {
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

    fn judged(decision: Decision) -> [Fact; 2] {
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
    fn held(attempts: &[u32]) -> Held {
        let mut held = Held::default();
        say(
            &mut held,
            Fact::Started {
                pipeline: "batched".into(),
                mode: RunMode::Full,
                until_ms: 1,
                shards: 1,
                stores: vec!["es".into()],
                partial: false,
                source: String::new(),
                nonce: String::new(),
                run_plan: Some(RunPlan::default()),
            },
        );
        attempts.iter().for_each(|n| say(&mut held, fetched(*n)));
        held
    }

    fn open(attempts: &[u32]) -> Held {
        let mut held = held(attempts);
        judged(Decision::Passed)
            .into_iter()
            .for_each(|fact| say(&mut held, fact));
        held
    }

    #[test]
    fn batches_wait_until_their_runs_fetching_is_judged() {
        let mut held = held(&[1]);
        assert_eq!(held.way(&run(), batch(1, 0)), Way::Hold);
        for fact in judged(Decision::Passed) {
            say(&mut held, fact);
        }
        assert_eq!(held.way(&run(), batch(1, 0)), Way::Release);
    }

    #[test]
    fn batches_of_a_rejected_run_have_the_verdict_as_their_one_cause() {
        let mut held = held(&[1]);
        for fact in judged(Decision::Rejected) {
            say(&mut held, fact);
        }
        let cause = "8 of 10 tasks fetched".to_owned();
        assert_eq!(held.way(&run(), batch(1, 0)), Way::Quarantine(cause));
    }

    #[tokio::test(start_paused = true)]
    async fn of_two_successful_attempts_the_first_goes_on_and_the_other_is_dropped_when_it_has() {
        let mut held = open(&[9, 1]);
        assert!(matches!(held.way(&run(), batch(9, 0)), Way::Wait(_)));
        assert_eq!(held.way(&run(), batch(1, 0)), Way::Release);
        assert_eq!(held.released(&run(), batch(1, 0)), None);
        // The same batch again counts once.
        assert_eq!(held.released(&run(), batch(1, 0)), None);
        assert!(matches!(held.way(&run(), batch(9, 0)), Way::Wait(_)));
        assert_eq!(held.released(&run(), batch(1, 1)), Some((1, 2)));
        assert!(matches!(held.way(&run(), batch(9, 0)), Way::Drop(_)));
        assert!(matches!(held.way(&run(), batch(2, 0)), Way::Drop(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_never_comes_whole_is_made_up_for_by_another_one() {
        let mut held = open(&[1, 9]);
        held.released(&run(), batch(1, 0));
        assert!(matches!(held.way(&run(), batch(9, 0)), Way::Wait(_)));
        tokio::time::advance(STUCK).await;
        // An attempt that was not read to its end cannot.
        assert!(matches!(held.way(&run(), batch(5, 0)), Way::Wait(_)));
        assert_eq!(held.way(&run(), batch(9, 0)), Way::Release);
        assert_eq!(held.way(&run(), batch(9, 1)), Way::Release);
        held.released(&run(), batch(9, 0));
        assert_eq!(held.released(&run(), batch(9, 1)), Some((9, 2)));
        assert!(matches!(held.way(&run(), batch(1, 1)), Way::Drop(_)));
    }

    #[test]
    fn what_another_process_released_is_known_from_the_ledger() {
        let mut held = open(&[1, 9]);
        say(
            &mut held,
            Fact::Released {
                task: task(),
                attempt: 1,
                batches: 2,
            },
        );
        assert!(matches!(held.way(&run(), batch(9, 0)), Way::Drop(_)));
    }

    #[test]
    fn an_abandoned_run_is_dropped_and_an_unknown_one_is_neither_dropped_nor_released() {
        let mut held = held(&[1]);
        assert_eq!(
            held.way(&"other".parse().unwrap(), batch(1, 0)),
            Way::Unknown
        );
        let (who, why) = ("ada".to_owned(), "wrong table".to_owned());
        say(&mut held, Fact::Abandoned { who, why });
        assert!(matches!(held.way(&run(), batch(1, 0)), Way::Drop(_)));
    }
}
