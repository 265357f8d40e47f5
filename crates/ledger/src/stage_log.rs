use std::collections::{BTreeMap, BTreeSet};

use batch::{Decision, Fact, Stage};

/// How a stage ended, and by whose decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StageOutcome {
    pub decision: Decision,
    pub why: String,
    /// The operator who decided; `None` for the gate.
    pub who: Option<String>,
    pub at_ms: i64,
}

/// What a gate decided. Of those on one stage the first one counts, in this order, that knew all decisions of operators
/// it had to know.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct GateRecord {
    stage: Stage,
    /// Decisions of operators on the run that were known to the gate.
    operator_decisions: u32,
    at_ms: i64,
    decision: Decision,
    why: String,
}

/// What an operator decided. In the order of their times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct OperatorRecord {
    at_ms: i64,
    stage: Stage,
    decision: Decision,
    who: String,
    why: String,
}

/// An order to refresh dictionaries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RefreshOrder {
    /// Decisions of operators on the run that were known when it was given.
    operator_decisions: u32,
    at_ms: i64,
}

/// The latest failure of one order, and the latest that gave it up: kept apart, since the clocks of their hosts may
/// differ.
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
pub(crate) struct ShardProgress {
    pub replicas: BTreeMap<String, ReplicaProgress>,
    /// When every replica was first known to be in sync.
    pub synced_ms: Option<i64>,
    /// When its dictionary was first known to have the run's version.
    pub applied_ms: Option<i64>,
}

impl ShardProgress {
    /// A dictionary is loaded from replicas in sync alone, so one that is applied proves both.
    pub fn is_synced(&self) -> bool {
        self.synced_ms.is_some() || self.applied_ms.is_some()
    }

    pub fn is_applied(&self) -> bool {
        self.applied_ms.is_some()
    }
}

#[derive(Debug, Default)]
pub(crate) struct ReplicaProgress {
    pub synced_ms: Option<i64>,
    /// The latest.
    pub lag: Option<ReplicaLag>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReplicaLag {
    pub at_ms: i64,
    pub behind_seconds: Option<u64>,
    pub error: String,
}

/// What was received about a run's stages, apart from its tasks and batches. The order of the receipts does not matter:
/// it consists of sets, and of the earliest or the latest about one thing.
#[derive(Debug, Default)]
pub(crate) struct StageLog {
    gates: BTreeSet<GateRecord>,
    operators: BTreeSet<OperatorRecord>,
    /// Shards by the orders for them.
    orders: BTreeMap<RefreshOrder, BTreeSet<u32>>,
    pub shards: BTreeMap<u32, ShardProgress>,
    /// When each SERP node first served the run's version on every port, if it does: those that were ordered to be
    /// restarted, and any other that a receipt names.
    pub nodes: BTreeMap<String, Option<i64>>,
    /// By stage, and by shard or node.
    failures: BTreeMap<(Stage, String), OrderFailures>,
}

/// Receipts.
impl StageLog {
    /// Takes in a fact about a stage.
    pub fn apply(&mut self, at_ms: i64, fact: &Fact) {
        match fact {
            Fact::GateDecided {
                stage,
                decision,
                why,
                operator_decisions,
            } => self.gate_decided(at_ms, stage, *decision, why, *operator_decisions),
            Fact::OperatorDecided {
                stage,
                decision,
                who,
                why,
            } => self.operator_decided(at_ms, stage, *decision, who, why),
            Fact::Ordered {
                shards,
                operator_decisions,
            } => self.refresh_ordered(at_ms, shards, *operator_decisions),
            Fact::ReplicaSynced { shard, replica, .. } => {
                self.replica_synced(at_ms, *shard, replica)
            }
            Fact::ReplicaLate {
                shard,
                replica,
                behind_seconds,
                error,
            } => {
                let lag = ReplicaLag {
                    at_ms,
                    behind_seconds: *behind_seconds,
                    error: error.clone(),
                };
                self.replica_late(*shard, replica, lag);
            }
            Fact::ShardSynced { shard, .. } => self.shard_synced(at_ms, *shard),
            Fact::ShardApplied { shard, nodes, .. } => self.shard_applied(at_ms, *shard, nodes),
            Fact::NodeRestarted { node, .. } => self.node_restarted(at_ms, node),
            Fact::OrderFailed {
                stage,
                target,
                step,
                error,
                given_up,
            } => {
                let (step, error) = (step.clone(), error.clone());
                let failure = OrderFailure { at_ms, step, error };
                self.order_failed(stage, target, failure, *given_up);
            }
            Fact::Started(_)
            | Fact::Manifest { .. }
            | Fact::Fetched { .. }
            | Fact::FetchFailed { .. }
            | Fact::TaskQuarantined { .. }
            | Fact::Stored { .. }
            | Fact::Released { .. }
            | Fact::Abandoned { .. } => {}
        }
    }

    fn gate_decided(
        &mut self,
        at_ms: i64,
        stage: &Stage,
        decision: Decision,
        why: &str,
        operator_decisions: u32,
    ) {
        self.gates.insert(GateRecord {
            stage: stage.clone(),
            operator_decisions,
            at_ms,
            decision,
            why: why.to_owned(),
        });
    }

    fn operator_decided(
        &mut self,
        at_ms: i64,
        stage: &Stage,
        decision: Decision,
        who: &str,
        why: &str,
    ) {
        self.operators.insert(OperatorRecord {
            at_ms,
            stage: stage.clone(),
            decision,
            who: who.to_owned(),
            why: why.to_owned(),
        });
    }

