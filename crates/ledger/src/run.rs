use std::collections::HashMap;
use std::sync::Arc;

use batch::{BatchId, Fact, Receipt, RunId, RunMode, RunPlan, TaskHash};
use serde::{Deserialize, Serialize};

use crate::stages::Stages;
use crate::task::{BatchReceipt, Read, TaskState, TaskStatus};
use crate::totals::StoreTotals;

/// What was said when the run began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Started {
    pub at_ms: i64,
    pub pipeline: String,
    pub mode: RunMode,
    pub until_ms: i64,
    pub shards: u32,
    /// Programs that must account for every row.
    pub stores: Vec<String>,
    /// No later run may begin where this one ended.
    pub partial: bool,
    /// Fingerprint of what was read; empty when it was not said.
    pub source: String,
    /// What the run must pass beyond the stores, and by which rules of its own; absent when nobody judges it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_plan: Option<RunPlan>,
}

impl Started {
    fn of(receipt: &Receipt) -> Option<Self> {
        let Fact::Started {
            pipeline,
            mode,
            until_ms,
            shards,
            stores,
            partial,
            source,
            // Only the order of the ledger tells whose it is, and here order says nothing.
            nonce: _,
            run_plan,
        } = &receipt.fact
        else {
            return None;
        };
        Some(Self {
            at_ms: receipt.at_ms,
            pipeline: pipeline.clone(),
            mode: *mode,
            until_ms: *until_ms,
            shards: *shards,
            stores: stores.clone(),
            partial: *partial,
            source: source.clone(),
            run_plan: run_plan.clone(),
        })
    }

    /// Whether the other one says the same, be it at another time.
    fn agrees_with(&self, other: &Self) -> bool {
        let at_ms = self.at_ms;
        *self
            == Self {
                at_ms,
                ..other.clone()
            }
    }
}

/// The state of one run, as far as its receipts tell.
#[derive(Debug)]
pub struct RunState {
    pub(crate) run: RunId,
    pub(crate) started: Option<Started>,
    /// Two queuers announced it, each with a plan of its own.
    pub(crate) contested: bool,
    /// Tasks planned and rows that the plan counted.
    pub(crate) manifest: Option<(u64, u64)>,
    /// When the manifest was first said.
    pub(crate) manifest_ms: Option<i64>,
    /// What was said of its stages.
    pub(crate) stages: Stages,
    /// When, by whom and why the run was given up.
    pub(crate) abandoned: Option<(i64, String, String)>,
    pub(crate) latest_ms: i64,
    pub(crate) tasks: HashMap<TaskHash, TaskState>,
    /// Tasks by where they stand.
    task_counts: [u64; TaskStatus::COUNT],
    /// Tasks fetched that every store has something to say of.
    pub(crate) tasks_with_rows: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) batches: u64,
    pub(crate) store_totals: Vec<StoreTotals>,
    /// Names of indices, so that a hundred thousand answers share a handful of them.
    names: Vec<Arc<str>>,
}

impl RunState {
    pub fn new(run: RunId) -> Self {
        Self {
            run,
            started: None,
            contested: false,
            manifest: None,
            manifest_ms: None,
            stages: Stages::default(),
            abandoned: None,
            latest_ms: i64::MIN,
            tasks: HashMap::new(),
            task_counts: [0; TaskStatus::COUNT],
            tasks_with_rows: 0,
            rows: 0,
            bytes: 0,
            batches: 0,
            store_totals: Vec::new(),
            names: Vec::new(),
        }
    }

    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// `None` while only later receipts of the run are known.
    pub fn started(&self) -> Option<&Started> {
        self.started.as_ref()
    }

