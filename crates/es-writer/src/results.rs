//! From the statuses of rows in each index to a report on each batch of a group.

use std::ops::Range;

use batch::Rows;
use pipeline::{Outcome, RefusedRows, StoreReport};

use crate::documents::BatchDocuments;
use crate::encode::Bulk;

/// What one index has made of a row. Of several indices the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum RowStatus {
    /// The index does not take this row.
    Skipped,
    /// The index has not answered for it yet.
    Pending,
    Unchanged,
    Stored,
    Refused,
}

/// What one index has made of the rows of a group.
#[derive(Debug)]
pub(crate) struct IndexResult {
    pub index: String,
    /// By the row's index in the group.
    statuses: Vec<RowStatus>,
    /// Why the index refused a row.
    refused: RefusedRows,
    /// The outcome of the batches with rows that stayed pending.
    unfinished: Option<Outcome>,
}

impl IndexResult {
    /// `rows` is the number of rows in the group: those of `bulks` are pending, and the others skipped.
    pub fn new(index: impl Into<String>, rows: usize, bulks: &[Bulk]) -> Self {
        let mut statuses = vec![RowStatus::Skipped; rows];
        for row in bulks.iter().flat_map(|bulk| &bulk.rows) {
            statuses[*row] = RowStatus::Pending;
        }
        Self {
            index: index.into(),
            statuses,
            refused: RefusedRows::new(),
            unfinished: None,
        }
    }

    /// The result of the `n`-th index, or of a follower of it, before it is asked: rows of `batches` with a text that
    /// is none are refused.
    pub fn for_index(index: &str, n: usize, batches: &[BatchDocuments], bulks: &[Bulk]) -> Self {
        let mut result = Self::new(index, batches.iter().map(BatchDocuments::rows).sum(), bulks);
        let mut first = 0;
        for batch in batches {
            for (row, why) in batch.refused_by(n) {
                result.refuse(first + row, why.clone());
            }
            first += batch.rows();
        }
        result
    }

    /// The index, as outcomes and its circuit breaker name it.
    pub fn endpoint(&self) -> String {
        format!("index {}", self.index)
    }

    pub fn set(&mut self, row: usize, status: RowStatus) {
        self.statuses[row] = status;
    }

    pub fn refuse(&mut self, row: usize, why: String) {
        self.set(row, RowStatus::Refused);
        self.refused.insert(row, why);
    }

    /// Sets the outcome of the batches with rows that are still pending.
    pub fn give_up(&mut self, outcome: Outcome) {
        self.unfinished = Some(outcome);
    }

    fn is_pending(&self, rows: Range<usize>) -> bool {
        self.statuses[rows].contains(&RowStatus::Pending)
    }
}

/// Reports on each batch of a group.
pub(crate) fn reports(
    batches: &[BatchDocuments],
    indices: &[IndexResult],
) -> Vec<Result<StoreReport, Outcome>> {
    let mut first = 0;
    let report = |batch: &BatchDocuments| {
        let rows = first..first + batch.rows();
        first = rows.end;
        report(rows, batch.refused(), indices)
    };
    batches.iter().map(report).collect()
}

/// Reports on the batch of these rows of the group, unless some of them are pending: then the whole batch has an
/// outcome. `unsent` are those of its rows that no index was asked to take: they count as refused by all.
fn report(
    rows: Range<usize>,
    unsent: &RefusedRows,
    indices: &[IndexResult],
) -> Result<StoreReport, Outcome> {
    let pending = indices.iter().filter(|i| i.is_pending(rows.clone()));
    let outcomes = pending.map(|i| match &i.unfinished {
        Some(outcome) => outcome.clone(),
        None => Outcome::retry("the index has not answered", &i.index),
    });
    if let Some(outcome) = outcomes.max_by_key(severity) {
        return Err(outcome);
    }
    let status = |n: usize, index: &IndexResult| {
        if unsent.contains_key(&n) {
            RowStatus::Refused
        } else {
            index.statuses[rows.start + n]
        }
    };
    let all = 0..rows.len();
    let targets = indices.iter().map(|index| {
        let counts = count(all.clone().map(|n| status(n, index)));
        (index.index.clone(), counts)
    });
    let last = |n: usize| indices.iter().map(|index| status(n, index)).max();
    let why = |n: usize| {
        let why = unsent.get(&n).cloned();
        let why = why.or_else(|| why_refused(rows.start + n, indices))?;
        Some((n, why))
    };
    Ok(StoreReport {
        targets: targets.collect(),
        rows: count(all.clone().filter_map(last)),
        refused: all.filter_map(why).collect(),
    })
}