    fn refresh_ordered(&mut self, at_ms: i64, shards: &[u32], operator_decisions: u32) {
        let order = RefreshOrder {
            operator_decisions,
            at_ms,
        };
        self.orders.entry(order).or_default().extend(shards);
    }

    fn replica_synced(&mut self, at_ms: i64, shard: u32, replica: &str) {
        keep_least(&mut self.replica_mut(shard, replica).synced_ms, at_ms);
    }

    fn replica_late(&mut self, shard: u32, replica: &str, lag: ReplicaLag) {
        let known = &mut self.replica_mut(shard, replica).lag;
        *known = known.take().max(Some(lag));
    }

    fn shard_synced(&mut self, at_ms: i64, shard: u32) {
        keep_least(&mut self.shards.entry(shard).or_default().synced_ms, at_ms);
    }

    /// `nodes` are ordered to be restarted for it.
    fn shard_applied(&mut self, at_ms: i64, shard: u32, nodes: &[String]) {
        keep_least(&mut self.shards.entry(shard).or_default().applied_ms, at_ms);
        for node in nodes {
            self.nodes.entry(node.clone()).or_default();
        }
    }

    fn node_restarted(&mut self, at_ms: i64, node: &str) {
        keep_least(self.nodes.entry(node.to_owned()).or_default(), at_ms);
    }

    fn order_failed(&mut self, stage: &Stage, target: &str, failure: OrderFailure, given_up: bool) {
        let key = (stage.clone(), target.to_owned());
        let failures = self.failures.entry(key).or_default();
        if given_up {
            failures.given_up = failures.given_up.take().max(Some(failure.clone()));
        }
        failures.latest = failures.latest.take().max(Some(failure));
    }

    fn replica_mut(&mut self, shard: u32, replica: &str) -> &mut ReplicaProgress {
        let shard = self.shards.entry(shard).or_default();
        shard.replicas.entry(replica.to_owned()).or_default()
    }
}

/// Questions.
impl StageLog {
    /// What failed in `stage`, by shard or node.
    pub fn failures(&self, stage: &Stage) -> impl Iterator<Item = (&str, &OrderFailures)> {
        let from = (stage.clone(), String::new());
        let of_stage = self.failures.range(from..);
        of_stage
            .take_while(move |((of, _), _)| of == stage)
            .map(|((_, target), failures)| (target.as_str(), failures))
    }

    pub fn failures_of(&self, stage: &Stage, target: &str) -> Option<&OrderFailures> {
        self.failures.get(&(stage.clone(), target.to_owned()))
    }

    /// How many decisions of operators there are.
    pub fn operator_decisions(&self) -> u32 {
        self.operators.len() as u32
    }

    /// When an operator last decided on anything.
    pub fn latest_decision_ms(&self) -> Option<i64> {
        self.operators.last().map(|latest| latest.at_ms)
    }

    /// When an operator last decided on one of `stages`.
    pub fn latest_decision_ms_on(&self, stages: &[Stage]) -> Option<i64> {
        let mut latest_first = self.operators.iter().rev();
        let on = latest_first.find(|decided| stages.contains(&decided.stage))?;
        Some(on.at_ms)
    }

    /// Number of the latest decision, in the order of their times, on one of `stages`; 0: none.
    fn latest_decision_on(&self, stages: &[Stage]) -> u32 {
        let numbered = (1..).zip(&self.operators);
        let on = numbered.filter(|(_, decided)| stages.contains(&decided.stage));
        on.last().map_or(0, |(n, _)| n)
    }

    /// The decision on `stage`, which builds on `earlier` ones. A decision of an operator stands above the gate's. A
    /// gate's decision is void when a decision on an earlier stage came after it: it is evaluated again.
    pub fn outcome(&self, stage: &Stage, earlier: &[Stage]) -> Option<StageOutcome> {
        let mut latest_first = self.operators.iter().rev();
        if let Some(decided) = latest_first.find(|decided| decided.stage == *stage) {
            return Some(StageOutcome {
                decision: decided.decision,
                why: decided.why.clone(),
                who: Some(decided.who.clone()),
                at_ms: decided.at_ms,
            });
        }
        let needed = self.latest_decision_on(earlier);
        let mut of_stage = self.gates.iter().filter(|gate| gate.stage == *stage);
        let gate = of_stage.find(|gate| gate.operator_decisions >= needed)?;
        Some(StageOutcome {
            decision: gate.decision,
            why: gate.why.clone(),
            who: None,
            at_ms: gate.at_ms,
        })
    }

    /// Whether dictionaries were ever ordered.
    pub fn is_ordered(&self) -> bool {
        !self.orders.is_empty()
    }

    /// When the dictionaries were last ordered, and those of which shards; since a decision on one of `since`, if
    /// there is one.
    pub fn ordered_since(&self, since: &[Stage]) -> Option<OrderedShards<'_>> {
        let needed = RefreshOrder {
            operator_decisions: self.latest_decision_on(since),
            at_ms: i64::MIN,
        };
        let (order, shards) = self.orders.range(needed..).next_back()?;
        Some(OrderedShards {
            at_ms: order.at_ms,
            shards,
        })
    }
}

/// When dictionaries were ordered, and of which shards.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OrderedShards<'a> {
    pub at_ms: i64,
    pub shards: &'a BTreeSet<u32>,
}

/// Of two receipts about one thing the earlier one counts.
pub(crate) fn keep_least<T: Ord>(current: &mut Option<T>, new: T) {
    if current.as_ref().is_none_or(|current| new < *current) {
        *current = Some(new);
    }
}