    /// Takes one receipt of this run in.
    pub fn apply(&mut self, receipt: &Receipt) {
        debug_assert_eq!(receipt.run, self.run);
        let at_ms = receipt.at_ms;
        self.latest_ms = self.latest_ms.max(at_ms);
        match &receipt.fact {
            Fact::Started { .. } => {
                if let Some(started) = Started::of(receipt) {
                    let known = self.started.as_ref();
                    self.contested |= known.is_some_and(|known| !known.agrees_with(&started));
                    least(&mut self.started, started);
                }
            }
            Fact::Manifest {
                tasks,
                estimated_rows,
            } => {
                self.manifest = self.manifest.max(Some((*tasks, *estimated_rows)));
                least(&mut self.manifest_ms, at_ms);
            }
            Fact::Fetched {
                task,
                attempt,
                batches,
                rows,
                bytes,
                ..
            } => self.fetched(
                *task,
                Read {
                    attempt: *attempt,
                    batches: *batches,
                    rows: *rows,
                    bytes: *bytes,
                },
            ),
            Fact::FetchFailed {
                task,
                attempt,
                error,
            } => self.change(*task, |task| {
                if task.read().is_none() {
                    greatest(&mut task.failure, (*attempt, error.clone()));
                }
            }),
            Fact::TaskQuarantined {
                task,
                program,
                reason,
            } => self.change(*task, |task| {
                greatest(&mut task.quarantined, (*reason, program.clone()));
            }),
            Fact::Stored {
                store,
                batch,
                rows,
                targets,
                reasons,
                ..
            } => {
                let answer = BatchReceipt::new(rows, targets, reasons, |name| self.share(name));
                self.stored(store, *batch, answer);
            }
            Fact::Released { task, attempt, .. } => {
                self.change(*task, |task| task.went_on(*attempt));
            }
            Fact::GateDecided { .. }
            | Fact::OperatorDecided { .. }
            | Fact::Ordered { .. }
            | Fact::ReplicaSynced { .. }
            | Fact::ReplicaLate { .. }
            | Fact::ShardSynced { .. }
            | Fact::ShardApplied { .. }
            | Fact::NodeRestarted { .. }
            | Fact::OrderFailed { .. } => self.stages.apply(receipt),
            Fact::Abandoned { who, why } => {
                least(&mut self.abandoned, (at_ms, who.clone(), why.clone()));
            }
        }
    }

    pub(crate) fn tasks_in(&self, status: TaskStatus) -> u64 {
        self.task_counts[status as usize]
    }

    /// Changes a task and keeps the counts of tasks right.
    fn change<T>(&mut self, hash: TaskHash, change: impl FnOnce(&mut TaskState) -> T) -> T {
        let task = self.tasks.entry(hash).or_insert_with(|| {
            self.task_counts[TaskStatus::Open as usize] += 1;
            TaskState::default()
        });
        self.task_counts[task.status() as usize] -= 1;
        let changed = change(task);
        self.task_counts[task.status() as usize] += 1;
        changed
    }

    /// Another success can change which attempt counts: what was summed for the task is taken back first.
    fn fetched(&mut self, hash: TaskHash, read: Read) {
        self.sum(hash, u64::wrapping_sub, StoreTotals::take);
        let _ = self.change(hash, |task| task.succeeded(read));
        self.sum(hash, u64::wrapping_add, StoreTotals::add);
    }

    /// Adds what the task comes to, or takes it back.
    fn sum(
        &mut self,
        hash: TaskHash,
        by: fn(u64, u64) -> u64,
        answer_by: fn(&mut StoreTotals, &BatchReceipt),
    ) {
        let Some(task) = self.tasks.get(&hash) else {
            return;
        };
        let Some(read) = task.read() else { return };
        self.rows = by(self.rows, read.rows);
        self.bytes = by(self.bytes, read.bytes);
        self.batches = by(self.batches, read.batches.into());
        let needs_answers = !task.is_empty();
        self.tasks_with_rows = by(self.tasks_with_rows, needs_answers.into());
        for (store, totals) in self.store_totals.iter_mut().enumerate() {
            let Some(counted) = task.counted(store) else {
                continue;
            };
            let answers = counted.answers.iter().flat_map(|answers| &answers.batches);
            answers.for_each(|(_, answer)| answer_by(totals, answer));
            totals.expected = by(totals.expected, counted.rows);
            let closed = needs_answers && counted.is_covered;
            totals.closed = by(totals.closed, closed.into());
        }
    }

