//! Which run an incremental run follows: decided from the ledger. Pure.

use std::borrow::Cow;

use batch::{Column, RunId, RunMode, TaskHash};
use ledger::{Ledger, Progress, Started};

/// Runs passed over that are named one by one; there may be hundreds of partial ones.
const NAMED: usize = 3;

/// What is known of earlier runs, and what must have been the same for one of them to be followed.
#[derive(Debug, Clone, Copy)]
pub struct Past<'a> {
    pub ledger: &'a Ledger,
    /// Programs that must account for every row, by their process names.
    pub stores: &'a [String],
}

/// The run that is followed, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Basis {
    /// Where it ended, in milliseconds since the epoch.
    pub end_ms: Option<i64>,
    /// Which one, and why no later one: for a person.
    pub why: String,
}

/// What a run reads, without the moment and the extent: two runs of one source read the same columns of
/// the same table. Their order is of no account.
pub(crate) fn source_of(
    (database, table): (&str, &str),
    key: &[Column],
    columns: &[Column],
    changed: &Column,
) -> String {
    let mut columns: Vec<&Column> = columns.iter().collect();
    columns.sort_by_key(|column| &column.name);
    // The count keeps a key column from being taken for another one.
    let count = (key.len() as u64).to_le_bytes();
    let all = key.iter().chain(columns).chain([changed]);
    let all = all.flat_map(|column| [column.name.as_bytes(), column.r#type.as_bytes()]);
    let parts = [database.as_bytes(), table.as_bytes(), &count[..]];
    TaskHash::of(parts.into_iter().chain(all)).to_string()
}

/// Where an incremental run may begin: the older of the marks that the stores have, so that what one of them missed is
/// sent again; what the other has already counts as unchanged there.
///
/// A store's mark is the latest ended run of `pipeline` that passed in it and left nothing out, unless a run since
/// then, or that run itself, was for another source, for other shards, or not for the store: rows that did not
/// change since are missing then, and only a full run brings them.
pub(crate) fn follow(past: Past<'_>, pipeline: &str, shards: u32, source: &str) -> Basis {
    let ended = past.ledger.ended(pipeline);
    // A plan for no pipeline in particular follows a run that is complete in all that it was for.
    let none = [String::new()];
    let stores = match past.stores {
        [] => &none[..],
        stores => stores,
    };
    let marks = stores
        .iter()
        .map(|store| (store, mark(&ended, store, shards, source)));
    let marks: Vec<(&String, Basis)> = marks.collect();
    let oldest = marks.iter().min_by_key(|(_, mark)| mark.end_ms);
    let Some((store, oldest)) = oldest else {
        return basis(None, "no run has ended yet".to_owned(), &[]);
    };
    let mut oldest = oldest.clone();
    // `None`, a full run, is the least of all.
    if marks.iter().any(|(_, mark)| mark.end_ms != oldest.end_ms) {
        oldest.why = format!("of the stores {store} is behind: {}", oldest.why);
    }
    oldest
}

/// The latest run that passed in the store and is connected, by runs that did, to one of all rows, or to the oldest
/// run that is known: where an incremental run begins later than the one before it ended well, rows are missing.
fn mark(ended: &[Cow<'_, Progress>], store: &str, shards: u32, source: &str) -> Basis {
    let mut passed = Vec::new();
    // The run that is accepted, if those before it carry what it does not, and from when on it does not need them.
    let mut accepted: Option<(&Progress, &Started, i64)> = None;
    for run in ended {
        let Some(started) = &run.started else {
            continue;
        };
        // A partial run is no sign of anything: it may have been a trial.
        let unlike = match started.partial {
            true => None,
            false => unlike(started, store, shards, source),
        };
        if let Some(unlike) = unlike {
            let why = format!("run {} {unlike}", run.run);
            return basis(None, why, &passed);
        }
        if let Some(what) = missed(run, store) {
            passed.push((&run.run, what));
            continue;
        }
        if let Some((latest, _, since_ms)) = accepted
            && started.until_ms < since_ms
        {
            let gap = format!("what changed before it since {} is missing", run.run);
            passed.push((&latest.run, gap));
            accepted = None;
        }
        let (latest, end, carried_ms) = accepted.unwrap_or((run, started, i64::MAX));
        match started.mode {
            RunMode::Full => return followed(latest, end, &passed),
            RunMode::Since { since_ms } => accepted = Some((latest, end, carried_ms.min(since_ms))),
        }
    }
    if let Some((latest, end, _)) = accepted {
        return followed(latest, end, &passed);
    }
    let why = match passed.is_empty() {
        true => "no run is complete yet",
        false => "no complete run left nothing out",
    };
    basis(None, why.to_owned(), &passed)
}

fn followed(run: &Progress, started: &Started, passed: &[(&RunId, String)]) -> Basis {
    let why = format!("run {} left nothing out", run.run);
    basis(Some(started.until_ms), why, passed)
}

/// What the store does not have of the run that it should.
fn missed(run: &Progress, store: &str) -> Option<String> {
    if store.is_empty() {
        let incomplete = (!run.state.is_complete()).then(|| format!("it was {}", run.state));
        return incomplete.or_else(|| run.gap.clone());
    }
    match run.stores.iter().find(|known| known.store == store) {
        Some(known) if known.closed => known.gap.clone(),
        _ => Some(format!("it did not close well in {store}")),
    }
}

fn basis(end_ms: Option<i64>, mut why: String, passed: &[(&RunId, String)]) -> Basis {
    let named = passed.iter().take(NAMED);
    let mut named: Vec<String> = named.map(|(run, what)| format!("{run} ({what})")).collect();
    if passed.len() > NAMED {
        named.push(format!("{} more", passed.len() - NAMED));
    }
    if !named.is_empty() {
        why.push_str("; passed over: ");
        why.push_str(&named.join(", "));
    }
    Basis { end_ms, why }
}

/// Why rows that the run did not carry would be missing now, if so.
fn unlike(started: &Started, store: &str, shards: u32, source: &str) -> Option<String> {
    if !store.is_empty() && !started.stores.iter().any(|known| known == store) {
        return Some(format!("was not for {store}"));
    }
    if started.shards != shards {
        let were = started.shards;
        return Some(format!("was for {were} shards, and now there are {shards}"));
    }
    match started.source.as_str() {
        "" => Some("does not say which columns it read".to_owned()),
        same if same == source => None,
        _ => Some("read another table, or other columns of it".to_owned()),
    }
}

#[cfg(test)]
mod tests;
