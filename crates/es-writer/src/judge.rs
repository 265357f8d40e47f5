//! From the answers of the indices to what became of each row and each batch of a group.

use std::collections::BTreeMap;
use std::ops::Range;

use batch::Rows;
use pipeline::Outcome;

/// Where a row stands in one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// The index does not take this row.
    Skipped,
    /// The index has not answered for it yet.
    Pending,
    Stored,
    Unchanged,
    Refused,
}

/// What one index answered for the rows of a group.
#[derive(Debug)]
pub(crate) struct Answers {
    pub index: String,
    /// By the row's place in the group.
    standings: Vec<Standing>,
    /// Why the index refused a row.
    refused: BTreeMap<usize, String>,
    /// What is to become of the batches with rows that stayed pending.
    unfinished: Option<Outcome>,
}

/// What became of one batch.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    /// Every index has answered for every row.
    Settled(Settled),
    /// Some rows have no answer: the whole batch comes again, or goes to quarantine.
    Unfinished(Outcome),
}

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Settled {
    pub rows: Rows,
    /// The same by index, leaders and followers alike.
    pub targets: BTreeMap<String, Rows>,
    /// Why a row was refused, by its place in the batch.
    pub refused: BTreeMap<usize, String>,
}

/// The rows of one batch in its group, and those of them that no index was asked to take.
pub(crate) struct Part<'a> {
    pub rows: Range<usize>,
    /// By the row's place in the batch.
    pub refused: &'a BTreeMap<usize, String>,
}

impl Answers {
    /// `rows` is the number of rows in the group.
    pub fn new(index: impl Into<String>, rows: usize) -> Self {
        Self {
            index: index.into(),
            standings: vec![Standing::Skipped; rows],
            refused: BTreeMap::new(),
            unfinished: None,
        }
    }

    /// Rows that the index is to be asked to take.
    pub fn expect(&mut self, rows: &[usize]) {
        for row in rows {
            self.standings[*row] = Standing::Pending;
        }
    }

    pub fn set(&mut self, row: usize, standing: Standing) {
        self.standings[row] = standing;
    }

    pub fn refuse(&mut self, row: usize, why: String) {
        self.standings[row] = Standing::Refused;
        self.refused.insert(row, why);
    }

    /// Says what is to become of the rows that are still pending. The first word stands.
    pub fn give_up(&mut self, outcome: Outcome) {
        self.unfinished.get_or_insert(outcome);
    }

    fn count(&self, part: &Part<'_>) -> Rows {
        let mut rows = Rows::default();
        for row in part.rows.clone() {
            let standing = match part.refused.contains_key(&(row - part.rows.start)) {
                true => Standing::Refused,
                false => self.standings[row],
            };
            match standing {
                Standing::Skipped => rows.skipped += 1,
                Standing::Stored => rows.stored += 1,
                Standing::Unchanged => rows.unchanged += 1,
                Standing::Refused => rows.quarantined += 1,
                Standing::Pending => {}
            }
        }
        rows
    }

    fn is_pending(&self, rows: Range<usize>) -> bool {
        self.standings[rows].contains(&Standing::Pending)
    }
}

/// Judges one batch. A row is quarantined if it or any index refused it; else stored if any index
/// took it newly; else unchanged if any index has it; else no index takes it.
pub(crate) fn judge(part: &Part<'_>, answers: &[Answers]) -> Verdict {
    let pending = answers.iter().filter(|a| a.is_pending(part.rows.clone()));
    let outcomes = pending.map(|answers| match &answers.unfinished {
        Some(outcome) => outcome.clone(),
        None => Outcome::retry("the index has not answered", &answers.index),
    });
    if let Some(outcome) = outcomes.max_by_key(weight) {
        return Verdict::Unfinished(outcome);
    }
    let mut settled = Settled::default();
    for answers in answers {
        settled
            .targets
            .insert(answers.index.clone(), answers.count(part));
    }
    for (place, row) in part.rows.clone().enumerate() {
        let of_row = || answers.iter().map(|a| a.standings[row]);
        let why = why_refused(part, answers, place, row);
        if !why.is_empty() {
            settled.rows.quarantined += 1;
            settled.refused.insert(place, why);
        } else if of_row().any(|s| s == Standing::Stored) {
            settled.rows.stored += 1;
        } else if of_row().any(|s| s == Standing::Unchanged) {
            settled.rows.unchanged += 1;
        } else {
            settled.rows.skipped += 1;
        }
    }
    Verdict::Settled(settled)
}