fn count(statuses: impl Iterator<Item = RowStatus>) -> Rows {
    let mut rows = Rows::default();
    for status in statuses {
        match status {
            RowStatus::Skipped => rows.skipped += 1,
            RowStatus::Pending => {}
            RowStatus::Unchanged => rows.unchanged += 1,
            RowStatus::Stored => rows.stored += 1,
            RowStatus::Refused => rows.quarantined += 1,
        }
    }
    rows
}

/// The reasons of all indices that refused the row of the group, if any did.
fn why_refused(row: usize, indices: &[IndexResult]) -> Option<String> {
    let reasons = indices.iter();
    let reasons = reasons.filter_map(|i| Some(format!("{}: {}", i.index, i.refused.get(&row)?)));
    let reasons: Vec<String> = reasons.collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Where indices differ, the most severe outcome is the batch's: the one that needs an operator.
fn severity(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Quarantine(_) => 2,
        Outcome::Retry { .. } => 1,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batch::{Invalid, Reason};
    use std::time::Duration;

    fn result(index: &str, statuses: &[RowStatus]) -> IndexResult {
        let mut result = IndexResult::new(index, statuses.len(), &[]);
        for (row, status) in statuses.iter().enumerate() {
            match status {
                RowStatus::Refused => result.refuse(row, "too long".into()),
                other => result.set(row, *other),
            }
        }
        result
    }

    fn none() -> RefusedRows {
        RefusedRows::new()
    }

    #[test]
    fn a_row_counts_once_and_its_worst_status_wins() {
        use RowStatus::*;
        let all = result(
            "all",
            &[Stored, Stored, Unchanged, Unchanged, Refused, Skipped],
        );
        let lite = result(
            "lite",
            &[Stored, Unchanged, Unchanged, Skipped, Stored, Skipped],
        );
        let report = report(0..6, &none(), &[all, lite]).unwrap();
        let rows = Rows {
            stored: 2,
            unchanged: 2,
            skipped: 1,
            quarantined: 1,
        };
        assert_eq!(report.rows, rows);
        assert_eq!(report.refused, [(4, "all: too long".to_owned())].into());
        let lite = Rows {
            stored: 2,
            unchanged: 2,
            skipped: 2,
            quarantined: 0,
        };
        assert_eq!(report.targets["lite"], lite);
        assert!(report.targets.values().all(|rows| rows.total() == 6));
    }

    #[test]
    fn a_row_that_was_never_sent_is_quarantined_everywhere() {
        let refused = [(1, "not text".to_owned())].into();
        let all = result("all", &[RowStatus::Stored, RowStatus::Skipped]);
        let report = report(0..2, &refused, &[all]).unwrap();
        assert_eq!(
            report.rows,
            Rows {
                stored: 1,
                quarantined: 1,
                ..Rows::default()
            }
        );
        assert_eq!(report.targets["all"], report.rows);
        assert_eq!(report.refused[&1], "not text");
    }

    #[test]
    fn all_that_refused_a_row_are_named() {
        let pair = [
            result("a", &[RowStatus::Refused]),
            result("b", &[RowStatus::Refused]),
        ];
        let report = report(0..1, &none(), &pair).unwrap();
        assert_eq!(report.refused[&0], "a: too long; b: too long");
    }

    #[test]
    fn only_batches_with_pending_rows_are_unfinished() {
        let mut all = result("all", &[RowStatus::Stored, RowStatus::Pending]);
        all.give_up(Outcome::retry("429", "all"));
        let indices = [all];
        assert_eq!(report(0..1, &none(), &indices).unwrap().rows.stored, 1);
        assert_eq!(
            report(1..2, &none(), &indices),
            Err(Outcome::retry("429", "all"))
        );
    }

    #[test]
    fn of_several_unfinished_indices_the_one_that_needs_an_operator_decides() {
        let outcomes = [
            Outcome::Snooze {
                why: "blocked".into(),
                delay: Duration::ZERO,
            },
            Outcome::Quarantine(Invalid::new(Reason::MissingTarget, "no index")),
            Outcome::retry("429", "lite"),
        ];
        let pending = |outcome: &Outcome| {
            let mut index = result("i", &[RowStatus::Pending]);
            index.give_up(outcome.clone());
            index
        };
        let indices: Vec<_> = outcomes.iter().map(pending).collect();
        let report = report(0..1, &none(), &indices);
        assert_eq!(report, Err(outcomes[1].clone()));
    }
}
