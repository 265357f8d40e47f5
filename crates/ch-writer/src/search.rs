//! Inserts batches together and, when the store refuses them, halves them until the refused rows
//! stand alone.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;

use batch::Invalid;
use batch::arrow::{Frame, Stream};
use pipeline::Outcome;

use crate::rows::DecodedRows;

/// What the store makes of one insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Every row is in.
    Taken,
    /// Some row cannot be taken; which one the store need not say.
    Refused(String),
    /// Nothing that these rows have done: this is to become of their messages.
    Failed(Outcome),
}

/// Where rows go.
pub(crate) trait Store {
    /// Inserts the rows of these record batches, which have one layout. Rows of a refused or failed
    /// insert may be in all the same; inserting them again changes nothing.
    fn insert(&self, frames: Vec<Frame>) -> impl Future<Output = Verdict> + Send;
}

/// What became of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Every row is in but these, by their places, with the store's reasons.
    Taken { refused: BTreeMap<usize, String> },
    /// Its rows cannot even be taken apart.
    Unreadable(Invalid),
    /// Some of its rows may be in.
    Failed(Outcome),
}

/// Inserts all batches, as few inserts as possible. Of one batch at most `max_refused` rows are looked
/// for: with that many, the rest of the batch counts as refused without being tried.
pub(crate) async fn insert_all<S: Store>(
    store: &S,
    batches: &[&Stream],
    max_refused: usize,
) -> Vec<Fate> {
    let taken = Fate::Taken {
        refused: BTreeMap::new(),
    };
    let mut fates = vec![taken; batches.len()];
    let mut pending = Vec::new();
    if !batches.is_empty() {
        pending.push(0..batches.len());
    }
    while let Some(range) = pending.pop() {
        let frames = batches[range.clone()].iter();
        let frames = frames.flat_map(|batch| batch.frames.iter().cloned());
        match store.insert(frames.collect()).await {
            Verdict::Taken => {}
            Verdict::Refused(_) if range.len() > 1 => pending.extend(halves(range)),
            Verdict::Refused(why) => {
                let fate = search(store, batches[range.start], why, max_refused).await;
                fates[range.start] = fate;
            }
            Verdict::Failed(outcome) => {
                // What is pending has not been tried, and would fail alike.
                for range in pending.drain(..).chain([range]) {
                    fates[range].fill(Fate::Failed(outcome.clone()));
                }
            }
        }
    }
    fates
}

/// Finds the rows of a refused batch that the store refuses.
async fn search<S: Store>(store: &S, batch: &Stream, why: String, max_refused: usize) -> Fate {
    match try_search(store, batch, why, max_refused).await {
        Ok(fate) => fate,
        Err(invalid) => Fate::Unreadable(invalid),
    }
}

async fn try_search<S: Store>(
    store: &S,
    batch: &Stream,
    why: String,
    max_refused: usize,
) -> Result<Fate, Invalid> {
    let rows = DecodedRows::of(batch)?;
    let mut refused = BTreeMap::new();
    let mut pending = Vec::new();
    match rows.len() {
        0 | 1 => drop(refused.insert(0, why)),
        all => pending.extend(halves(0..all)),
    }
    while let Some(range) = pending.pop() {
        match store.insert(rows.frames(&range)?).await {
            Verdict::Taken => {}
            Verdict::Refused(_) if range.len() > 1 => pending.extend(halves(range)),
            Verdict::Refused(why) => {
                refused.insert(range.start, why);
                if refused.len() >= max_refused {
                    refuse_untried(&mut refused, pending.drain(..).flatten());
                }
            }
            Verdict::Failed(outcome) => return Ok(Fate::Failed(outcome)),
        }
    }
    Ok(Fate::Taken { refused })
}

fn refuse_untried(refused: &mut BTreeMap<usize, String>, rows: impl Iterator<Item = usize>) {
    let last = refused.last_key_value().map_or("", |(_, why)| why.as_str());
    let why = format!(
        "not tried, because {} rows of its batch were refused; the last one: {last}",
        refused.len()
    );
    refused.extend(rows.map(|row| (row, why.clone())));
}

/// The halves of a range, to be put on a stack: the first one on top.
fn halves(range: Range<usize>) -> [Range<usize>; 2] {
    let middle = range.start + range.len() / 2;
    [middle..range.end, range.start..middle]
}

#[cfg(test)]
mod tests;
