use std::collections::BTreeMap;

use batch::{Decision, Reason, Stage};

use crate::run::{RunState, Started};
use crate::stages::OrderFailure;
use crate::task::TaskStatus;

/// By which rules a run is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct GateRules {
    /// Share of the planned tasks from which on failed ones reject the run's fetching.
    pub max_failed_task_ratio: f64,
    /// Share of a store's rows from which on rows in quarantine reject its stage.
    pub max_rejected_row_ratio: f64,
    /// Milliseconds from the run's beginning to the latest moment at which fetching and stores may close.
    pub deadline_ms: i64,
    /// Milliseconds from the order for the dictionaries to the latest moment at which what it led to may close.
    pub orders_deadline_ms: i64,
    /// The same for the restart of the SERP service.
    pub serp_deadline_ms: i64,
    /// An incremental run in which nothing changed passes instead of being rejected.
    pub pass_without_changes: bool,
    /// Rules of this pipeline alone, by their names; those of a run stand above them.
    pub overrides: BTreeMap<String, String>,
}

/// Names by which rules are overridden, for a pipeline or a run.
const RULES: [&str; 5] = [
    "max_failed_task_ratio",
    "max_rejected_row_ratio",
    "deadline_seconds",
    "orders_deadline_seconds",
    "serp_deadline_seconds",
];

/// Refuses a rule that there is not, or a number that it cannot have.
pub fn check_rule(name: &str, value: &str) -> Result<(), String> {
    GateRules {
        max_failed_task_ratio: 0.0,
        max_rejected_row_ratio: 0.0,
        deadline_ms: 0,
        orders_deadline_ms: 0,
        serp_deadline_ms: 0,
        pass_without_changes: false,
        overrides: BTreeMap::new(),
    }
    .set(name, value)
}

impl GateRules {
    /// These rules with those of `overrides` in their place: a rule by its name, or for one stage alone
    /// by `STAGE.NAME`. What cannot be read is left as it is, and named in the error.
    pub fn overridden(
        &self,
        overrides: &BTreeMap<String, String>,
        stage: &Stage,
    ) -> Result<Self, String> {
        let mut rules = self.clone();
        let of_all = overrides.iter().filter(|(name, _)| !name.contains('.'));
        let prefix = format!("{stage}.");
        let of_stage = overrides.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix(&prefix)?;
            Some((name, value))
        });
        for (name, value) in of_all.map(|(n, v)| (n.as_str(), v)).chain(of_stage) {
            rules.set(name, value)?;
        }
        Ok(rules)
    }

    /// The rules by which a stage is judged: those of the run stand above those of the pipeline, which stand above the
    /// common ones. What cannot be read was refused when it was set; should it be another release's, the rule below it
    /// stands.
    pub fn of_stage(&self, stage: &Stage, of_run: &BTreeMap<String, String>) -> Self {
        let of_pipeline = self.overridden(&self.overrides, stage);
        let rules = of_pipeline.unwrap_or_else(|_| self.clone());
        rules.overridden(of_run, stage).unwrap_or(rules)
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let number: f64 = value
            .parse()
            .ok()
            .filter(|number: &f64| number.is_finite() && *number >= 0.0)
            .ok_or_else(|| format!("{name} must be a number from 0 on, not {value:?}"))?;
        let is_share = matches!(name, "max_failed_task_ratio" | "max_rejected_row_ratio");
        if is_share && number > 1.0 {
            return Err(format!(
                "{name} is a share, from 0 to 1, not {value:?}: 7 % is 0.07"
            ));
        }
        match name {
            "max_failed_task_ratio" => self.max_failed_task_ratio = number,
            "max_rejected_row_ratio" => self.max_rejected_row_ratio = number,
            "deadline_seconds" => self.deadline_ms = (number * 1000.0) as i64,
            "orders_deadline_seconds" => self.orders_deadline_ms = (number * 1000.0) as i64,
            "serp_deadline_seconds" => self.serp_deadline_ms = (number * 1000.0) as i64,
            other => {
                let known = RULES.join(", ");
                return Err(format!("there is no rule {other:?}; there are {known}"));
            }
        }
        Ok(())
    }
}

