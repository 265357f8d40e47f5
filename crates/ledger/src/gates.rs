use batch::{Decision, Reason, RunMode, Stage, Started};

use crate::rules::GateRules;
use crate::run::RunState;
use crate::stage_log::{OrderFailure, ShardProgress};
use crate::totals::StoreTotals;

/// A decision that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateDecision {
    pub stage: Stage,
    pub decision: Decision,
    pub why: String,
}

/// The decisions that are due at `now_ms`, in the order of the stages, each with those before it taken for granted.
pub fn evaluate_gates(run: &RunState, rules: &GateRules, now_ms: i64) -> Vec<GateDecision> {
    let (Some(started), None) = (run.started(), run.abandoned()) else {
        return Vec::new();
    };
    let Some(run_plan) = &started.run_plan else {
        return Vec::new();
    };
    let mut evaluator = GateEvaluator {
        run,
        started,
        now_ms,
        due: Vec::new(),
    };
    for stage in run.stages() {
        let rules = rules.for_stage(&stage, &run_plan.overrides);
        evaluator.evaluate(stage, &rules);
    }
    evaluator.due
}

struct GateEvaluator<'a> {
    run: &'a RunState,
    started: &'a Started,
    now_ms: i64,
    due: Vec<GateDecision>,
}

/// A decision on a stage that is due.
struct StageDecision {
    decision: Decision,
    why: String,
}

impl StageDecision {
    fn passed(why: impl Into<String>) -> Self {
        let (decision, why) = (Decision::Passed, why.into());
        Self { decision, why }
    }

    fn skipped(why: impl Into<String>) -> Self {
        let (decision, why) = (Decision::Skipped, why.into());
        Self { decision, why }
    }

    fn rejected(why: impl Into<String>) -> Self {
        let (decision, why) = (Decision::Rejected, why.into());
        Self { decision, why }
    }
}

