use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use batch::{Reason, Rows};

/// [`Rows`] of one batch. A batch's header cannot name more than 10⁹ rows, so 32 bits hold every
/// honest number; a dishonest one is cut off here and cannot overflow a sum of the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rows32 {
    pub stored: u32,
    pub unchanged: u32,
    pub skipped: u32,
    pub quarantined: u32,
}

impl Rows32 {
    pub fn total(&self) -> u64 {
        let wide = u64::from;
        wide(self.stored) + wide(self.unchanged) + wide(self.skipped) + wide(self.quarantined)
    }
}

impl From<&Rows> for Rows32 {
    fn from(rows: &Rows) -> Self {
        Self {
            stored: narrow(rows.stored),
            unchanged: narrow(rows.unchanged),
            skipped: narrow(rows.skipped),
            quarantined: narrow(rows.quarantined),
        }
    }
}

fn narrow(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// What one store says of one batch, as small as it can be kept: there is one for each batch of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchReceipt {
    pub rows: Rows32,
    /// By index and by reason; absent for a store of one target that refused nothing.
    pub detail: Option<Box<Detail>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Detail {
    /// Names are shared by all answers of the run.
    pub targets: Box<[(Arc<str>, Rows32)]>,
    pub reasons: Box<[(Reason, u32)]>,
}

impl BatchReceipt {
    pub fn new(
        rows: &Rows,
        targets: &BTreeMap<String, Rows>,
        reasons: &BTreeMap<Reason, u64>,
        mut share: impl FnMut(&str) -> Arc<str>,
    ) -> Self {
        let detail = (!targets.is_empty() || !reasons.is_empty()).then(|| {
            let targets = targets.iter().map(|(t, rows)| (share(t), rows.into()));
            let reasons = reasons.iter().map(|(reason, n)| (*reason, narrow(*n)));
            Box::new(Detail {
                targets: targets.collect(),
                reasons: reasons.collect(),
            })
        });
        Self {
            rows: rows.into(),
            detail,
        }
    }

    /// Of two answers for one batch the greater one counts. A redelivered batch is answered again,
    /// then mostly with rows unchanged that the first answer has as stored; and rows that an operator
    /// repaired are no longer in quarantine. So: the most rows, the fewest in quarantine, the most stored.
    fn rank(&self) -> impl Ord + '_ {
        let rows = &self.rows;
        (
            rows.total(),
            Reverse(rows.quarantined),
            rows.stored,
            rows.unchanged,
            &self.detail,
        )
    }
}

/// Receipts of one store to the batches of one attempt.
#[derive(Debug)]
pub(crate) struct AttemptReceipts {
    /// Position of the store in the run's list.
    pub store: usize,
    pub attempt: u32,
    /// Sum of the answers' rows.
    pub rows: u64,
    /// By sequence number, ascending: they mostly come in order, so a push is the common case.
    pub batches: Vec<(u32, BatchReceipt)>,
}

impl AttemptReceipts {
    /// Takes an answer in. `None`: nothing changed. Otherwise the answer as it is kept now, and the
    /// one that it took the place of, if any.
    pub fn merge(
        &mut self,
        sequence: u32,
        answer: BatchReceipt,
    ) -> Option<(&BatchReceipt, Option<BatchReceipt>)> {
        let found = match self.batches.last() {
            Some((last, _)) if *last >= sequence => {
                self.batches.binary_search_by_key(&sequence, |(n, _)| *n)
            }
            _ => Err(self.batches.len()),
        };
        self.rows += answer.rows.total();
        let (at, replaced) = match found {
            Ok(at) => {
                let current = &mut self.batches[at].1;
                if current.rank() >= answer.rank() {
                    self.rows -= answer.rows.total();
                    return None;
                }
                self.rows -= current.rows.total();
                (at, Some(std::mem::replace(current, answer)))
            }
            Err(at) => {
                self.batches.insert(at, (sequence, answer));
                (at, None)
            }
        };
        Some((&self.batches[at].1, replaced))
    }

    /// Whether the store has answered for every batch and every row of the attempt.
    pub fn covers(&self, read: &Read) -> bool {
        self.batches.len() as u64 >= u64::from(read.batches) && self.rows >= read.rows
    }
}

/// A successful attempt at a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Read {
    pub attempt: u32,
    pub batches: u32,
    pub rows: u64,
    pub bytes: u64,
}

