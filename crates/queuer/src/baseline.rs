//! Where an incremental run begins: decided from the ledger. Pure.

use std::borrow::Cow;

use batch::{Column, RunId, RunMode, Started, TaskHash};
use ledger::{Ledger, Progress};
use stores::clickhouse::SourceSettings;

use crate::columns::SourceColumns;

/// Skipped runs that are named one by one; there may be hundreds of partial ones.
const NAMED: usize = 3;

/// The earlier runs, and the stores that they are looked up for.
#[derive(Debug, Clone, Copy)]
pub struct History<'a> {
    pub ledger: &'a Ledger,
    /// Programs that must account for every row, by their process names.
    pub stores: &'a [String],
}

/// The end of an earlier run that the next one can begin at, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Baseline {
    /// Milliseconds since the epoch.
    pub end_ms: Option<i64>,
    /// Which run it is, and why it is no later one, in words.
    pub why: String,
}

/// The latest run that passed, and how far back those before it, which passed too, reach without a gap.
struct Chain<'a> {
    latest: &'a RunId,
    end_ms: i64,
    since_ms: i64,
}

/// Identifies the table, key and columns that a run reads, whatever the order of the columns: two runs with the same
/// fingerprint read the same columns of the same table.
pub(crate) fn source_fingerprint(settings: &SourceSettings, source: &SourceColumns) -> String {
    let mut columns: Vec<&Column> = source.columns.iter().collect();
    columns.sort_by_key(|column| &column.name);
    // The count keeps a key column from being taken for another one.
    let count = (source.key.len() as u64).to_le_bytes();
    let all = source.key.iter().chain(columns).chain([&source.changed]);
    let all = all.flat_map(|column| [column.name.as_bytes(), column.r#type.as_bytes()]);
    let (database, table) = (&settings.database, &settings.table);
    let parts = [database.as_bytes(), table.as_bytes(), &count[..]];
    TaskHash::new(parts.into_iter().chain(all)).to_string()
}

/// Where an incremental run begins: the oldest watermark of its stores. What another store has already counts as
/// unchanged there.
///
/// The watermark of a store is the end of the latest ended run of `pipeline` that passed in it and left nothing out,
/// unless that run or a later one was for another source, for other shards, or not for the store: rows that did not
/// change since then are missing, and only a full run brings them.
pub(crate) fn baseline(
    history: History<'_>,
    pipeline: &str,
    shards: u32,
    source: &str,
) -> Baseline {
    let ended = history.ledger.ended(pipeline);
    // A plan for no pipeline in particular begins after a run that is complete in all its stores.
    let none = [String::new()];
    let stores = if history.stores.is_empty() {
        &none[..]
    } else {
        history.stores
    };
    let watermarks: Vec<(&String, Baseline)> = stores
        .iter()
        .map(|store| (store, watermark(&ended, store, shards, source)))
        .collect();
    let differ = watermarks
        .windows(2)
        .any(|w| w[0].1.end_ms != w[1].1.end_ms);
    // `None`, a full run, is the least of all.
    let oldest = watermarks.into_iter().min_by_key(|(_, w)| w.end_ms);
    let (store, mut oldest) = oldest.expect("there is at least one store");
    if differ {
        oldest.why = format!("of the stores {store} is behind: {}", oldest.why);
    }
    oldest
}

/// The end of the latest run that passed in the store and that a chain of such runs connects with a full run, or with
/// the oldest run that is known: where a run begins later than the one before it ended, rows are missing.
fn watermark(ended: &[Cow<'_, Progress>], store: &str, shards: u32, source: &str) -> Baseline {
    let mut skipped = Vec::new();
    let mut chain: Option<Chain<'_>> = None;
    for run in ended {
        let Some(started) = &run.started else {
            continue;
        };
        // A partial run may have been a trial with other settings.
        if !started.partial
            && let Some(difference) = difference(started, store, shards, source)
        {
            let why = format!("run {} {difference}", run.run);
            return Baseline::new(None, why, skipped);
        }
        if let Some(why) = missing(run, store) {
            skipped.push(format!("{} ({why})", run.run));
            continue;
        }
        if let Some(broken) = chain.take_if(|chain| started.until_ms < chain.since_ms) {
            skipped.push(format!(
                "{} (what changed before it since {} is missing)",
                broken.latest, run.run
            ));
        }
        let connected = chain.unwrap_or(Chain {
            latest: &run.run,
            end_ms: started.until_ms,
            since_ms: i64::MAX,
        });
        match started.mode {
            RunMode::Full => return connected.baseline(skipped),
            RunMode::Since { since_ms } => {
                chain = Some(Chain {
                    since_ms: connected.since_ms.min(since_ms),
                    ..connected
                });
            }
        }
    }
    if let Some(chain) = chain {
        return chain.baseline(skipped);
    }
    let why = if skipped.is_empty() {
        "no run is complete yet"
    } else {
        "no complete run left nothing out"
    };
    Baseline::new(None, why.to_owned(), skipped)
}

impl Chain<'_> {
    fn baseline(&self, skipped: Vec<String>) -> Baseline {
        let why = format!("run {} left nothing out", self.latest);
        Baseline::new(Some(self.end_ms), why, skipped)
    }
}

impl Baseline {
    fn new(end_ms: Option<i64>, mut why: String, mut skipped: Vec<String>) -> Self {
        let named = skipped.len().min(NAMED);
        let more = skipped.split_off(named).len();
        if more > 0 {
            skipped.push(format!("{more} more"));
        }
        if !skipped.is_empty() {
            why = format!("{why}; skipped: {}", skipped.join(", "));
        }
        Self { end_ms, why }
    }
}

/// What the store lacks of the run.
fn missing(run: &Progress, store: &str) -> Option<String> {
    if store.is_empty() {
        let incomplete = (!run.status.is_complete()).then(|| format!("it was {}", run.status));
        return incomplete.or_else(|| run.gap.clone());
    }
    match run.stores.iter().find(|known| known.store == store) {
        Some(known) if known.complete => known.gap.clone(),
        _ => Some(format!("it did not pass in {store}")),
    }
}

/// How the run differs from the next one, if rows that it did not read would be missing then.
fn difference(started: &Started, store: &str, shards: u32, source: &str) -> Option<String> {
    if !store.is_empty() && !started.stores.iter().any(|known| known == store) {
        return Some(format!("was not for {store}"));
    }
    if started.shards != shards {
        let before = started.shards;
        return Some(format!(
            "was for {before} shards, and now there are {shards}"
        ));
    }
    match started.source.as_str() {
        "" => Some("does not tell which columns it read".to_owned()),
        same if same == source => None,
        _ => Some("read another table, or other columns of it".to_owned()),
    }
}

#[cfg(test)]
mod tests;