    fn stored(&mut self, store: &str, batch: BatchId, answer: BatchReceipt) {
        let store = self.totals(store);
        let task = self.tasks.entry(batch.task).or_insert_with(|| {
            self.task_counts[TaskStatus::Open as usize] += 1;
            TaskState::default()
        });
        let before = task
            .counted(store)
            .map(|c| (c.attempt, c.rows, c.is_covered));
        let answers = task.answers_mut(store, batch.attempt);
        let Some((answer, replaced)) = answers.merge(batch.sequence, answer) else {
            return;
        };
        let totals = &mut self.store_totals[store];
        let Some((attempt, rows, was_covered)) = before else {
            return;
        };
        if attempt == batch.attempt {
            if let Some(replaced) = replaced {
                totals.take(&replaced);
            }
            totals.add(answer);
        }
        let Some(after) = task.counted(store) else {
            return;
        };
        if after.attempt != attempt {
            // This answer completed another attempt, which counts from now on.
            let old = task.answers(store, attempt).into_iter();
            old.flat_map(|a| &a.batches)
                .for_each(|(_, a)| totals.take(a));
            let new = after.answers.into_iter();
            new.flat_map(|a| &a.batches)
                .for_each(|(_, a)| totals.add(a));
            totals.expected = totals.expected.wrapping_sub(rows).wrapping_add(after.rows);
        }
        if after.is_covered && !was_covered && !task.is_empty() {
            totals.closed += 1;
        }
    }

    /// The attempt at a task that goes on when the run's batches were held: the one that went on already, or else its
    /// first success. `None` while there is none.
    pub fn chosen(&self, task: TaskHash) -> Option<u32> {
        let task = self.tasks.get(&task)?;
        task.released().or_else(|| Some(task.read()?.attempt))
    }

    /// Whether what the task led to has arrived, as far as is known: its chosen batches went on all, or every store has
    /// accounted for one of its attempts.
    pub fn has_gone_on(&self, task: TaskHash) -> bool {
        let Some(state) = self.tasks.get(&task) else {
            return false;
        };
        state.released().is_some() || {
            let stores = self.started.iter().flat_map(|started| &started.stores);
            let mut store_totals =
                stores.map(|store| self.store_totals.iter().position(|t| *t.name == **store));
            store_totals.all(|totals| {
                let counted = totals.and_then(|totals| state.counted(totals));
                counted.is_some_and(|counted| counted.is_covered)
            })
        }
    }

    /// Whether the attempt at the task read its whole range.
    pub fn has_read(&self, task: TaskHash, attempt: u32) -> Option<u32> {
        self.tasks.get(&task)?.batches_of(attempt)
    }

    /// Position of the store's totals, which is made when the store is first heard of.
    fn totals(&mut self, store: &str) -> usize {
        let found = self.store_totals.iter().position(|t| &*t.name == store);
        found.unwrap_or_else(|| {
            let n = self.store_totals.len();
            let mut totals = StoreTotals::new(store.into());
            let counted = self.tasks.values().filter_map(|task| task.counted(n));
            totals.expected = counted.fold(0, |sum, counted| sum.wrapping_add(counted.rows));
            self.store_totals.push(totals);
            n
        })
    }

    fn share(&mut self, name: &str) -> Arc<str> {
        let found = self.names.iter().find(|known| &***known == name);
        found.cloned().unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            self.names.push(name.clone());
            name
        })
    }
}

/// Two programs may say the same thing twice in different words: the earlier one counts.
fn least<T: Ord>(current: &mut Option<T>, said: T) {
    if current.as_ref().is_none_or(|current| said < *current) {
        *current = Some(said);
    }
}

fn greatest<T: Ord>(current: &mut Option<Box<T>>, said: T) {
    if current.as_deref().is_none_or(|current| said > *current) {
        *current = Some(Box::new(said));
    }
}