impl Read {
    /// Should one attempt have been made twice, the one that read more.
    fn rank(&self) -> impl Ord {
        (self.rows, self.batches, self.bytes)
    }

    pub fn is_empty(&self) -> bool {
        self.rows == 0 && self.batches == 0
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

impl TaskStatus {
    pub const COUNT: usize = 4;
}

#[derive(Debug, Default)]
pub(crate) struct TaskState {
    /// Successful attempts, the lowest first: one, nearly always.
    reads: Vec<Read>,
    /// Given up, by which program and why.
    pub quarantined: Option<Box<(Reason, String)>>,
    /// The latest failure: attempt and error. Gone once the task succeeded.
    pub failure: Option<Box<(u32, String)>>,
    /// Receipts to every attempt, successful or not: its success can be heard of later.
    answers: Vec<AttemptReceipts>,
    /// The lowest attempt whose batches went on from where they were held: all of them.
    released: Option<u32>,
}

/// What counts of a task in one store.
pub(crate) struct Counted<'a> {
    pub attempt: u32,
    /// Rows that it has read.
    pub rows: u64,
    /// Absent when the store has said nothing of the attempt.
    pub answers: Option<&'a AttemptReceipts>,
    /// Whether the store has accounted for all of the attempt.
    pub is_covered: bool,
}

impl TaskState {
    pub fn status(&self) -> TaskStatus {
        if !self.reads.is_empty() {
            TaskStatus::Fetched
        } else if self.quarantined.is_some() {
            TaskStatus::Quarantined
        } else if self.failure.is_some() {
            TaskStatus::Failed
        } else {
            TaskStatus::Open
        }
    }

    /// The first successful attempt.
    pub fn read(&self) -> Option<&Read> {
        self.reads.first()
    }

    /// Whether some successful attempt found nothing, so that no store has anything to say.
    pub fn is_empty(&self) -> bool {
        self.reads.iter().any(Read::is_empty)
    }

    /// Takes in that an attempt's batches all went on.
    pub fn went_on(&mut self, attempt: u32) {
        self.released = Some(self.released.map_or(attempt, |known| known.min(attempt)));
    }

    /// The attempt whose batches went on.
    pub fn released(&self) -> Option<u32> {
        self.released
    }

    /// Batches of the attempt, if it was read to its end.
    pub fn batches_of(&self, attempt: u32) -> Option<u32> {
        let read = self.reads.iter().find(|read| read.attempt == attempt)?;
        Some(read.batches)
    }

    /// Takes a success in. Whether it changed anything.
    pub fn succeeded(&mut self, read: Read) -> bool {
        self.failure = None;
        match self
            .reads
            .binary_search_by_key(&read.attempt, |r| r.attempt)
        {
            Ok(at) if self.reads[at].rank() >= read.rank() => return false,
            Ok(at) => self.reads[at] = read,
            Err(at) => self.reads.insert(at, read),
        }
        true
    }

    /// Which attempt counts in the store: the first successful one that it has accounted for in full,
    /// or else the first successful one. A receipt of success may be stored although a batch before it
    /// was lost with the broker; then the task comes again, and only its next attempt can be complete.
    pub fn counted(&self, store: usize) -> Option<Counted<'_>> {
        let first = self.reads.first()?;
        let covers = |read: &Read| match self.answers(store, read.attempt) {
            Some(answers) => answers.covers(read),
            None => read.is_empty(),
        };
        let covered = self.reads.iter().find(|read| covers(read));
        let Read { attempt, rows, .. } = *covered.unwrap_or(first);
        Some(Counted {
            attempt,
            rows,
            answers: self.answers(store, attempt),
            is_covered: covered.is_some(),
        })
    }

    pub fn answers(&self, store: usize, attempt: u32) -> Option<&AttemptReceipts> {
        let mut answers = self.answers.iter();
        answers.find(|a| a.store == store && a.attempt == attempt)
    }

    pub fn answers_mut(&mut self, store: usize, attempt: u32) -> &mut AttemptReceipts {
        let same = |a: &AttemptReceipts| a.store == store && a.attempt == attempt;
        let at = self.answers.iter().position(same).unwrap_or_else(|| {
            self.answers.push(AttemptReceipts {
                store,
                attempt,
                rows: 0,
                batches: Vec::new(),
            });
            self.answers.len() - 1
        });
        &mut self.answers[at]
    }
}