/// A stage on which no decision is due gives `None`.
impl GateEvaluator<'_> {
    fn evaluate(&mut self, stage: Stage, rules: &GateRules) {
        if self.run.outcome(&stage).is_some() {
            return;
        }
        let before = self.run.before(&stage);
        let not_passed = before.iter().find_map(|earlier| {
            let decision = self.decision(earlier)?;
            (decision != Decision::Passed).then(|| format!("{earlier} was {decision}"))
        });
        let is_open = |earlier: &Stage| self.decision(earlier).is_none();
        // SERP nodes of the shards whose dictionaries were applied are restarted whatever became of the others.
        let finding = match (&stage, not_passed) {
            (Stage::Serp, _) => self.serp(rules),
            (Stage::Dictionary, _) if self.run.ordered().is_some() => self.dictionary(rules),
            (_, Some(why)) => Some(StageDecision::skipped(why)),
            (Stage::Plan, _) => self.plan(rules),
            (_, None) if before.iter().any(is_open) => None,
            (Stage::Fetch, _) => self.fetch(rules),
            (Stage::Store(store), _) => self.store(store, rules),
            (Stage::Sync, _) => self.sync(rules),
            (Stage::Dictionary, _) => self.dictionary(rules),
        };
        if let Some(StageDecision { decision, why }) = finding {
            self.due.push(GateDecision {
                stage,
                decision,
                why,
            });
        }
    }

    /// Of the run's receipts, or due.
    fn decision(&self, stage: &Stage) -> Option<Decision> {
        match self.due.iter().find(|due| due.stage == *stage) {
            Some(due) => Some(due.decision),
            None => self.run.decision(stage),
        }
    }

    fn is_late(&self, rules: &GateRules) -> bool {
        // A decision gives what it reopens as much time again.
        let decided_ms = self.run.stage_log.latest_decision_ms();
        let since = decided_ms.max(self.run.started_ms()).unwrap_or(i64::MIN);
        self.now_ms > since.saturating_add(rules.deadline_ms)
    }

    fn plan(&self, rules: &GateRules) -> Option<StageDecision> {
        if let Some(manifest) = self.run.manifest {
            let why = format!(
                "{} tasks published, {} rows at most",
                manifest.tasks, manifest.estimated_rows
            );
            return Some(StageDecision::passed(why));
        }
        self.is_late(rules).then(|| {
            let why = "past its deadline without a manifest: not all tasks were published";
            StageDecision::rejected(why)
        })
    }

    fn fetch(&self, rules: &GateRules) -> Option<StageDecision> {
        let run = self.run;
        let Some(manifest) = run.manifest else {
            // An operator may have approved the plan of a queuer that died.
            let why = "past its deadline without a manifest: how many tasks there are is not known";
            return self.is_late(rules).then(|| StageDecision::rejected(why));
        };
        let tasks = &run.tasks.totals;
        let (planned, fetched) = (manifest.tasks, tasks.fetched);
        let (given_up, waiting) = (tasks.quarantined, tasks.failed);
        let counts = format!("{fetched} of {planned} tasks fetched, {given_up} given up");
        if planned > 0 && reaches(given_up, planned, rules.max_failed_task_ratio) {
            let limit = rules.max_failed_task_ratio;
            let why = format!("{counts}: at or above max_failed_task_ratio {limit}");
            return Some(StageDecision::rejected(why));
        }
        if fetched + given_up < planned || waiting > 0 {
            return self.is_late(rules).then(|| {
                let why = format!("past its deadline: {counts}, {waiting} failed and waiting");
                StageDecision::rejected(why)
            });
        }
        if tasks.rows > 0 {
            let why = format!("{counts}, {} rows", tasks.rows);
            return Some(StageDecision::passed(why));
        }
        let is_incremental = matches!(self.started.mode, RunMode::Since { .. });
        Some(if is_incremental && rules.pass_without_changes {
            StageDecision::passed("nothing changed")
        } else {
            let why = format!("an empty run: {counts}, no row");
            StageDecision::rejected(why)
        })
    }

    fn store(&self, store: &str, rules: &GateRules) -> Option<StageDecision> {
        let run = self.run;
        let rows_read = run.tasks.totals.rows;
        let totals = run.tasks.store(store);
        let rows = totals.map(|t| t.rows.clone()).unwrap_or_default();
        let counts = format!(
            "{} rows read = {} stored + {} unchanged + {} skipped + {} quarantined",
            rows_read, rows.stored, rows.unchanged, rows.skipped, rows.quarantined
        );
        if !run.store_is_complete(store) {
            return self.is_late(rules).then(|| {
                let accounted = rows.total();
                let why =
                    format!("past its deadline: {accounted} of {rows_read} rows accounted for");
                StageDecision::rejected(why)
            });
        }
        if rows_read > 0 && reaches(rows.quarantined, rows_read, rules.max_rejected_row_ratio) {
            let limit = rules.max_rejected_row_ratio;
            let reasons = totals.map(StoreTotals::reasons).unwrap_or_default();
            let reasons: Vec<&str> = reasons.into_keys().map(Reason::as_str).collect();
            let reasons = reasons.join(", ");
            let why = format!("{counts} ({reasons}): at or above max_rejected_row_ratio {limit}");
            return Some(StageDecision::rejected(why));
        }
        // There are more when a batch changed on its way. Expected are the rows of the attempts that count in this
        // store: another attempt at a task may have read other ones.
        let expected = totals.map_or(0, |totals| totals.expected);
        if rows.total() != expected {
            let why = format!("the rows do not add up: {counts}");
            return self.is_late(rules).then_some(StageDecision::rejected(why));
        }
        Some(StageDecision::passed(counts))
    }

    fn sync(&self, rules: &GateRules) -> Option<StageDecision> {
        if self.started.partial {
            return Some(StageDecision::skipped("the run was partial"));
        }
        if self.run.tasks.totals.rows == 0 {
            return Some(StageDecision::skipped("nothing changed"));
        }
        self.shards(rules, ShardProgress::is_synced, |done, all| {
            format!("{done} of {all} shards in sync")
        })
    }

    fn dictionary(&self, rules: &GateRules) -> Option<StageDecision> {
        self.shards(rules, ShardProgress::is_applied, |done, all| {
            format!("applied on {done} of {all} shards")
        })
    }

    /// The result of the orders for the dictionaries, by what each shard has to be.
    fn shards(
        &self,
        rules: &GateRules,
        is_done: fn(&ShardProgress) -> bool,
        counts: impl FnOnce(usize, usize) -> String,
    ) -> Option<StageDecision> {
        let ordered = self.run.ordered()?;
        let shards = &self.run.stage_log.shards;
        let is_done = |shard: &u32| shards.get(shard).is_some_and(is_done);
        let open = ordered.shards.iter().filter(|shard| !is_done(shard));
        let open = open.map(|shard| {
            let target = shard.to_string();
            // The shards of an order that was stale were never synced.
            let stages = [Stage::Sync, Stage::Dictionary];
            let failure = stages
                .iter()
                .find_map(|stage| self.failure(stage, &target))?;
            Some(format!(
                "shard {shard}: {}: {}",
                failure.step, failure.error
            ))
        });
        let open: Vec<_> = open.collect();
        let all = ordered.shards.len();
        let deadline_ms = ordered.at_ms.saturating_add(rules.orders_deadline_ms);
        self.orders(counts(all - open.len(), all), &open, deadline_ms)
    }

    fn serp(&self, rules: &GateRules) -> Option<StageDecision> {
        // Nodes are known when the dictionaries are done with.
        let dictionary = self.decision(&Stage::Dictionary)?;
        let nodes = &self.run.stage_log.nodes;
        let Some(ordered) = self.run.ordered().filter(|_| !nodes.is_empty()) else {
            let why = match dictionary {
                Decision::Passed => "no SERP node serves these shards".to_owned(),
                other => format!("{} was {other}", Stage::Dictionary),
            };
            return Some(StageDecision::skipped(why));
        };
        let open = nodes.iter().filter(|(_, served_ms)| served_ms.is_none());
        let open = open.map(|(name, _)| {
            let failure = self.failure(&Stage::Serp, name)?;
            Some(format!("{name}: {}: {}", failure.step, failure.error))
        });
        let open: Vec<_> = open.collect();
        let all = nodes.len();
        let counts = format!(
            "{} of {all} nodes serve the run's version",
            all - open.len()
        );
        let deadline_ms = ordered.at_ms.saturating_add(rules.serp_deadline_ms);
        self.orders(counts, &open, deadline_ms)
    }

    /// What an order was given up for. What failed before an operator's decision asked for it again counts no more.
    fn failure(&self, stage: &Stage, target: &str) -> Option<&OrderFailure> {
        let log = &self.run.stage_log;
        let given_up = log.failures_of(stage, target)?.given_up.as_ref();
        let since = log.latest_decision_ms_on(&self.run.before(&Stage::Dictionary));
        given_up.filter(|failure| since.is_none_or(|since| failure.at_ms >= since))
    }

    /// Every order done passes the stage; every order done or given up ends it; the deadline ends it too. `open`: of
    /// each order that is not done why it was given up, if it was.
    fn orders(
        &self,
        counts: String,
        open: &[Option<String>],
        deadline_ms: i64,
    ) -> Option<StageDecision> {
        if open.is_empty() {
            return Some(StageDecision::passed(counts));
        }
        let given_up: Vec<&str> = open.iter().flatten().map(String::as_str).collect();
        let given_up = given_up.join("; ");
        if open.iter().all(Option::is_some) {
            let why = format!("{counts}; given up: {given_up}");
            return Some(StageDecision::rejected(why));
        }
        (self.now_ms > deadline_ms).then(|| {
            let separator = if given_up.is_empty() { "" } else { "; " };
            let why = format!("past its deadline: {counts}{separator}{given_up}");
            StageDecision::rejected(why)
        })
    }
}

/// Whether `part` of `whole` is at or above the limit: both of the same unit.
fn reaches(part: u64, whole: u64, limit: f64) -> bool {
    part > 0 && part as f64 / whole as f64 >= limit
}
