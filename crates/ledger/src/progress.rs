use std::collections::BTreeMap;
use std::fmt;

use batch::{Decision, Reason, Rows, RunId, Stage, TaskHash};
use serde::{Deserialize, Serialize};

use crate::run::{RunState, Started};
use crate::stage_progress::StageProgress;
use crate::task::TaskStatus;
use crate::totals::StoreTotals;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Its tasks are being published: how many there will be is not known yet.
    Planning,
    Running,
    /// Every row of every task is accounted for in every store, and every stage of a judged run passed.
    Complete,
    /// The same, but some tasks or rows are in quarantine instead of in the stores.
    CompleteWithQuarantine,
    /// Every stage but that of the SERP service is judged: the next run may begin.
    Restarting,
    /// Every stage is judged, and one of them ended badly.
    Rejected,
    /// An operator gave it up.
    Abandoned,
}

impl State {
    /// Whether more is to be heard of the run.
    pub fn is_unfinished(self) -> bool {
        matches!(self, Self::Planning | Self::Running | Self::Restarting)
    }

    /// Whether the run stands in the way of the next one. A SERP service of many nodes is restarted for longer than
    /// a cycle takes; the next run's version is as good to it as this one's.
    pub fn blocks_the_next(self) -> bool {
        matches!(self, Self::Planning | Self::Running)
    }

    pub fn is_complete(self) -> bool {
        matches!(self, Self::Complete | Self::CompleteWithQuarantine)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Planning => "planning",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::CompleteWithQuarantine => "complete, with quarantine",
            Self::Restarting => "restarting",
            Self::Rejected => "rejected",
            Self::Abandoned => "abandoned",
        })
    }
}

/// How far a run has come: tasks, rows read, and what each store has accounted for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub run: RunId,
    pub state: State,
    /// Absent while only later receipts of the run are known.
    pub started: Option<Started>,
    /// Time of the latest receipt, in milliseconds since the epoch.
    pub latest_ms: i64,
    /// Absent until all tasks are published.
    pub tasks_planned: Option<u64>,
    pub tasks_fetched: u64,
    /// Failed at least once, neither fetched nor given up yet.
    pub tasks_failed: u64,
    pub tasks_quarantined: u64,
    /// Rows that the primary index counts in all ranges: an estimate from above.
    pub estimated_rows: Option<u64>,
    /// Rows, batches and bytes of the first successful attempt of each task fetched.
    pub rows_fetched: u64,
    pub batches_fetched: u64,
    pub bytes_fetched: u64,
    /// By name; every store that must account for the run, and any other that was heard of.
    pub stores: Vec<StoreProgress>,
    /// In their order; none in a pipeline that nobody judges.
    #[serde(default)]
    pub stages: Vec<StageProgress>,
    /// What a run that ended left out that an incremental run beginning at its end would not carry either.
    #[serde(default)]
    pub gap: Option<String>,
    /// Who gave the run up, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned: Option<Abandoned>,
}

/// How a run was given up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abandoned {
    pub at_ms: i64,
    pub who: String,
    pub why: String,
}

/// What one store has accounted for, of the rows fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreProgress {
    /// The program that writes to it, by its process name.
    pub store: String,
    /// Whether the run is complete only when this store has accounted for every row.
    pub required: bool,
    pub batches: u64,
    /// Sum of `rows`.
    pub rows_accounted: u64,
    pub rows: Rows,
    /// The same by index; empty where the store has but one target.
    pub targets: BTreeMap<String, Rows>,
    /// Quarantined rows by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// It has accounted for the whole run, and where there is a gate this closed it well.
    #[serde(default)]
    pub closed: bool,
    /// As [`Progress::gap`], of this store.
    #[serde(default)]
    pub gap: Option<String>,
}

/// A task that did not go well so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TaskProblem {
    pub task: TaskHash,
    #[serde(flatten)]
    pub problem: ProblemKind,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "kebab-case")]
pub enum ProblemKind {
    /// It will be tried again.
    Failed { attempt: u32, error: String },
    /// It was given up, and its rows were not read.
    Quarantined {
        program: String,
        reason: Reason,
        /// What the latest attempt failed with, if that was said.
        error: Option<String>,
    },
}

impl RunState {
    pub fn state(&self) -> State {
        if self.abandoned.is_some() {
            State::Abandoned
        } else if let Some(judged) = self.gated_state() {
            judged
        } else if self.manifest.is_none() {
            State::Planning
        } else if !self.is_complete() {
            State::Running
        } else if self.has_quarantine() {
            State::CompleteWithQuarantine
        } else {
            State::Complete
        }
    }

