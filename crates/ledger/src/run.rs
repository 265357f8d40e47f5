use batch::{BatchId, Decision, Fact, Receipt, RunId, Stage, Started, TaskHash};

use crate::stage_log::{OrderedShards, ShardProgress, StageLog, StageOutcome, keep_least};
use crate::status::{Abandoned, RunStatus};
use crate::task::TaskProblem;
use crate::tasks::{Manifest, Tasks};

/// The state of one run: [`Self::apply`] takes its receipts in, and everything else here is a question that it answers.
#[derive(Debug)]
pub struct RunState {
    run: RunId,
    start: Option<RunStart>,
    /// Two queuers announced it, each with a plan of its own.
    pub(crate) contested: bool,
    pub(crate) manifest: Option<Manifest>,
    /// When the manifest was first published.
    pub(crate) manifest_ms: Option<i64>,
    /// Its tasks and batches, and their totals.
    pub(crate) tasks: Tasks,
    /// What was received about its stages, shard by shard and node by node.
    pub(crate) stage_log: StageLog,
    abandoned: Option<Abandoned>,
    /// Time of the latest receipt.
    pub(crate) latest_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RunStart {
    at_ms: i64,
    started: Started,
}

impl RunState {
    pub fn new(run: RunId) -> Self {
        Self {
            run,
            start: None,
            contested: false,
            manifest: None,
            manifest_ms: None,
            tasks: Tasks::default(),
            stage_log: StageLog::default(),
            abandoned: None,
            latest_ms: i64::MIN,
        }
    }

    /// Takes one receipt of this run in: a table of all facts, and of which part of the state each of them changes.
    pub fn apply(&mut self, receipt: &Receipt) {
        debug_assert_eq!(receipt.run, self.run);
        let at_ms = receipt.at_ms;
        self.latest_ms = self.latest_ms.max(at_ms);
        match &receipt.fact {
            Fact::Started(started) => self.announced(at_ms, started),
            Fact::Manifest {
                tasks,
                estimated_rows,
            } => {
                let manifest = Manifest {
                    tasks: *tasks,
                    estimated_rows: *estimated_rows,
                };
                self.manifest = self.manifest.max(Some(manifest));
                keep_least(&mut self.manifest_ms, at_ms);
            }
            Fact::Abandoned { who, why } => {
                let (who, why) = (who.clone(), why.clone());
                keep_least(&mut self.abandoned, Abandoned { at_ms, who, why });
            }
            fact @ (Fact::Fetched { .. }
            | Fact::FetchFailed { .. }
            | Fact::TaskQuarantined { .. }
            | Fact::Stored { .. }
            | Fact::Released { .. }) => self.tasks.apply(fact),
            fact @ (Fact::GateDecided { .. }
            | Fact::OperatorDecided { .. }
            | Fact::Ordered { .. }
            | Fact::ReplicaSynced { .. }
            | Fact::ReplicaLate { .. }
            | Fact::ShardSynced { .. }
            | Fact::ShardApplied { .. }
            | Fact::NodeRestarted { .. }
            | Fact::OrderFailed { .. }) => self.stage_log.apply(at_ms, fact),
        }
    }

    /// Of several announcements the earliest counts.
    fn announced(&mut self, at_ms: i64, started: &Started) {
        let known = self.start.as_ref();
        self.contested |= known.is_some_and(|known| !known.started.agrees_with(started));
        let started = started.clone();
        keep_least(&mut self.start, RunStart { at_ms, started });
    }

    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// `None` while only later receipts of the run are known.
    pub fn started(&self) -> Option<&Started> {
        self.start.as_ref().map(|start| &start.started)
    }

    /// When it began, in milliseconds since the epoch.
    pub fn started_ms(&self) -> Option<i64> {
        self.start.as_ref().map(|start| start.at_ms)
    }

    /// How, by whom and why it was given up.
    pub fn abandoned(&self) -> Option<&Abandoned> {
        self.abandoned.as_ref()
    }

    pub fn status(&self) -> RunStatus {
        if self.abandoned.is_some() {
            return RunStatus::Abandoned;
        }
        let complete = if self.has_quarantine() {
            RunStatus::CompleteWithQuarantine
        } else {
            RunStatus::Complete
        };
        let stages = self.stages();
        if stages.is_empty() {
            return match self.manifest {
                None => RunStatus::Planning,
                Some(_) if self.is_complete() => complete,
                Some(_) => RunStatus::Running,
            };
        }
        let mut open = stages.iter().filter(|s| self.decision(s).is_none());
        match (open.next(), open.next()) {
            (Some(Stage::Serp), None) => RunStatus::Restarting,
            (Some(_), _) if self.manifest.is_some() => RunStatus::Running,
            (Some(_), _) => RunStatus::Planning,
            (None, _) => {
                let rejected = |stage| self.decision(stage) == Some(Decision::Rejected);
                if stages.iter().any(rejected) {
                    RunStatus::Rejected
                } else {
                    complete
                }
            }
        }
    }

    fn has_quarantine(&self) -> bool {
        let mut stores = self.tasks.stores().iter();
        self.tasks.totals.quarantined > 0 || stores.any(|store| store.rows.quarantined > 0)
    }

