//! Inserts batches together and, when the store refuses them, halves them until the refused rows
//! stand alone.

use std::future::Future;
use std::ops::Range;

use batch::arrow::{self, Frame, Stream};
use pipeline::{Outcome, RefusedRows};

/// Where rows go.
pub(crate) trait RowStore {
    /// Inserts the rows of these record batches, which have one schema. The answer is `None` when every row is in, or
    /// why some row is refused; the store need not say which. Rows of a refused or failed insert may be in
    /// nevertheless: inserting them again changes nothing.
    fn insert(
        &self,
        frames: Vec<Frame>,
    ) -> impl Future<Output = Result<Option<String>, Outcome>> + Send;
}

/// Inserts all batches, with as few inserts as possible, and returns the refused rows of each. Of one batch at most
/// `max_refused` rows are looked for: with that many, the rest of the batch counts as refused without being tried.
/// Of a batch that has an outcome instead some rows may be in.
pub(crate) async fn insert_all<S: RowStore>(
    store: &S,
    batches: &[&Stream],
    max_refused: usize,
) -> Vec<Result<RefusedRows, Outcome>> {
    let mut results = vec![Ok(RefusedRows::new()); batches.len()];
    let mut pending = Vec::new();
    if !batches.is_empty() {
        pending.push(0..batches.len());
    }
    while let Some(range) = pending.pop() {
        let frames = batches[range.clone()].iter();
        let frames = frames.flat_map(|batch| batch.frames.iter().cloned());
        match store.insert(frames.collect()).await {
            Ok(None) => {}
            Ok(Some(_)) if range.len() > 1 => pending.extend(halves(range)),
            Ok(Some(why)) => {
                let batch = batches[range.start];
                results[range.start] = find_refused(store, batch, why, max_refused).await;
            }
            Err(outcome) => {
                // What is pending has not been tried, and would fail alike.
                for range in pending.drain(..).chain([range]) {
                    results[range].fill(Err(outcome.clone()));
                }
            }
        }
    }
    results
}

/// Finds the rows of a refused batch that the store refuses.
async fn find_refused<S: RowStore>(
    store: &S,
    batch: &Stream,
    why: String,
    max_refused: usize,
) -> Result<RefusedRows, Outcome> {
    let rows = batch.decode_all()?;
    let mut refused = RefusedRows::new();
    let mut pending = Vec::new();
    match rows.num_rows() {
        0 | 1 => drop(refused.insert(0, why)),
        all => pending.extend(halves(0..all)),
    }
    while let Some(range) = pending.pop() {
        let frames = arrow::frames_from_rows(&rows.slice(range.start, range.len()))?;
        match store.insert(frames).await? {
            None => {}
            Some(_) if range.len() > 1 => pending.extend(halves(range)),
            Some(why) => {
                refused.insert(range.start, why);
                if refused.len() >= max_refused {
                    refuse_untried(&mut refused, pending.drain(..).flatten());
                }
            }
        }
    }
    Ok(refused)
}

fn refuse_untried(refused: &mut RefusedRows, rows: impl Iterator<Item = usize>) {
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
