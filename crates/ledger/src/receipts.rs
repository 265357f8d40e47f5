use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use batch::{Reason, Rows};

/// [`Rows`] of one batch. A batch's header cannot name more than 10⁹ rows, so 32 bits hold every
/// honest number; a dishonest one is cut off here and cannot overflow a sum of the whole run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BatchRows {
    pub stored: u32,
    pub unchanged: u32,
    pub skipped: u32,
    pub quarantined: u32,
}

impl BatchRows {
    pub fn total(&self) -> u64 {
        let wide = u64::from;
        wide(self.stored) + wide(self.unchanged) + wide(self.skipped) + wide(self.quarantined)
    }
}

impl From<&Rows> for BatchRows {
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

/// The receipt of one store for one batch, as small as it can be kept: there is one for each batch of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchReceipt {
    pub rows: BatchRows,
    /// By index and by reason; absent for a store of one target that refused nothing.
    pub detail: Option<Box<ReceiptDetail>>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReceiptDetail {
    /// Names are shared by all receipts of the run.
    pub targets: Box<[(Arc<str>, BatchRows)]>,
    pub reasons: Box<[(Reason, u32)]>,
}

impl BatchReceipt {
    pub fn new(
        rows: &Rows,
        targets: &BTreeMap<String, Rows>,
        reasons: &BTreeMap<Reason, u64>,
        mut intern: impl FnMut(&str) -> Arc<str>,
    ) -> Self {
        let detail = (!targets.is_empty() || !reasons.is_empty()).then(|| {
            let targets = targets.iter().map(|(t, rows)| (intern(t), rows.into()));
            let reasons = reasons.iter().map(|(reason, n)| (*reason, narrow(*n)));
            Box::new(ReceiptDetail {
                targets: targets.collect(),
                reasons: reasons.collect(),
            })
        });
        Self {
            rows: rows.into(),
            detail,
        }
    }

    /// Of two receipts for one batch the greater one counts. A redelivered batch has another receipt,
    /// then mostly with rows unchanged that the first one has as stored; and rows that an operator
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

/// What a new receipt changed.
pub(crate) struct Merged<'a> {
    /// The receipt as it is kept now.
    pub kept: &'a BatchReceipt,
    /// The one that it replaced, if any.
    pub replaced: Option<BatchReceipt>,
}

/// Receipts of one store for the batches of one attempt.
#[derive(Debug)]
pub(crate) struct AttemptReceipts {
    /// Position of the store in the run's list.
    pub store: usize,
    pub attempt: u32,
    /// Sum of the receipts' rows.
    rows: u64,
    /// By sequence number, ascending: they mostly come in order, so a push is the common case.
    batches: Vec<(u32, BatchReceipt)>,
}

impl AttemptReceipts {
    pub fn new(store: usize, attempt: u32) -> Self {
        Self {
            store,
            attempt,
            rows: 0,
            batches: Vec::new(),
        }
    }

    pub fn batches(&self) -> impl Iterator<Item = &BatchReceipt> {
        self.batches.iter().map(|(_, receipt)| receipt)
    }

    /// Takes a receipt in. `None`: nothing changed.
    pub fn merge(&mut self, sequence: u32, receipt: BatchReceipt) -> Option<Merged<'_>> {
        let found = match self.batches.last() {
            Some((last, _)) if *last >= sequence => {
                self.batches.binary_search_by_key(&sequence, |(n, _)| *n)
            }
            _ => Err(self.batches.len()),
        };
        self.rows += receipt.rows.total();
        let (at, replaced) = match found {
            Ok(at) => {
                let current = &mut self.batches[at].1;
                if current.rank() >= receipt.rank() {
                    self.rows -= receipt.rows.total();
                    return None;
                }
                self.rows -= current.rows.total();
                (at, Some(std::mem::replace(current, receipt)))
            }
            Err(at) => {
                self.batches.insert(at, (sequence, receipt));
                (at, None)
            }
        };
        let kept = &self.batches[at].1;
        Some(Merged { kept, replaced })
    }

    /// Whether there is a receipt for each of so many batches, and for so many rows.
    pub fn cover(&self, batches: u32, rows: u64) -> bool {
        self.batches.len() as u64 >= u64::from(batches) && self.rows >= rows
    }
}