    /// Where a judged run stands once its manifest is known or its planning was rejected. `None`: before that, or
    /// nobody judges it.
    fn gated_state(&self) -> Option<State> {
        let run_plan = self.stages();
        if run_plan.is_empty() {
            return None;
        }
        let open = |stage: &&Stage| self.decision(stage).is_none();
        let mut open = run_plan.iter().filter(open);
        match (open.next(), open.next()) {
            (Some(Stage::Serp), None) => Some(State::Restarting),
            (Some(_), _) => self.manifest.map(|_| State::Running),
            (None, _) => {
                let decisions = run_plan.iter().filter_map(|stage| self.decision(stage));
                Some(if decisions.into_iter().any(|v| v == Decision::Rejected) {
                    State::Rejected
                } else if self.has_quarantine() {
                    State::CompleteWithQuarantine
                } else {
                    State::Complete
                })
            }
        }
    }

    /// Whether it is proved that nothing is missing: the manifest is known, every task was fetched or
    /// given up, and every store of the run has accounted for all rows of the counted attempts.
    ///
    /// Tasks known only from answers to their batches say nothing here: those of the manifest are missing
    /// among the settled ones, and any other will never be heard of again.
    pub fn is_complete(&self) -> bool {
        let stores = self.started.iter().flat_map(|started| &started.stores);
        self.started.is_some()
            && self.is_settled()
            && stores.into_iter().all(|s| self.has_closed(s))
    }

    /// Every planned task was fetched or given up.
    fn is_settled(&self) -> bool {
        let settled = self.tasks_in(TaskStatus::Fetched) + self.tasks_in(TaskStatus::Quarantined);
        let planned = self.manifest.map(|(planned, _)| planned);
        planned.is_some_and(|planned| settled >= planned) && self.tasks_in(TaskStatus::Failed) == 0
    }

    /// What an ended run left out that an incremental run beginning at its end would not carry either.
    /// `None`: such a run may follow it. Rows that a store itself refused are no reason: it would refuse
    /// them again.
    pub fn gap(&self) -> Option<String> {
        let stores = self.started.iter().flat_map(|started| &started.stores);
        let mut of_stores = stores.map(|store| self.gap_in(store));
        self.gap_in_all()
            .or_else(|| of_stores.find_map(|left| left))
    }

    /// As [`Self::gap`], of all stores alike.
    fn gap_in_all(&self) -> Option<String> {
        if self.started.as_ref().is_some_and(|started| started.partial) {
            return Some("it was partial".to_owned());
        }
        if self.contested {
            return Some("two queuers began it, each with a plan of its own".to_owned());
        }
        let given_up = self.tasks_in(TaskStatus::Quarantined);
        if given_up > 0 {
            return Some(format!("tasks in quarantine, not fetched: {given_up}"));
        }
        let Some((planned, _)) = self.manifest else {
            return Some("not all of its tasks were published".to_owned());
        };
        // An operator may have closed the stage without them.
        let unread = planned.saturating_sub(self.tasks_in(TaskStatus::Fetched));
        (unread > 0).then(|| format!("tasks not fetched: {unread}"))
    }

    fn gap_in(&self, store: &str) -> Option<String> {
        if !self.has_closed(store) {
            return Some(format!("rows that {store} has not accounted for"));
        }
        let totals = self.totals_of(store)?;
        let refused = totals.reasons().get(&Reason::RefusedRows).copied();
        let rows = totals.rows.quarantined.saturating_sub(refused.unwrap_or(0));
        (rows > 0).then(|| format!("rows in quarantine that {store} did not refuse: {rows}"))
    }

    pub(crate) fn has_closed(&self, store: &str) -> bool {
        let closed = self.totals_of(store).map_or(0, |totals| totals.closed);
        closed == self.tasks_with_rows
    }

    /// Whether the store has the whole run, by its gate where there is one.
    fn closed_well(&self, store: &str) -> bool {
        let stage = Stage::Store(store.to_owned());
        match self.stages().contains(&stage) {
            true => self.decision(&stage) == Some(Decision::Passed),
            false => self.is_settled() && self.has_closed(store),
        }
    }

    fn has_quarantine(&self) -> bool {
        self.tasks_in(TaskStatus::Quarantined) > 0
            || self.store_totals.iter().any(|t| t.rows.quarantined > 0)
    }

    pub(crate) fn totals_of(&self, store: &str) -> Option<&StoreTotals> {
        self.store_totals
            .iter()
            .find(|totals| &*totals.name == store)
    }

