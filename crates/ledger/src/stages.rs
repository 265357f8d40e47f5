use std::collections::{BTreeMap, BTreeSet};

use batch::{Decision, Fact, Receipt, Stage};

use crate::run::RunState;

/// How a stage ended, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageOutcome {
    pub decision: Decision,
    pub why: String,
    /// The operator who decided; `None` for the gate.
    pub who: Option<String>,
    pub at_ms: i64,
}

/// What is known of the failures of one order: the latest, and the latest that gave it up. They are kept apart, for the
/// hosts that tell of them may have clocks that differ.
#[derive(Debug, Default)]
pub(crate) struct OrderFailures {
    pub latest: Option<OrderFailure>,
    pub given_up: Option<OrderFailure>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OrderFailure {
    pub at_ms: i64,
    pub step: String,
    pub error: String,
}

#[derive(Debug, Default)]
pub(crate) struct Shard {
    pub replicas: BTreeMap<String, Replica>,
    /// When every replica was first known to be in sync.
    pub synced_ms: Option<i64>,
    pub applied: Option<Applied>,
}

#[derive(Debug, Default)]
pub(crate) struct Replica {
    pub synced_ms: Option<i64>,
    /// When it was last late, by how many seconds, and what it said.
    pub late: Option<(i64, Option<u64>, String)>,
}

#[derive(Debug)]
pub(crate) struct Applied {
    /// The first time.
    pub at_ms: i64,
    pub entries: u64,
}

/// When a SERP node served the run's version on every port: restarted ports and those that served it already.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub done: Option<(i64, u32, u32)>,
}

/// What was said of a run's stages, apart from its tasks and batches. As everything of a run, it is the same
/// in whatever order it was heard: sets, and the earliest or the latest of what was said of one thing.
#[derive(Debug, Default)]
pub(crate) struct Stages {
    /// By stage, operator decisions known, and time: the first valid one is the decision.
    judged: BTreeSet<(Stage, u32, i64, Decision, String)>,
    /// Decisions of operators, in the order of their times.
    decided: BTreeSet<(i64, Stage, Decision, String, String)>,
    /// Orders for dictionaries: operator decisions known, and time.
    ordered: BTreeMap<(u32, i64), BTreeSet<u32>>,
    pub shards: BTreeMap<u32, Shard>,
    /// SERP nodes: those that were ordered to be restarted, and any other that was heard of.
    pub nodes: BTreeMap<String, Node>,
    /// By stage, and by shard or node.
    pub failures: BTreeMap<(Stage, String), OrderFailures>,
}

impl Stages {
    /// Takes a receipt in, if it is about a stage.
    pub fn apply(&mut self, receipt: &Receipt) {
        let at_ms = receipt.at_ms;
        match receipt.fact.clone() {
            Fact::GateDecided {
                stage,
                decision,
                why,
                operator_decisions,
            } => drop(
                self.judged
                    .insert((stage, operator_decisions, at_ms, decision, why)),
            ),
            Fact::OperatorDecided {
                stage,
                decision,
                who,
                why,
            } => drop(self.decided.insert((at_ms, stage, decision, who, why))),
            Fact::Ordered {
                shards,
                operator_decisions,
            } => self
                .ordered
                .entry((operator_decisions, at_ms))
                .or_default()
                .extend(shards),
            Fact::ReplicaSynced { shard, replica, .. } => {
                let replica = self.replica(shard, replica);
                earliest(&mut replica.synced_ms, at_ms);
            }
            Fact::ReplicaLate {
                shard,
                replica,
                behind_seconds,
                error,
            } => {
                let replica = self.replica(shard, replica);
                replica.late = replica
                    .late
                    .take()
                    .max(Some((at_ms, behind_seconds, error)));
            }
            Fact::ShardSynced { shard, .. } => {
                earliest(&mut self.shards.entry(shard).or_default().synced_ms, at_ms);
            }
            Fact::ShardApplied {
                shard,
                entries,
                nodes,
                ..
            } => self.applied(shard, at_ms, entries, nodes),
            Fact::NodeRestarted {
                node,
                restarted,
                already,
                ..
            } => {
                let node = self.nodes.entry(node).or_default();
                let said = (at_ms, restarted, already);
                node.done = Some(node.done.map_or(said, |done| done.min(said)));
            }
            Fact::OrderFailed {
                stage,
                target,
                step,
                error,
                given_up,
            } => {
                let failure = Some(OrderFailure { at_ms, step, error });
                let failures = self.failures.entry((stage, target)).or_default();
                if given_up {
                    failures.given_up = failures.given_up.take().max(failure.clone());
                }
                failures.latest = failures.latest.take().max(failure);
            }
            _ => {}
        }
    }

    fn replica(&mut self, shard: u32, replica: String) -> &mut Replica {
        let shard = self.shards.entry(shard).or_default();
        shard.replicas.entry(replica).or_default()
    }

    fn applied(&mut self, shard: u32, at_ms: i64, entries: u64, nodes: Vec<String>) {
        let shard = self.shards.entry(shard).or_default();
        let applied = shard.applied.get_or_insert(Applied { at_ms, entries });
        applied.at_ms = applied.at_ms.min(at_ms);
        applied.entries = applied.entries.max(entries);
        for node in nodes {
            self.nodes.entry(node).or_default();
        }
    }

    /// How many decisions of operators there are.
    pub fn operator_decisions(&self) -> u32 {
        self.decided.len() as u32
    }

