use batch::{Decision, Reason, RunMode, Stage, Started};

use crate::rules::GateRules;
use crate::run::RunState;
use crate::stage_log::{OrderFailure, ShardProgress};

/// A decision that is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateDecision {
    pub stage: Stage,
    pub decision: Decision,
    pub why: String,
}

/// The decisions that are due at `now_ms`, in the order of the stages, each taking those before it for given. Pure:
/// with the same receipts and the same clock the answer is the same.
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

/// What a stage comes to, and why; `None` while that is open.
type Finding = Option<(Decision, String)>;

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
        // SERP nodes of the shards whose dictionaries were applied are restarted whatever became of the others.
        let finding = match (&stage, not_passed) {
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
        let decided_ms = self.run.stage_log().latest_decision_ms();
        let since = decided_ms.max(self.run.started_ms()).unwrap_or(i64::MIN);
        self.now_ms > since.saturating_add(rules.deadline_ms)
    }

    fn plan(&self, rules: &GateRules) -> Finding {
        if let Some(manifest) = self.run.manifest() {
            let why = format!(
                "{} tasks published, {} rows at most",
                manifest.tasks, manifest.estimated_rows
            );
            return Some((Decision::Passed, why));
        }
        self.is_late(rules).then(|| {
            let why = "past its deadline without a manifest: not all tasks were published";
            (Decision::Rejected, why.to_owned())
        })
    }

    fn fetch(&self, rules: &GateRules) -> Finding {
        let run = self.run;
        let Some(manifest) = run.manifest() else {
            // An operator may have approved the plan of a queuer that died.
            let why = "past its deadline without a manifest: how many tasks there are is not known";
            return self
                .is_late(rules)
                .then(|| (Decision::Rejected, why.to_owned()));
        };
        let tasks = &run.tasks().totals;
        let (planned, fetched) = (manifest.tasks, tasks.fetched);
        let (given_up, waiting) = (tasks.quarantined, tasks.failed);
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
        if tasks.rows > 0 {
            return Some((Decision::Passed, format!("{counts}, {} rows", tasks.rows)));
        }
        let is_incremental = matches!(self.started.mode, RunMode::Since { .. });
        Some(if is_incremental && rules.pass_without_changes {
            (Decision::Passed, "nothing changed".to_owned())
        } else {
            let why = format!("an empty run: {counts}, no row");
            (Decision::Rejected, why)
        })
    }

    fn store(&self, store: &str, rules: &GateRules) -> Finding {
        let run = self.run;
        let rows_read = run.tasks().totals.rows;
        let totals = run.tasks().store(store);
        let rows = totals.map(|t| t.rows.clone()).unwrap_or_default();
        let counts = format!(
            "{} rows read = {} stored + {} unchanged + {} skipped + {} quarantined",
            rows_read, rows.stored, rows.unchanged, rows.skipped, rows.quarantined
        );
        if !run.store_is_complete(store) {
            return self.is_late(rules).then(|| {
                let why = format!(
                    "past its deadline: {} of {} rows accounted for",
                    rows.total(),
                    rows_read
                );
                (Decision::Rejected, why)
            });
        }
        if rows_read > 0 && reaches(rows.quarantined, rows_read, rules.max_rejected_row_ratio) {
            let rule = limit("max_rejected_row_ratio", rules.max_rejected_row_ratio);
            let reasons: Vec<&str> = totals
                .map(|totals| totals.reasons().into_keys().map(Reason::as_str).collect())
                .unwrap_or_default();
            let why = format!("{counts} ({}): {rule}", reasons.join(", "));
            return Some((Decision::Rejected, why));
        }
        // More rows accounted for than read are of a batch that changed on its way. The rows are those of the attempts that the
        // store has: another attempt at a task may have read other ones.
        let expected = totals.map_or(0, |totals| totals.expected);
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
        (self.run.tasks().totals.rows == 0).then(|| "nothing changed".to_owned())
    }

    fn sync(&self, rules: &GateRules) -> Finding {
        if let Some(why) = self.nothing_to_order() {
            return Some((Decision::Skipped, why));
        }
        self.shards(rules, ShardProgress::is_synced, |done, all| {
            format!("{done} of {all} shards in sync")
        })
    }

    fn dictionary(&self, rules: &GateRules) -> Finding {
        self.shards(rules, ShardProgress::is_applied, |done, all| {
            format!("applied on {done} of {all} shards")
        })
    }

    /// What the orders for the dictionaries came to, by what each shard has to be.
    fn shards(
        &self,
        rules: &GateRules,
        is_done: fn(&ShardProgress) -> bool,
        counts: impl FnOnce(usize, usize) -> String,
    ) -> Finding {
        let ordered = self.run.ordered()?;
        let shards = self.run.stage_log().shards();
        let is_done = |shard: &&u32| shards.get(shard).is_some_and(is_done);
        let (done, open): (Vec<&u32>, Vec<&u32>) = ordered.shards.iter().partition(is_done);
        let given_up = open.iter().filter_map(|shard| {
            let target = shard.to_string();
            // An order that was stale, say, never came to the syncing.
            let stages = [Stage::Sync, Stage::Dictionary];
            let failure = stages.iter().find_map(|stage| self.failure(stage, &target));
            failure.map(|failure| format!("shard {shard}: {}: {}", failure.step, failure.error))
        });
        self.orders(OrderCounts {
            done: done.len(),
            all: ordered.shards.len(),
            given_up: given_up.collect(),
            counts: counts(done.len(), ordered.shards.len()),
            deadline_ms: ordered.at_ms.saturating_add(rules.orders_deadline_ms),
        })
    }

    fn serp(&self, rules: &GateRules) -> Finding {
        // Nodes are known when the dictionaries are done with.
        let dictionary = self.decision(&Stage::Dictionary)?;
        let nodes = self.run.stage_log().nodes();
        let Some(ordered) = self.run.ordered().filter(|_| !nodes.is_empty()) else {
            let why = match dictionary {
                Decision::Passed => "no SERP node serves these shards".to_owned(),
                other => format!("{} was {other}", Stage::Dictionary),
            };
            return Some((Decision::Skipped, why));
        };
        let done = nodes.values().flatten().count();
        let open = nodes
            .iter()
            .filter(|(_, restarted_ms)| restarted_ms.is_none());
        let given_up = open.filter_map(|(name, _)| {
            let failure = self.failure(&Stage::Serp, name)?;
            Some(format!("{name}: {}: {}", failure.step, failure.error))
        });
        self.orders(OrderCounts {
            done,
            all: nodes.len(),
            given_up: given_up.collect(),
            counts: format!("{done} of {} nodes serve the run's version", nodes.len()),
            deadline_ms: ordered.at_ms.saturating_add(rules.serp_deadline_ms),
        })
    }

    /// What an order was given up for. What failed before an operator's decision asked for it again counts no more.
    fn failure(&self, stage: &Stage, target: &str) -> Option<&OrderFailure> {
        let log = self.run.stage_log();
        let given_up = log.failures_of(stage, target)?.given_up.as_ref();
        let since = log.latest_decision_ms_on(&self.run.before(&Stage::Dictionary));
        given_up.filter(|failure| since.is_none_or(|since| failure.at_ms >= since))
    }

    /// Every order done passes the stage; every order done or given up ends it; the deadline ends it too.
    fn orders(&self, orders: OrderCounts) -> Finding {
        let OrderCounts {
            done,
            all,
            given_up,
            counts,
            deadline_ms,
        } = orders;
        if done == all {
            return Some((Decision::Passed, counts));
        }
        if done + given_up.len() >= all {
            let why = format!("{counts}; given up: {}", given_up.join("; "));
            return Some((Decision::Rejected, why));
        }
        (self.now_ms > deadline_ms).then(|| {
            let mut why = format!("past its deadline: {counts}");
            for text in given_up {
                why.push_str("; ");
                why.push_str(&text);
            }
            (Decision::Rejected, why)
        })
    }
}

/// What the orders of a stage came to.
struct OrderCounts {
    done: usize,
    all: usize,
    /// Why orders that are not done never will be by themselves.
    given_up: Vec<String>,
    /// The same for a person.
    counts: String,
    deadline_ms: i64,
}

/// Whether `part` of `whole` is at or above the limit: both of the same unit.
fn reaches(part: u64, whole: u64, limit: f64) -> bool {
    part > 0 && part as f64 / whole as f64 >= limit
}

fn limit(name: &str, value: f64) -> String {
    format!("at or above {name} {value}")
}
