use std::collections::BTreeMap;
use std::sync::Arc;

use batch::{Reason, Rows};

use crate::receipts::{BatchReceipt, BatchRows};
use crate::task::{CountedAttempt, TaskState, TaskStatus};

/// What tasks add up to, apart from the stores: of each that was fetched its first successful attempt. Of one task, or
/// summed over all tasks of a run.
#[derive(Debug, Default)]
pub(crate) struct TaskTotals {
    /// Tasks by their status.
    pub failed: u64,
    pub quarantined: u64,
    pub fetched: u64,
    /// Tasks fetched that every store has something to account for.
    pub with_rows: u64,
    pub rows: u64,
    pub bytes: u64,
    pub batches: u64,
}

impl TaskTotals {
    /// What one task contributes.
    pub fn new(task: &TaskState) -> Self {
        let status = task.status();
        let is = |one: TaskStatus| u64::from(status == one);
        let read = task.read();
        Self {
            failed: is(TaskStatus::Failed),
            quarantined: is(TaskStatus::Quarantined),
            fetched: is(TaskStatus::Fetched),
            with_rows: task.has_rows().into(),
            rows: read.map_or(0, |read| read.rows),
            bytes: read.map_or(0, |read| read.bytes),
            batches: read.map_or(0, |read| read.batches.into()),
        }
    }

    /// Replaces what a task contributed by what it contributes now. Absurd numbers of a receipt wrap around, and come
    /// out again as they went in.
    pub fn replace(&mut self, before: &Self, after: &Self) {
        let shift = |sum: &mut u64, before: u64, after: u64| {
            *sum = sum.wrapping_sub(before).wrapping_add(after);
        };
        shift(&mut self.failed, before.failed, after.failed);
        shift(&mut self.quarantined, before.quarantined, after.quarantined);
        shift(&mut self.fetched, before.fetched, after.fetched);
        shift(&mut self.with_rows, before.with_rows, after.with_rows);
        shift(&mut self.rows, before.rows, after.rows);
        shift(&mut self.bytes, before.bytes, after.bytes);
        shift(&mut self.batches, before.batches, after.batches);
    }
}

/// What one store has accounted for, over the counted attempts of a run.
#[derive(Debug, Default)]
pub(crate) struct StoreTotals {
    /// The program, by its process name.
    pub name: Arc<str>,
    pub rows: Rows,
    pub batches: u64,
    /// Rows that the attempts counted in this store have read.
    pub expected: u64,
    /// Tasks with rows whose every row is accounted for.
    pub complete_tasks: u64,
    targets: BTreeMap<Arc<str>, Rows>,
    reasons: BTreeMap<Reason, u64>,
}

impl StoreTotals {
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            ..Self::default()
        }
    }

    /// Counts the receipt of a batch once, or with `times` -1 takes it out again.
    pub fn count(&mut self, receipt: &BatchReceipt, times: i64) {
        self.batches = self.batches.wrapping_add_signed(times);
        count_rows(&mut self.rows, &receipt.rows, times);
        let Some(detail) = &receipt.detail else {
            return;
        };
        for (target, rows) in &detail.targets {
            match self.targets.get_mut(target) {
                Some(sum) => count_rows(sum, rows, times),
                None => count_rows(self.targets.entry(target.clone()).or_default(), rows, times),
            }
        }
        for (reason, n) in &detail.reasons {
            count(self.reasons.entry(*reason).or_default(), *n, times);
        }
    }

    /// Replaces what a task contributed `before` by what it contributes now. Of its receipts those of the attempt that
    /// counted before are in. `store` is the position of this store.
    pub fn recount(&mut self, task: &TaskState, store: usize, before: Option<CountedAttempt>) {
        let after = task.counted(store);
        if before == after {
            return;
        }
        let attempt = |counted: Option<CountedAttempt>| counted.map(|counted| counted.attempt);
        if attempt(before) != attempt(after) {
            let receipts = |attempt| task.batch_receipts(store, attempt);
            let old = attempt(before).into_iter().flat_map(receipts);
            old.for_each(|receipt| self.count(receipt, -1));
            let new = attempt(after).into_iter().flat_map(receipts);
            new.for_each(|receipt| self.count(receipt, 1));
        }
        let rows = |counted: Option<CountedAttempt>| counted.map_or(0, |counted| counted.rows);
        self.expected = self.expected.wrapping_sub(rows(before));
        self.expected = self.expected.wrapping_add(rows(after));
        let complete = |counted: Option<CountedAttempt>| {
            counted.is_some_and(|counted| counted.is_covered && counted.has_rows)
        };
        self.complete_tasks -= u64::from(complete(before));
        self.complete_tasks += u64::from(complete(after));
    }

    /// Rows by index, without those that are zero.
    pub fn targets(&self) -> BTreeMap<String, Rows> {
        let some = self.targets.iter().filter(|(_, rows)| rows.total() > 0);
        some.map(|(t, rows)| (t.to_string(), rows.clone()))
            .collect()
    }

    /// Quarantined rows by reason, without those that are zero.
    pub fn reasons(&self) -> BTreeMap<Reason, u64> {
        let some = self.reasons.iter().filter(|(_, n)| **n > 0);
        some.map(|(reason, n)| (*reason, *n)).collect()
    }
}

fn count_rows(sum: &mut Rows, rows: &BatchRows, times: i64) {
    count(&mut sum.stored, rows.stored, times);
    count(&mut sum.unchanged, rows.unchanged, times);
    count(&mut sum.skipped, rows.skipped, times);
    count(&mut sum.quarantined, rows.quarantined, times);
}

/// 2³² numbers of 32 bits fit a sum of 64, and what is taken back was added before.
fn count(sum: &mut u64, n: u32, times: i64) {
    *sum = sum.wrapping_add_signed(i64::from(n) * times);
}
