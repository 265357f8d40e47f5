use batch::{Decision, Stage};
use serde::{Deserialize, Serialize};

use crate::run::RunState;
use crate::stage_log::ShardProgress;
use crate::status::StageStatus;

/// One stage of a run, for people: how far it is, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProgress {
    pub stage: Stage,
    pub status: StageStatus,
    /// Tasks, rows, shards or nodes done, and of how many where that is known.
    pub done: u64,
    pub of: Option<u64>,
    /// What `done` counts: `tasks`, `rows`, `shards`, `nodes`.
    pub unit: String,
    /// Milliseconds since the epoch.
    pub began_ms: Option<i64>,
    pub ended_ms: Option<i64>,
    /// The counts that decided; empty while nothing is decided.
    pub why: String,
    /// The operator who decided; absent: the gate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// What did not go well, a line each: a replica that is behind, an order that failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<String>,
}

/// The stages of a run, in their order.
pub(crate) fn stage_progress(run: &RunState) -> Vec<StageProgress> {
    let stages = run.stages().into_iter();
    stages.map(|stage| StageProgress::new(run, stage)).collect()
}

impl StageProgress {
    fn new(run: &RunState, stage: Stage) -> Self {
        let planned = run.manifest.map(|manifest| manifest.tasks);
        let tasks = &run.tasks.totals;
        let ordered = run.ordered().map(|ordered| ordered.shards.len() as u64);
        let shards = |is_done: fn(&ShardProgress) -> bool| {
            let shards = run.stage_log.shards.values();
            shards.filter(|shard| is_done(shard)).count() as u64
        };
        let (done, of, unit) = match &stage {
            Stage::Plan => (planned.unwrap_or(0), planned, "tasks"),
            Stage::Fetch => (tasks.fetched, planned, "tasks"),
            Stage::Store(store) => {
                let rows = run.tasks.store(store).map_or(0, |t| t.rows.total());
                (rows, Some(tasks.rows), "rows")
            }
            Stage::Sync => (shards(ShardProgress::is_synced), ordered, "shards"),
            Stage::Dictionary => (shards(ShardProgress::is_applied), ordered, "shards"),
            Stage::Serp => {
                let nodes = &run.stage_log.nodes;
                let done = nodes.values().flatten().count() as u64;
                let of = (!nodes.is_empty()).then_some(nodes.len() as u64);
                (done, of, "nodes")
            }
        };
        let began_ms = began_ms(run, &stage);
        let outcome = run.outcome(&stage);
        Self {
            status: match &outcome {
                Some(outcome) => outcome.decision.into(),
                // Nothing waits for it any more.
                None if run.abandoned().is_some() => StageStatus::Skipped,
                None if began_ms.is_some() => StageStatus::Running,
                None => StageStatus::Waiting,
            },
            done,
            of,
            unit: unit.to_owned(),
            began_ms,
            ended_ms: outcome.as_ref().map(|outcome| outcome.at_ms),
            why: outcome.as_ref().map(|r| r.why.clone()).unwrap_or_default(),
            by: outcome.and_then(|outcome| outcome.who),
            problems: problems(run, &stage),
            stage,
        }
    }
}

fn began_ms(run: &RunState, stage: &Stage) -> Option<i64> {
    let shards = || run.stage_log.shards.values();
    match stage {
        Stage::Plan => run.started_ms(),
        Stage::Fetch => run.manifest_ms,
        // In a pipeline that holds nothing back they begin with the first batch.
        Stage::Store(store) if run.tasks.store(store).is_some() => run.manifest_ms,
        Stage::Store(_) => {
            let fetch = run.outcome(&Stage::Fetch)?;
            (fetch.decision == Decision::Passed).then_some(fetch.at_ms)
        }
        Stage::Sync => run.ordered().map(|ordered| ordered.at_ms),
        Stage::Dictionary => shards().filter_map(|shard| shard.synced_ms).min(),
        Stage::Serp => shards().filter_map(|shard| shard.applied_ms).min(),
    }
}

fn problems(run: &RunState, stage: &Stage) -> Vec<String> {
    let mut problems = Vec::new();
    if *stage == Stage::Sync {
        problems.extend(late_replicas(run));
    }
    for (target, failures) in run.stage_log.failures(stage) {
        let (failure, then) = match (&failures.given_up, &failures.latest) {
            _ if is_done(run, stage, target) => continue,
            (Some(given_up), _) => (given_up, "given up"),
            (None, Some(latest)) => (latest, "will be tried again"),
            (None, None) => continue,
        };
        let (step, error) = (&failure.step, &failure.error);
        let what = if *stage == Stage::Serp {
            "node"
        } else {
            "shard"
        };
        problems.push(format!("{what} {target}: {step}: {error} ({then})"));
    }
    problems
}

fn late_replicas(run: &RunState) -> Vec<String> {
    let mut late = Vec::new();
    for (number, shard) in &run.stage_log.shards {
        for (name, replica) in &shard.replicas {
            let (None, Some(lag)) = (replica.synced_ms, &replica.lag) else {
                continue;
            };
            let behind = match lag.behind_seconds {
                Some(seconds) => format!("{seconds} s behind"),
                None => "behind".to_owned(),
            };
            let error = &lag.error;
            late.push(format!(
                "shard {number}: replica {name} is {behind}: {error}"
            ));
        }
    }
    late
}

/// Whether what failed for `target` was done after all.
fn is_done(run: &RunState, stage: &Stage, target: &str) -> bool {
    let log = &run.stage_log;
    let shard = || {
        let number: u32 = target.parse().ok()?;
        log.shards.get(&number)
    };
    match stage {
        Stage::Plan | Stage::Fetch | Stage::Store(_) => false,
        Stage::Sync => shard().is_some_and(ShardProgress::is_synced),
        Stage::Dictionary => shard().is_some_and(ShardProgress::is_applied),
        Stage::Serp => log.nodes.get(target).is_some_and(Option::is_some),
    }
}