/// The reasons of all that refused the row; empty when nothing did.
fn why_refused(part: &Part<'_>, answers: &[Answers], place: usize, row: usize) -> String {
    if let Some(why) = part.refused.get(&place) {
        return why.clone();
    }
    let by_index = answers
        .iter()
        .filter_map(|a| a.refused.get(&row).map(|why| format!("{}: {why}", a.index)));
    by_index.collect::<Vec<_>>().join("; ")
}

/// Where indices differ, the outcome that needs a person most is the batch's.
fn weight(outcome: &Outcome) -> u8 {
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

    fn answers(index: &str, standings: &[Standing]) -> Answers {
        let mut answers = Answers::new(index, standings.len());
        for (row, standing) in standings.iter().enumerate() {
            match standing {
                Standing::Refused => answers.refuse(row, "too long".into()),
                other => answers.set(row, *other),
            }
        }
        answers
    }

    fn settled(
        refused: &BTreeMap<usize, String>,
        answers: &[Answers],
        rows: Range<usize>,
    ) -> Settled {
        match judge(&Part { rows, refused }, answers) {
            Verdict::Settled(settled) => settled,
            Verdict::Unfinished(outcome) => panic!("{outcome:?}"),
        }
    }

    #[test]
    fn a_row_counts_once_and_its_worst_fate_wins() {
        use Standing::*;
        let all = answers(
            "all",
            &[Stored, Stored, Unchanged, Unchanged, Refused, Skipped],
        );
        let lite = answers(
            "lite",
            &[Stored, Unchanged, Unchanged, Skipped, Stored, Skipped],
        );
        let settled = settled(&BTreeMap::new(), &[all, lite], 0..6);
        let rows = Rows {
            stored: 2,
            unchanged: 2,
            skipped: 1,
            quarantined: 1,
        };
        assert_eq!(settled.rows, rows);
        assert_eq!(settled.refused, [(4, "all: too long".to_owned())].into());
        let lite = Rows {
            stored: 2,
            unchanged: 2,
            skipped: 2,
            quarantined: 0,
        };
        assert_eq!(settled.targets["lite"], lite);
        assert!(settled.targets.values().all(|rows| rows.total() == 6));
    }

    #[test]
    fn a_row_that_was_never_sent_is_quarantined_everywhere() {
        let refused = [(1, "not text".to_owned())].into();
        let all = answers("all", &[Standing::Stored, Standing::Skipped]);
        let settled = settled(&refused, &[all], 0..2);
        assert_eq!(
            settled.rows,
            Rows {
                stored: 1,
                quarantined: 1,
                ..Rows::default()
            }
        );
        assert_eq!(settled.targets["all"], settled.rows);
        assert_eq!(settled.refused[&1], "not text");
    }

    #[test]
    fn all_that_refused_a_row_are_named() {
        let pair = [
            answers("a", &[Standing::Refused]),
            answers("b", &[Standing::Refused]),
        ];
        let settled = settled(&BTreeMap::new(), &pair, 0..1);
        assert_eq!(settled.refused[&0], "a: too long; b: too long");
    }

    #[test]
    fn only_batches_with_pending_rows_come_again() {
        let mut all = answers("all", &[Standing::Stored, Standing::Pending]);
        all.give_up(Outcome::retry("429", "all"));
        let answers = [all];
        assert_eq!(settled(&BTreeMap::new(), &answers, 0..1).rows.stored, 1);
        let second = Part {
            rows: 1..2,
            refused: &BTreeMap::new(),
        };
        assert_eq!(
            judge(&second, &answers),
            Verdict::Unfinished(Outcome::retry("429", "all"))
        );
    }

    #[test]
    fn of_several_unfinished_indices_the_one_that_needs_a_person_decides() {
        let outcomes = [
            Outcome::Snooze {
                why: "blocked".into(),
                delay: Duration::ZERO,
            },
            Outcome::Quarantine(Invalid::new(Reason::MissingTarget, "no index")),
            Outcome::retry("429", "lite"),
        ];
        let pending = |outcome: &Outcome| {
            let mut answers = answers("i", &[Standing::Pending]);
            answers.give_up(outcome.clone());
            answers
        };
        let answers: Vec<_> = outcomes.iter().map(pending).collect();
        let verdict = judge(
            &Part {
                rows: 0..1,
                refused: &BTreeMap::new(),
            },
            &answers,
        );
        assert_eq!(verdict, Verdict::Unfinished(outcomes[1].clone()));
    }
}
