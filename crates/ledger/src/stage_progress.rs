use std::fmt;

use batch::{Decision, Stage};
use serde::{Deserialize, Serialize};

use crate::run::RunState;
use crate::task::TaskStatus;

/// One stage of a run, for people: how far it is, and how it ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageProgress {
    pub stage: Stage,
    pub status: Status,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// What it builds on is not done.
    Waiting,
    Running,
    Passed,
    Skipped,
    Rejected,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "waiting",
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Skipped => "skipped",
            Self::Rejected => "rejected",
        })
    }
}

impl From<Decision> for Status {
    fn from(decision: Decision) -> Self {
        match decision {
            Decision::Passed => Self::Passed,
            Decision::Skipped => Self::Skipped,
            Decision::Rejected => Self::Rejected,
        }
    }
}

impl RunState {
    pub(crate) fn stage_progress(&self) -> Vec<StageProgress> {
        let run_plan = self.stages();
        run_plan
            .into_iter()
            .map(|stage| self.look_at(stage))
            .collect()
    }

    fn look_at(&self, stage: Stage) -> StageProgress {
        let outcome = self.outcome(&stage);
        let (done, of, unit) = self.counts(&stage);
        let began_ms = self.began_ms(&stage);
        let status = match &outcome {
            Some(outcome) => outcome.decision.into(),
            // Nobody waits for it any more.
            None if self.abandoned.is_some() => Status::Skipped,
            None if began_ms.is_some() => Status::Running,
            None => Status::Waiting,
        };
        StageProgress {
            status,
            done,
            of,
            unit: unit.to_owned(),
            began_ms,
            ended_ms: outcome.as_ref().map(|outcome| outcome.at_ms),
            why: outcome.as_ref().map(|r| r.why.clone()).unwrap_or_default(),
            by: outcome.and_then(|outcome| outcome.who),
            problems: self.stage_problems(&stage),
            stage,
        }
    }

    fn counts(&self, stage: &Stage) -> (u64, Option<u64>, &'static str) {
        let planned = self.manifest.map(|(tasks, _)| tasks);
        let shards = &self.stages.shards;
        let ordered = self.ordered().map(|(_, shards)| shards.len() as u64);
        match stage {
            Stage::Plan => (planned.unwrap_or(0), planned, "tasks"),
            Stage::Fetch => (self.tasks_in(TaskStatus::Fetched), planned, "tasks"),
            Stage::Store(store) => {
                let rows = self
                    .totals_of(store)
                    .map_or(0, |totals| totals.rows.total());
                (rows, Some(self.rows), "rows")
            }
            Stage::Sync => {
                let synced = |shard: &&crate::stages::Shard| {
                    shard.synced_ms.is_some() || shard.applied.is_some()
                };
                (
                    shards.values().filter(synced).count() as u64,
                    ordered,
                    "shards",
                )
            }
            Stage::Dictionary => {
                let applied = shards.values().filter(|shard| shard.applied.is_some());
                (applied.count() as u64, ordered, "shards")
            }
            Stage::Serp => {
                let nodes = &self.stages.nodes;
                let done = nodes.values().filter(|node| node.done.is_some());
                let of = (!nodes.is_empty()).then_some(nodes.len() as u64);
                (done.count() as u64, of, "nodes")
            }
        }
    }

    fn began_ms(&self, stage: &Stage) -> Option<i64> {
        let closed_ms = |stage: &Stage| {
            let outcome = self.outcome(stage)?;
            (outcome.decision == Decision::Passed).then_some(outcome.at_ms)
        };
        let shards = || self.stages.shards.values();
        match stage {
            Stage::Plan => self.started.as_ref().map(|started| started.at_ms),
            Stage::Fetch => self.manifest_ms,
            // In a pipeline that holds nothing back they begin with the first batch.
            Stage::Store(store) => match self.totals_of(store) {
                Some(_) => self.manifest_ms,
                None => closed_ms(&Stage::Fetch),
            },
            Stage::Sync => self.ordered().map(|(at_ms, _)| at_ms),
            Stage::Dictionary => shards().filter_map(|shard| shard.synced_ms).min(),
            Stage::Serp => {
                let applied = shards().filter_map(|shard| shard.applied.as_ref());
                applied.map(|applied| applied.at_ms).min()
            }
        }
    }

    fn stage_problems(&self, stage: &Stage) -> Vec<String> {
        let mut problems = Vec::new();
        if *stage == Stage::Sync {
            for (number, shard) in &self.stages.shards {
                for (name, replica) in &shard.replicas {
                    let (None, Some((_, behind, error))) = (replica.synced_ms, &replica.late)
                    else {
                        continue;
                    };
                    let behind = match behind {
                        Some(seconds) => format!("{seconds} s behind"),
                        None => "behind".to_owned(),
                    };
                    problems.push(format!(
                        "shard {number}: replica {name} is {behind}: {error}"
                    ));
                }
            }
        }
        let failures = self.stages.failures.iter();
        for ((_, target), failures) in failures.filter(|((of, _), _)| of == stage) {
            let (failure, then) = match (&failures.given_up, &failures.latest) {
                _ if self.is_done(stage, target) => continue,
                (Some(given_up), _) => (given_up, "given up"),
                (None, Some(latest)) => (latest, "will be tried again"),
                (None, None) => continue,
            };
            let (step, error) = (&failure.step, &failure.error);
            let what = match stage {
                Stage::Serp => "node",
                _ => "shard",
            };
            problems.push(format!("{what} {target}: {step}: {error} ({then})"));
        }
        problems
    }

    /// Whether what failed for `target` was done after all.
    fn is_done(&self, stage: &Stage, target: &str) -> bool {
        let shard = || {
            let number: u32 = target.parse().ok()?;
            self.stages.shards.get(&number)
        };
        match stage {
            Stage::Sync => shard().is_some_and(|s| s.synced_ms.is_some() || s.applied.is_some()),
            Stage::Dictionary => shard().is_some_and(|shard| shard.applied.is_some()),
            Stage::Serp => {
                let node = self.stages.nodes.get(target);
                node.is_some_and(|node| node.done.is_some())
            }
            _ => false,
        }
    }
}