    /// When the latest decision on one of `stages` was made.
    pub fn decided_ms_on(&self, stages: &[Stage]) -> Option<i64> {
        let mut latest_first = self.decided.iter().rev();
        let on = latest_first.find(|(_, stage, ..)| stages.contains(stage))?;
        Some(on.0)
    }

    /// When the latest decision was made.
    pub fn decided_ms(&self) -> Option<i64> {
        self.decided.last().map(|(at_ms, ..)| *at_ms)
    }

    /// Number of the latest decision, in the order of their times, on one of `stages`; 0: none.
    fn latest_decision_on(&self, stages: &[Stage]) -> u32 {
        let numbered = (1..).zip(&self.decided);
        let on = numbered.filter(|(_, (_, stage, ..))| stages.contains(stage));
        on.last().map_or(0, |(n, _)| n)
    }

    /// The decision on `stage`, which builds on `earlier` ones. A decision of an operator stands above the gate's. A
    /// gate's decision is void when a decision on an earlier stage came after it: it is evaluated again.
    fn outcome(&self, stage: &Stage, earlier: &[Stage]) -> Option<StageOutcome> {
        let decided = self.decided.iter().rev().find(|(_, s, ..)| s == stage);
        if let Some((at_ms, _, decision, who, why)) = decided {
            return Some(StageOutcome {
                decision: *decision,
                why: why.clone(),
                who: Some(who.clone()),
                at_ms: *at_ms,
            });
        }
        let needed = self.latest_decision_on(earlier);
        let mut of_stage = self.judged.iter().filter(|(s, ..)| s == stage);
        let (_, _, at_ms, decision, why) = of_stage.find(|(_, known, ..)| *known >= needed)?;
        Some(StageOutcome {
            decision: *decision,
            why: why.clone(),
            who: None,
            at_ms: *at_ms,
        })
    }

    /// When the dictionaries were last ordered, and those of which shards; since a decision on one of `since`, if
    /// there is one.
    fn ordered_since(&self, since: &[Stage]) -> Option<(i64, &BTreeSet<u32>)> {
        let needed = self.latest_decision_on(since);
        let mut since = self.ordered.range((needed, i64::MIN)..);
        let ((_, at_ms), shards) = since.next_back()?;
        Some((*at_ms, shards))
    }
}

fn earliest(current: &mut Option<i64>, at_ms: i64) {
    *current = Some(current.map_or(at_ms, |current| current.min(at_ms)));
}

impl RunState {
    /// The stages of the run in their order; none in a pipeline that nobody judges.
    pub fn stages(&self) -> Vec<Stage> {
        let started = self.started.as_ref();
        let stages = started.and_then(|s| Some(s.run_plan.as_ref()?.stages(&s.stores)));
        stages.unwrap_or_default()
    }

    /// The stages that `stage` builds on.
    pub(crate) fn before(&self, stage: &Stage) -> Vec<Stage> {
        let run_plan = self.started.as_ref().and_then(|s| s.run_plan.as_ref());
        run_plan.map_or_else(Vec::new, |run_plan| run_plan.before(stage))
    }

    /// How the stage ended, if it has.
    pub fn outcome(&self, stage: &Stage) -> Option<StageOutcome> {
        self.stages.outcome(stage, &self.before(stage))
    }

    pub(crate) fn decision(&self, stage: &Stage) -> Option<Decision> {
        self.outcome(stage).map(|outcome| outcome.decision)
    }

    /// Decisions of operators on the run so far: what a receipt of a decision has to name.
    pub fn operator_decisions(&self) -> u32 {
        self.stages.operator_decisions()
    }

    /// When the dictionaries were ordered, and of which shards. A decision on something that the refresh builds
    /// on, or on the syncing itself, asks for new orders of what is not applied.
    pub(crate) fn ordered(&self) -> Option<(i64, &BTreeSet<u32>)> {
        let since = match self.unapplied().is_empty() {
            true => Vec::new(),
            false => self.before(&Stage::Dictionary),
        };
        self.stages.ordered_since(&since)
    }

    /// Shards whose dictionaries do not have the run's version, as far as is known.
    fn unapplied(&self) -> Vec<u32> {
        let shards = self.started.as_ref().map_or(0, |started| started.shards);
        let applied = |shard: &u32| {
            let shard = self.stages.shards.get(shard);
            shard.is_some_and(|shard| shard.applied.is_some())
        };
        (0..shards).filter(|shard| !applied(shard)).collect()
    }

    /// Shards whose dictionaries are to be ordered now. Empty: none, or not yet.
    pub fn shards_to_order(&self) -> Vec<u32> {
        let Some(started) = &self.started else {
            return Vec::new();
        };
        let run_plan = started.run_plan.as_ref();
        let store = run_plan.and_then(|run_plan| run_plan.dictionary_after.clone());
        let Some(store) = store.map(Stage::Store) else {
            return Vec::new();
        };
        let sync = self.decision(&Stage::Sync);
        let ended = self.decision(&Stage::Dictionary).is_some()
            || matches!(sync, Some(Decision::Skipped | Decision::Rejected));
        let closed = self.decision(&store) == Some(Decision::Passed);
        if !closed || ended || self.abandoned.is_some() || self.ordered().is_some() {
            return Vec::new();
        }
        // Whoever ordered and died before he could say so may be answered already: said at least once, for all.
        match self.stages.ordered.is_empty() {
            true => (0..started.shards).collect(),
            false => self.unapplied(),
        }
    }
}