/// A decision that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateDecision {
    pub stage: Stage,
    pub decision: Decision,
    pub why: String,
}

/// The decisions that are due at `now_ms`, in the order of the stages, each taking those before it for given. Pure:
/// whoever asks with the same receipts and the same clock gets the same answer.
pub fn evaluate_gates(run: &RunState, rules: &GateRules, now_ms: i64) -> Vec<GateDecision> {
    let (Some(started), None) = (&run.started, &run.abandoned) else {
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
        let rules = rules.of_stage(&stage, &run_plan.overrides);
        evaluator.look_at(stage, &rules);
    }
    evaluator.due
}

struct GateEvaluator<'a> {
    run: &'a RunState,
    started: &'a Started,
    now_ms: i64,
    due: Vec<GateDecision>,
}

type Finding = Option<(Decision, String)>;

impl GateEvaluator<'_> {
    fn look_at(&mut self, stage: Stage, rules: &GateRules) {
        if self.run.outcome(&stage).is_some() {
            return;
        }
        let before = self.run.before(&stage);
        let bad = before.iter().find_map(|earlier| {
            let decision = self.decision(earlier)?;
            (decision != Decision::Passed).then(|| format!("{earlier} was {decision}"))
        });
        // SERP nodes of the shards whose dictionaries were applied are restarted whatever became of the others.
        let finding = match (&stage, bad) {
            (Stage::Serp, _) => self.serp(rules),
            (Stage::Dictionary, _) if self.run.ordered().is_some() => self.dictionary(rules),
            (_, Some(why)) => Some((Decision::Skipped, why)),
            (Stage::Plan, _) => self.plan(rules),
            (_, None)
                if before
                    .iter()
                    .any(|earlier| self.decision(earlier).is_none()) =>
            {
                None
            }
            (Stage::Fetch, _) => self.fetch(rules),
            (Stage::Store(store), _) => self.store(store, rules),
            (Stage::Sync, _) => self.sync(rules),
            (Stage::Dictionary, _) => self.dictionary(rules),
        };
        if let Some((decision, why)) = finding {
            self.due.push(GateDecision {
                stage,
                decision,
                why,
            });
        }
    }

    /// As it stands, or as it was found just now.
    fn decision(&self, stage: &Stage) -> Option<Decision> {
        let found = self.due.iter().find(|due| due.stage == *stage);
        found
            .map(|due| due.decision)
            .or_else(|| self.run.decision(stage))
    }

    fn is_late(&self, rules: &GateRules) -> bool {
        // A decision gives what it reopens as much time again.
        let since = self.run.stages.decided_ms().unwrap_or(i64::MIN);
        let since = since.max(self.started.at_ms);
        self.now_ms > since.saturating_add(rules.deadline_ms)
    }

    fn plan(&self, rules: &GateRules) -> Finding {
        if let Some((tasks, rows)) = self.run.manifest {
            let why = format!("{tasks} tasks published, {rows} rows at most");
            return Some((Decision::Passed, why));
        }
        self.is_late(rules).then(|| {
            let why = "past its deadline without a manifest: not all tasks were published";
            (Decision::Rejected, why.to_owned())
        })
    }

    fn fetch(&self, rules: &GateRules) -> Finding {
        let run = self.run;
        let Some((planned, _)) = run.manifest else {
            // An operator may have approved the plan of a queuer that died.
            let why = "past its deadline without a manifest: how many tasks there are is not known";
            return self
                .is_late(rules)
                .then(|| (Decision::Rejected, why.to_owned()));
        };
        let fetched = run.tasks_in(TaskStatus::Fetched);
        let given_up = run.tasks_in(TaskStatus::Quarantined);
        let waiting = run.tasks_in(TaskStatus::Failed);
        let counts = format!("{fetched} of {planned} tasks fetched, {given_up} given up");
        if planned > 0 && reaches(given_up, planned, rules.max_failed_task_ratio) {
            let why = format!(
                "{counts}: {}",
                limit("max_failed_task_ratio", rules.max_failed_task_ratio)
            );
            return Some((Decision::Rejected, why));
        }
        if fetched + given_up < planned || waiting > 0 {
            return self.is_late(rules).then(|| {
                let why = format!("past its deadline: {counts}, {waiting} failed and waiting");
                (Decision::Rejected, why)
            });
        }
        if run.rows > 0 {
            return Some((Decision::Passed, format!("{counts}, {} rows", run.rows)));
        }
        let of_changes = matches!(self.started.mode, batch::RunMode::Since { .. });
        Some(match of_changes && rules.pass_without_changes {
            true => (Decision::Passed, "nothing changed".to_owned()),
            false => (
                Decision::Rejected,
                format!("an empty run: {counts}, no row"),
            ),
        })
    }

    fn store(&self, store: &str, rules: &GateRules) -> Finding {
        let run = self.run;
        let rows = run.totals_of(store).map(|t| t.rows.clone());
        let rows = rows.unwrap_or_default();
        let counts = format!(
            "{} rows read = {} stored + {} unchanged + {} skipped + {} quarantined",
            run.rows, rows.stored, rows.unchanged, rows.skipped, rows.quarantined
        );
        if !run.has_closed(store) {
            return self.is_late(rules).then(|| {
                let why = format!(
                    "past its deadline: {} of {} rows accounted for",
                    rows.total(),
                    run.rows
                );
                (Decision::Rejected, why)
            });
        }
        if run.rows > 0 && reaches(rows.quarantined, run.rows, rules.max_rejected_row_ratio) {
            let rule = limit("max_rejected_row_ratio", rules.max_rejected_row_ratio);
            let reasons: Vec<&str> = run
                .totals_of(store)
                .map(|totals| totals.reasons().into_keys().map(Reason::as_str).collect())
                .unwrap_or_default();
            let why = format!("{counts} ({}): {rule}", reasons.join(", "));
            return Some((Decision::Rejected, why));
        }
        // More answers than rows are of a batch that changed on its way. The rows are those of the attempts that the
        // store has: another attempt at a task may have read other ones.
        let expected = run.totals_of(store).map_or(0, |totals| totals.expected);
        if rows.total() != expected {
            let why = format!("the rows do not add up: {counts}");
            return self.is_late(rules).then_some((Decision::Rejected, why));
        }
        Some((Decision::Passed, counts))
    }

    fn nothing_to_order(&self) -> Option<String> {
        if self.started.partial {
            return Some("the run was partial".to_owned());
        }
        (self.run.rows == 0).then(|| "nothing changed".to_owned())
    }

    fn sync(&self, rules: &GateRules) -> Finding {
        if let Some(why) = self.nothing_to_order() {
            return Some((Decision::Skipped, why));
        }
        let (ordered_ms, shards) = self.run.ordered()?;
        let state = |shard: &u32| self.run.stages.shards.get(shard);
        let synced = |shard: &&u32| {
            let shard = state(shard);
            shard.is_some_and(|s| s.synced_ms.is_some() || s.applied.is_some())
        };
        let done = shards.iter().filter(synced).count();
        // An order that was stale, say, never came to the syncing.
        let stages = [Stage::Sync, Stage::Dictionary];
        let given_up = self.given_up(shards, &stages, |shard| synced(&shard));
        let counts = format!("{done} of {} shards in sync", shards.len());
        let deadline = ordered_ms.saturating_add(rules.orders_deadline_ms);
        self.of_orders(done, shards.len(), given_up, counts, deadline)
    }

    fn dictionary(&self, rules: &GateRules) -> Finding {
        let (ordered_ms, shards) = self.run.ordered()?;
        let applied = |shard: &&u32| {
            let shard = self.run.stages.shards.get(shard);
            shard.is_some_and(|shard| shard.applied.is_some())
        };
        let done = shards.iter().filter(applied).count();
        let stages = [Stage::Sync, Stage::Dictionary];
        let given_up = self.given_up(shards, &stages, |shard| applied(&shard));
        let counts = format!("applied on {done} of {} shards", shards.len());
        let deadline = ordered_ms.saturating_add(rules.orders_deadline_ms);
        self.of_orders(done, shards.len(), given_up, counts, deadline)
    }

    fn serp(&self, rules: &GateRules) -> Finding {
        // Nodes are known when the dictionaries are done with.
        let dictionary = self.decision(&Stage::Dictionary)?;
        let nodes = &self.run.stages.nodes;
        let Some((ordered_ms, _)) = self.run.ordered().filter(|_| !nodes.is_empty()) else {
            let why = match dictionary {
                Decision::Passed => "no SERP node serves these shards".to_owned(),
                other => format!("{} was {other}", Stage::Dictionary),
            };
            return Some((Decision::Skipped, why));
        };
        let done = nodes.values().filter(|node| node.done.is_some()).count();
        let names: Vec<&String> = nodes
            .iter()
            .filter(|(_, node)| node.done.is_none())
            .map(|(name, _)| name)
            .collect();
        let failed = names.iter().filter_map(|name| {
            self.failure(&Stage::Serp, name)
                .map(|failure| format!("{name}: {}: {}", failure.step, failure.error))
        });
        let counts = format!("{done} of {} nodes serve the run's version", nodes.len());
        let deadline = ordered_ms.saturating_add(rules.serp_deadline_ms);
        self.of_orders(done, nodes.len(), failed.collect(), counts, deadline)
    }

    /// Why shards that are not done never will be by themselves: each by the failure that gave it up.
    fn given_up<'s>(
        &self,
        shards: impl IntoIterator<Item = &'s u32>,
        stages: &[Stage],
        is_done: impl Fn(&u32) -> bool,
    ) -> Vec<String> {
        let open = shards.into_iter().filter(|shard| !is_done(shard));
        let failed = open.filter_map(|shard| {
            let target = shard.to_string();
            let failure = stages
                .iter()
                .find_map(|stage| self.failure(stage, &target))?;
            Some(format!(
                "shard {shard}: {}: {}",
                failure.step, failure.error
            ))
        });
        failed.collect()
    }

    /// What an order was given up for. What failed before an operator's decision asked for it anew counts no more.
    fn failure(&self, stage: &Stage, target: &str) -> Option<&OrderFailure> {
        let stages = &self.run.stages;
        let failures = stages.failures.get(&(stage.clone(), target.to_owned()))?;
        let since = stages.decided_ms_on(&self.run.before(&Stage::Dictionary));
        let given_up = failures.given_up.as_ref();
        given_up.filter(|failure| since.is_none_or(|since| failure.at_ms >= since))
    }

    /// Every order done closes the stage; every order done or given up ends it; the deadline ends it too.
    fn of_orders(
        &self,
        done: usize,
        all: usize,
        given_up: Vec<String>,
        counts: String,
        deadline_ms: i64,
    ) -> Finding {
        if done == all {
            return Some((Decision::Passed, counts));
        }
        if done + given_up.len() >= all {
            let why = format!("{counts}; given up: {}", given_up.join("; "));
            return Some((Decision::Rejected, why));
        }
        let late = self.now_ms > deadline_ms;
        late.then(|| {
            let mut why = format!("past its deadline: {counts}");
            for text in given_up {
                why.push_str("; ");
                why.push_str(&text);
            }
            (Decision::Rejected, why)
        })
    }
}

/// Whether `part` of `whole` is at or above the limit: both of the same unit.
fn reaches(part: u64, whole: u64, limit: f64) -> bool {
    part > 0 && part as f64 / whole as f64 >= limit
}

fn limit(name: &str, value: f64) -> String {
    format!("at or above {name} {value}")
}
