use std::collections::HashMap;
use std::sync::Arc;

use batch::{BatchId, Fact, TaskHash};

use crate::receipts::{BatchReceipt, Merged};
use crate::task::{TaskFailure, TaskProblem, TaskQuarantine, TaskRead, TaskState};
use crate::totals::{StoreTotals, TaskTotals};

/// The result of a run's plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Manifest {
    pub tasks: u64,
    /// Rows that the primary index counts in all ranges: an estimate from above.
    pub estimated_rows: u64,
}

/// The tasks of a run, with their batches, and what they add up to: every change of a task changes the sums with it.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    tasks: HashMap<TaskHash, TaskState>,
    pub totals: TaskTotals,
    stores: Vec<StoreTotals>,
    /// Names of indices, so that a hundred thousand receipts share a handful of them.
    names: Vec<Arc<str>>,
}

impl Tasks {
    pub fn get(&self, hash: TaskHash) -> Option<&TaskState> {
        self.tasks.get(&hash)
    }

    /// Stores that sent receipts, in the order of their first.
    pub fn stores(&self) -> &[StoreTotals] {
        &self.stores
    }

    pub fn store(&self, name: &str) -> Option<&StoreTotals> {
        self.stores.iter().find(|store| &*store.name == name)
    }

    /// Whether the store has accounted for every row of some attempt at the task.
    pub fn is_covered(&self, task: &TaskState, store: &str) -> bool {
        let position = self.stores.iter().position(|known| &*known.name == store);
        let counted = position.and_then(|store| task.counted(store));
        counted.is_some_and(|counted| counted.is_covered)
    }

    /// Takes in a fact about a task or its batches.
    pub fn apply(&mut self, fact: &Fact) {
        match fact {
            Fact::Fetched {
                task,
                attempt,
                batches,
                rows,
                bytes,
                ..
            } => {
                let read = TaskRead {
                    attempt: *attempt,
                    batches: *batches,
                    rows: *rows,
                    bytes: *bytes,
                };
                self.change(*task, |t| t.succeed(read));
            }
            Fact::FetchFailed {
                task,
                attempt,
                error,
            } => {
                let (attempt, error) = (*attempt, error.clone());
                self.change(*task, |t| t.fail(TaskFailure { attempt, error }));
            }
            Fact::TaskQuarantined {
                task,
                program,
                reason,
            } => {
                let (reason, program) = (*reason, program.clone());
                self.change(*task, |t| t.give_up(TaskQuarantine { reason, program }));
            }
            Fact::Stored {
                store,
                batch,
                rows,
                targets,
                reasons,
                ..
            } => {
                let receipt = BatchReceipt::new(rows, targets, reasons, |name| self.intern(name));
                self.stored(store, *batch, receipt);
            }
            Fact::Released { task, attempt, .. } => self.change(*task, |t| t.release(*attempt)),
            Fact::Started(_)
            | Fact::Manifest { .. }
            | Fact::GateDecided { .. }
            | Fact::OperatorDecided { .. }
            | Fact::Ordered { .. }
            | Fact::ReplicaSynced { .. }
            | Fact::ReplicaLate { .. }
            | Fact::ShardSynced { .. }
            | Fact::ShardApplied { .. }
            | Fact::NodeRestarted { .. }
            | Fact::OrderFailed { .. }
            | Fact::Abandoned { .. } => {}
        }
    }

    /// Changes a task, and the sums with it; for receipts of batches see [`Self::stored`].
    fn change(&mut self, hash: TaskHash, change: impl FnOnce(&mut TaskState)) {
        let task = self.tasks.entry(hash).or_default();
        let before = TaskTotals::new(task);
        let counted: Vec<_> = (0..self.stores.len()).map(|n| task.counted(n)).collect();
        change(task);
        self.totals.replace(&before, &TaskTotals::new(task));
        for ((n, store), before) in self.stores.iter_mut().enumerate().zip(counted) {
            store.recount(task, n, before);
        }
    }

    /// Takes the receipt of a batch in. Nearly all receipts are of this kind: the cost does not grow with the run.
    fn stored(&mut self, store: &str, batch: BatchId, receipt: BatchReceipt) {
        let n = self.store_position(store);
        let totals = &mut self.stores[n];
        let task = self.tasks.entry(batch.task).or_default();
        let before = task.counted(n);
        let receipts = task.receipts_mut(n, batch.attempt);
        let Some(Merged { kept, replaced }) = receipts.merge(batch.sequence, receipt) else {
            return;
        };
        if before.is_some_and(|counted| counted.attempt == batch.attempt) {
            replaced.iter().for_each(|old| totals.count(old, -1));
            totals.count(kept, 1);
        }
        totals.recount(task, n, before);
    }

    /// Position of the store's totals, which are made with its first receipt.
    fn store_position(&mut self, store: &str) -> usize {
        let found = self.stores.iter().position(|known| &*known.name == store);
        found.unwrap_or_else(|| {
            let n = self.stores.len();
            let mut totals = StoreTotals::new(store.into());
            for task in self.tasks.values() {
                totals.recount(task, n, None);
            }
            self.stores.push(totals);
            n
        })
    }

    /// The name, in the one copy that the run has of it.
    fn intern(&mut self, name: &str) -> Arc<str> {
        let found = self.names.iter().find(|known| &***known == name);
        found.cloned().unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            self.names.push(name.clone());
            name
        })
    }

    /// Tasks that failed and were not fetched since, and tasks given up, in the order of their hashes.
    pub fn problems(&self) -> Vec<TaskProblem> {
        let problems = self.tasks.iter().filter_map(|(&task, state)| {
            let problem = state.problem()?;
            Some(TaskProblem { task, problem })
        });
        let mut problems: Vec<TaskProblem> = problems.collect();
        problems.sort_by_key(|problem| problem.task);
        problems
    }
}
