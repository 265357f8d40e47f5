use std::collections::BTreeMap;
use std::sync::Arc;

use batch::{Reason, Rows};

use crate::task::{BatchReceipt, Rows32};

/// What one store has accounted for, over the counted attempts of a run; kept up to date with every
/// receipt, so that asking is cheap however many batches there are.
#[derive(Debug)]
pub(crate) struct StoreTotals {
    /// The program, by its process name.
    pub name: Arc<str>,
    pub rows: Rows,
    pub batches: u64,
    /// Rows that the attempts counted in this store have read.
    pub expected: u64,
    /// Tasks with rows whose every row is accounted for.
    pub closed: u64,
    targets: BTreeMap<Arc<str>, Rows>,
    reasons: BTreeMap<Reason, u64>,
}

impl StoreTotals {
    pub fn new(name: Arc<str>) -> Self {
        Self {
            name,
            rows: Rows::default(),
            batches: 0,
            expected: 0,
            closed: 0,
            targets: BTreeMap::new(),
            reasons: BTreeMap::new(),
        }
    }

    pub fn add(&mut self, answer: &BatchReceipt) {
        self.batches += 1;
        self.shift(answer, u64::wrapping_add);
    }

    /// Takes back an answer that was added.
    pub fn take(&mut self, answer: &BatchReceipt) {
        self.batches -= 1;
        self.shift(answer, u64::wrapping_sub);
    }

    fn shift(&mut self, answer: &BatchReceipt, by: fn(u64, u64) -> u64) {
        shift(&mut self.rows, &answer.rows, by);
        let Some(detail) = &answer.detail else { return };
        for (target, rows) in &detail.targets {
            match self.targets.get_mut(target) {
                Some(sum) => shift(sum, rows, by),
                None => shift(self.targets.entry(target.clone()).or_default(), rows, by),
            }
        }
        for (reason, n) in &detail.reasons {
            let sum = self.reasons.entry(*reason).or_default();
            *sum = by(*sum, (*n).into());
        }
    }

    /// Rows by index, without those that came to nothing.
    pub fn targets(&self) -> BTreeMap<String, Rows> {
        let some = self.targets.iter().filter(|(_, rows)| rows.total() > 0);
        some.map(|(t, rows)| (t.to_string(), rows.clone()))
            .collect()
    }

    /// Quarantined rows by reason, without those that came to nothing.
    pub fn reasons(&self) -> BTreeMap<Reason, u64> {
        let some = self.reasons.iter().filter(|(_, n)| **n > 0);
        some.map(|(reason, n)| (*reason, *n)).collect()
    }
}

/// Sums of 32-bit numbers: 2³² of them fit 64 bits, and what is taken away was added before.
fn shift(sum: &mut Rows, rows: &Rows32, by: fn(u64, u64) -> u64) {
    sum.stored = by(sum.stored, rows.stored.into());
    sum.unchanged = by(sum.unchanged, rows.unchanged.into());
    sum.skipped = by(sum.skipped, rows.skipped.into());
    sum.quarantined = by(sum.quarantined, rows.quarantined.into());
}