    pub fn progress(&self) -> Progress {
        Progress {
            run: self.run.clone(),
            state: self.state(),
            started: self.started.clone(),
            latest_ms: self.latest_ms,
            tasks_planned: self.manifest.map(|(tasks, _)| tasks),
            tasks_fetched: self.tasks_in(TaskStatus::Fetched),
            tasks_failed: self.tasks_in(TaskStatus::Failed),
            tasks_quarantined: self.tasks_in(TaskStatus::Quarantined),
            estimated_rows: self.manifest.map(|(_, rows)| rows),
            rows_fetched: self.rows,
            batches_fetched: self.batches,
            bytes_fetched: self.bytes,
            stores: self.stores(),
            stages: self.stage_progress(),
            gap: self.gap(),
            abandoned: self.abandoned.clone().map(|(at_ms, who, why)| Abandoned {
                at_ms,
                who,
                why,
            }),
        }
    }

    fn stores(&self) -> Vec<StoreProgress> {
        let required = self.started.iter().flat_map(|started| &started.stores);
        let mut stores: BTreeMap<&str, bool> = self
            .store_totals
            .iter()
            .map(|t| (&*t.name, false))
            .collect();
        stores.extend(required.map(|store| (store.as_str(), true)));
        let answer = |(store, required): (&str, bool)| {
            let totals = self.totals_of(store);
            let rows = totals.map(|t| t.rows.clone()).unwrap_or_default();
            StoreProgress {
                store: store.to_owned(),
                required,
                batches: totals.map_or(0, |t| t.batches),
                rows_accounted: rows.total(),
                rows,
                targets: totals.map(StoreTotals::targets).unwrap_or_default(),
                reasons: totals.map(StoreTotals::reasons).unwrap_or_default(),
                closed: self.closed_well(store),
                gap: self.gap_in_all().or_else(|| self.gap_in(store)),
            }
        };
        stores.into_iter().map(answer).collect()
    }

    /// Tasks that failed and were not fetched since, and tasks given up, in the order of their hashes.
    pub fn problems(&self) -> Vec<TaskProblem> {
        let mut problems: Vec<TaskProblem> = (self.tasks.iter())
            .filter_map(|(hash, task)| {
                let failure = task.failure.as_deref();
                let problem = match (task.status(), &task.quarantined, failure) {
                    (TaskStatus::Quarantined, Some(quarantined), _) => ProblemKind::Quarantined {
                        program: quarantined.1.clone(),
                        reason: quarantined.0,
                        error: failure.map(|(_, error)| error.clone()),
                    },
                    (TaskStatus::Failed, _, Some((attempt, error))) => ProblemKind::Failed {
                        attempt: *attempt,
                        error: error.clone(),
                    },
                    _ => return None,
                };
                let task = *hash;
                Some(TaskProblem { task, problem })
            })
            .collect();
        problems.sort_by_key(|problem| problem.task);
        problems
    }

    /// Who gave the run up, and why.
    pub fn abandoned_by(&self) -> Option<(&str, &str)> {
        let (_, who, why) = self.abandoned.as_ref()?;
        Some((who, why))
    }
}

impl Progress {
    /// How far the run has come, in one sentence for a person.
    pub fn summary(&self) -> String {
        let planned = match self.tasks_planned {
            Some(tasks) => format!(" of {tasks}"),
            None => String::new(),
        };
        let mut parts = vec![format!(
            "{}{planned} tasks fetched ({} rows)",
            self.tasks_fetched, self.rows_fetched
        )];
        if self.tasks_failed > 0 {
            parts.push(format!("{} failed and waiting", self.tasks_failed));
        }
        if self.tasks_quarantined > 0 {
            parts.push(format!("{} in quarantine", self.tasks_quarantined));
        }
        for store in &self.stores {
            let rows = &store.rows;
            let mut part = format!(
                "{}: {} rows stored, {} unchanged",
                store.store, rows.stored, rows.unchanged
            );
            for (n, what) in [(rows.skipped, "skipped"), (rows.quarantined, "quarantined")] {
                if n > 0 {
                    part.push_str(&format!(", {n} {what}"));
                }
            }
            parts.push(part);
        }
        format!("run {} is {}: {}", self.run, self.state, parts.join("; "))
    }

    /// Rows for which some store of the run has not answered yet, of those fetched so far.
    pub fn rows_outstanding(&self) -> u64 {
        let stores = self.stores.iter().filter(|store| store.required);
        let open = stores.map(|s| self.rows_fetched.saturating_sub(s.rows_accounted));
        open.max().unwrap_or(0)
    }
}
