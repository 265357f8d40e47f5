use batch::{Reason, TaskHash};
use serde::Serialize;

use crate::receipts::{AttemptReceipts, BatchReceipt};

/// A successful attempt at a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TaskRead {
    pub attempt: u32,
    pub batches: u32,
    pub rows: u64,
    pub bytes: u64,
}

impl TaskRead {
    /// Should one attempt have been made twice, the one that read more.
    fn rank(&self) -> impl Ord {
        (self.rows, self.batches, self.bytes)
    }

    fn is_empty(&self) -> bool {
        self.rows == 0 && self.batches == 0
    }

    /// Whether a store has accounted for every batch and every row of the attempt.
    fn is_covered(&self, receipts: Option<&AttemptReceipts>) -> bool {
        match receipts {
            Some(receipts) => receipts.cover(self.batches, self.rows),
            None => self.is_empty(),
        }
    }
}

/// Where a task stands, for the counts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaskStatus {
    /// Known only from receipts of its batches.
    Open,
    Failed,
    Quarantined,
    Fetched,
}

/// A failed attempt at a task.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskFailure {
    pub attempt: u32,
    pub error: String,
}

/// Why a task was given up, and by which program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TaskQuarantine {
    pub reason: Reason,
    pub program: String,
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
        /// What the latest attempt failed with, if that is known.
        error: Option<String>,
    },
}

#[derive(Debug, Default)]
pub(crate) struct TaskState {
    /// Successful attempts, the lowest first: one, nearly always.
    reads: Vec<TaskRead>,
    quarantine: Option<Box<TaskQuarantine>>,
    /// The latest failure. Gone once the task succeeded.
    failure: Option<Box<TaskFailure>>,
    /// Receipts for every attempt, successful or not: that of its success may come later.
    receipts: Vec<AttemptReceipts>,
    /// The lowest attempt whose batches were released, all of them, from where they were held.
    pub released: Option<u32>,
}

/// The attempt at a task that counts in one store: what the task contributes to the totals of that store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CountedAttempt {
    pub attempt: u32,
    /// Rows that it has read.
    pub rows: u64,
    /// Whether the store has accounted for all of the attempt.
    pub is_covered: bool,
    /// Whether the store has anything to account for.
    pub has_rows: bool,
}

impl TaskState {
    pub fn status(&self) -> TaskStatus {
        if !self.reads.is_empty() {
            TaskStatus::Fetched
        } else if self.quarantine.is_some() {
            TaskStatus::Quarantined
        } else if self.failure.is_some() {
            TaskStatus::Failed
        } else {
            TaskStatus::Open
        }
    }

    pub fn problem(&self) -> Option<ProblemKind> {
        let failure = self.failure.as_deref();
        match self.status() {
            TaskStatus::Open | TaskStatus::Fetched => None,
            TaskStatus::Failed => failure.map(|failure| ProblemKind::Failed {
                attempt: failure.attempt,
                error: failure.error.clone(),
            }),
            TaskStatus::Quarantined => {
                let quarantine = self.quarantine.as_deref()?;
                Some(ProblemKind::Quarantined {
                    program: quarantine.program.clone(),
                    reason: quarantine.reason,
                    error: failure.map(|failure| failure.error.clone()),
                })
            }
        }
    }

    /// The first successful attempt.
    pub fn read(&self) -> Option<&TaskRead> {
        self.reads.first()
    }

    /// Batches of the attempt, if it was read to its end.
    pub fn batches_of(&self, attempt: u32) -> Option<u32> {
        let read = self.reads.iter().find(|read| read.attempt == attempt)?;
        Some(read.batches)
    }

    /// Whether stores have rows to account for: not when some successful attempt found nothing.
    pub fn has_rows(&self) -> bool {
        !self.reads.is_empty() && !self.reads.iter().any(TaskRead::is_empty)
    }

    /// Which attempt counts in the store: the first successful one that it has accounted for in full,
    /// or else the first successful one. A receipt of success may be stored although a batch before it
    /// was lost with the broker; then the task comes again, and only its next attempt can be complete.
    pub fn counted(&self, store: usize) -> Option<CountedAttempt> {
        let first = self.reads.first()?;
        let covered = |read: &&TaskRead| read.is_covered(self.receipts(store, read.attempt));
        let covered = self.reads.iter().find(covered);
        let counted = covered.unwrap_or(first);
        Some(CountedAttempt {
            attempt: counted.attempt,
            rows: counted.rows,
            is_covered: covered.is_some(),
            has_rows: self.has_rows(),
        })
    }

    fn receipts(&self, store: usize, attempt: u32) -> Option<&AttemptReceipts> {
        let mut receipts = self.receipts.iter();
        receipts.find(|r| r.store == store && r.attempt == attempt)
    }

    /// The store's receipts for the batches of the attempt.
    pub fn batch_receipts(
        &self,
        store: usize,
        attempt: u32,
    ) -> impl Iterator<Item = &BatchReceipt> {
        let receipts = self.receipts(store, attempt).into_iter();
        receipts.flat_map(AttemptReceipts::batches)
    }

    pub fn receipts_mut(&mut self, store: usize, attempt: u32) -> &mut AttemptReceipts {
        let same = |r: &AttemptReceipts| r.store == store && r.attempt == attempt;
        let at = self.receipts.iter().position(same).unwrap_or_else(|| {
            self.receipts.push(AttemptReceipts::new(store, attempt));
            self.receipts.len() - 1
        });
        &mut self.receipts[at]
    }

    pub fn succeed(&mut self, read: TaskRead) {
        self.failure = None;
        let known = self
            .reads
            .binary_search_by_key(&read.attempt, |r| r.attempt);
        match known {
            Ok(at) if self.reads[at].rank() >= read.rank() => {}
            Ok(at) => self.reads[at] = read,
            Err(at) => self.reads.insert(at, read),
        }
    }

    pub fn fail(&mut self, failure: TaskFailure) {
        if self.reads.is_empty() {
            keep_greatest(&mut self.failure, failure);
        }
    }

    pub fn give_up(&mut self, quarantine: TaskQuarantine) {
        keep_greatest(&mut self.quarantine, quarantine);
    }

    pub fn release(&mut self, attempt: u32) {
        self.released = Some(self.released.map_or(attempt, |known| known.min(attempt)));
    }
}

fn keep_greatest<T: Ord>(current: &mut Option<Box<T>>, new: T) {
    if current.as_deref().is_none_or(|current| new > *current) {
        *current = Some(Box::new(new));
    }
}