    /// Whether it is proved that nothing is missing: the manifest is known, every task was fetched or given up, and
    /// every store of the run has accounted for all rows of the counted attempts.
    pub fn is_complete(&self) -> bool {
        let all = |started: &Started| started.stores.iter().all(|s| self.store_is_complete(s));
        self.is_fetched() && self.started().is_some_and(all)
    }

    /// Every planned task was fetched or given up.
    pub(crate) fn is_fetched(&self) -> bool {
        let totals = &self.tasks.totals;
        let ended = totals.fetched + totals.quarantined;
        self.manifest
            .is_some_and(|manifest| ended >= manifest.tasks)
            && totals.failed == 0
    }

    /// Whether the store has accounted for every row of every task that was fetched.
    pub(crate) fn store_is_complete(&self, store: &str) -> bool {
        let totals = self.tasks.store(store);
        totals.map_or(0, |totals| totals.complete_tasks) == self.tasks.totals.with_rows
    }

    /// Tasks that failed and were not fetched since, and tasks given up, in the order of their hashes.
    pub fn problems(&self) -> Vec<TaskProblem> {
        self.tasks.problems()
    }

    /// The attempt at a task that is released when the run's batches are held: the one that was released already, or
    /// else its first success.
    pub fn attempt_to_release(&self, task: TaskHash) -> Option<u32> {
        let task = self.tasks.get(task)?;
        task.released.or_else(|| Some(task.read()?.attempt))
    }

    /// Whether all batches of the task were released, or every store has accounted for one of its attempts.
    pub fn has_arrived(&self, task: TaskHash) -> bool {
        let Some(task) = self.tasks.get(task) else {
            return false;
        };
        let mut stores = self.started().into_iter().flat_map(|s| &s.stores);
        task.released.is_some() || stores.all(|store| self.tasks.is_covered(task, store))
    }

    /// How many batches the attempt has, if it was read to its end.
    pub fn batches_of(&self, batch: BatchId) -> Option<u32> {
        self.tasks.get(batch.task)?.batches_of(batch.attempt)
    }

    /// The stages of the run in their order; none in a pipeline without gates.
    pub fn stages(&self) -> Vec<Stage> {
        let stages = |started: &Started| Some(started.run_plan.as_ref()?.stages(&started.stores));
        self.started().and_then(stages).unwrap_or_default()
    }

    /// The stages that `stage` builds on.
    pub(crate) fn before(&self, stage: &Stage) -> Vec<Stage> {
        let run_plan = self.started().and_then(|s| s.run_plan.as_ref());
        run_plan.map_or_else(Vec::new, |run_plan| run_plan.before(stage))
    }

    /// How the stage ended, if it has.
    pub fn outcome(&self, stage: &Stage) -> Option<StageOutcome> {
        self.stage_log.outcome(stage, &self.before(stage))
    }

    pub(crate) fn decision(&self, stage: &Stage) -> Option<Decision> {
        self.outcome(stage).map(|outcome| outcome.decision)
    }

    /// Decisions of operators on the run so far: what a receipt of a decision has to name.
    pub fn operator_decisions(&self) -> u32 {
        self.stage_log.operator_decisions()
    }

    /// When the dictionaries were ordered, and of which shards. A decision on something that the refresh builds
    /// on, or on the syncing itself, asks for new orders of what is not applied.
    pub(crate) fn ordered(&self) -> Option<OrderedShards<'_>> {
        let since = if self.unapplied().is_empty() {
            Vec::new()
        } else {
            self.before(&Stage::Dictionary)
        };
        self.stage_log.ordered_since(&since)
    }

    /// Shards whose dictionaries do not have the run's version, as far as is known.
    fn unapplied(&self) -> Vec<u32> {
        let shards = self.started().map_or(0, |started| started.shards);
        let known = &self.stage_log.shards;
        let applied = |shard: &u32| known.get(shard).is_some_and(ShardProgress::is_applied);
        (0..shards).filter(|shard| !applied(shard)).collect()
    }

    /// Shards whose dictionaries are to be ordered now. Empty: none, or not yet.
    pub fn shards_to_order(&self) -> Vec<u32> {
        let run_plan = self.started().and_then(|s| s.run_plan.as_ref());
        let Some(store) = run_plan.and_then(|run_plan| run_plan.dictionary_after.clone()) else {
            return Vec::new();
        };
        let passed = self.decision(&Stage::Store(store)) == Some(Decision::Passed);
        let sync = self.decision(&Stage::Sync);
        let ended = self.decision(&Stage::Dictionary).is_some()
            || matches!(sync, Some(Decision::Skipped | Decision::Rejected));
        if !passed || ended || self.abandoned.is_some() || self.ordered().is_some() {
            return Vec::new();
        }
        if self.stage_log.is_ordered() {
            self.unapplied()
        } else {
            // For all shards, also if a persister that died before its receipt was stored has ordered them already:
            // orders are given at least once.
            let shards = self.started().map_or(0, |started| started.shards);
            (0..shards).collect()
        }
    }
}
