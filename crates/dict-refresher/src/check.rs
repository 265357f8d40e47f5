//! Whether a loaded dictionary has what its table has.

use std::time::Duration;

use serde::Deserialize;
use stores::clickhouse::{Error, Query, Replica};
use tokio::time::Instant;

use crate::DictRefresherSettings;
use crate::blueprint::Blueprint;
use crate::state::{Entry, Mark};

/// What is left of the time in hand when a statement over the whole table has to be done: for its error to come back.
const SPARE: Duration = Duration::from_secs(5);
/// The server takes 0 for no limit.
const LEAST: Duration = Duration::from_millis(100);

/// A statement over the whole table ends before the order is put off: one that takes longer than the whole time in hand
/// would be begun again for ever, at no cost of an attempt. Ended by the server it is a failure.
fn limited(query: Query, hold: Instant) -> Query {
    let left = hold.saturating_duration_since(Instant::now());
    let limit = left.saturating_sub(SPARE.min(left / 2)).max(LEAST);
    query.setting("max_execution_time", format!("{:.3}", limit.as_secs_f64()))
}

/// Keys of the shard's own rows in the table, those of repeated rows once. Fails when they are not counted shortly before
/// `hold`.
pub(crate) async fn count_keys(
    replica: &Replica,
    blueprint: &Blueprint,
    hold: Instant,
) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Row {
        keys: u64,
    }
    let query = limited(blueprint.count_keys(), hold);
    let rows: Vec<Row> = replica.rows(&query).await?;
    Ok(rows.first().map_or(0, |row| row.keys))
}

/// Compares `next`, which is loaded, with the table, and with the live dictionary that it is to replace. The text says
/// what differs.
pub(crate) async fn compare(
    replica: &Replica,
    blueprint: &Blueprint,
    settings: &DictRefresherSettings,
    (next, mark): (&Entry, &Mark),
    live: Option<&Entry>,
    hold: Instant,
) -> Result<Result<(), String>, Error> {
    let place = replica.address();
    let after = count_keys(replica, blueprint, hold).await?;
    if let Err(what) = same_size(
        next.entries,
        mark.keys,
        after,
        settings.entries_tolerance_ratio,
    ) {
        return Ok(Err(format!("{place}: {what}")));
    }
    let old = live.map_or(0, |live| live.entries);
    if (next.entries as f64) < old as f64 * settings.min_entries_ratio {
        return Ok(Err(format!(
            "{place}: the new dictionary has {} entries, the live one {old}: less than min_entries_ratio ({}) of them; \
             look at the table's rows and at dictionary.shard_expression",
            next.entries, settings.min_entries_ratio
        )));
    }
    if settings.probe_keys == 0 {
        return Ok(Ok(()));
    }
    let probe = limited(blueprint.probe(mark.version, settings.probe_keys), hold);
    let differences: Vec<Difference> = replica.rows(&probe).await?;
    Ok(match differences.first() {
        None => Ok(()),
        Some(first) => Err(format!(
            "{place}: the new dictionary differs from the table in {} of key {}{}",
            first.attribute,
            first.key,
            match differences.len() {
                1 => String::new(),
                _ => " and in others".to_owned(),
            }
        )),
    })
}

#[derive(Debug, Deserialize)]
struct Difference {
    key: String,
    attribute: String,
}

/// Rows may come while a dictionary is loaded: what the table had before and has after bounds what is right.
fn same_size(entries: u64, before: u64, after: u64, tolerance: f64) -> Result<(), String> {
    let least = (before.min(after) as f64 * (1.0 - tolerance)).ceil() as u64;
    let most = (before.max(after) as f64 * (1.0 + tolerance)).floor() as u64;
    if (least..=most).contains(&entries) {
        return Ok(());
    }
    let keys = match before == after {
        true => format!("{after} keys"),
        false => format!("{before} keys before and {after} keys after it was loaded"),
    };
    Err(format!(
        "the new dictionary has {entries} entries, and the table {keys}; entries_tolerance_ratio is {tolerance}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_that_come_while_it_is_loaded_need_no_tolerance() {
        assert!(same_size(100, 100, 100, 0.0).is_ok());
        assert!(same_size(103, 100, 105, 0.0).is_ok());
        assert!(same_size(99, 100, 105, 0.0).is_err());
        assert!(same_size(106, 100, 105, 0.0).is_err());
        assert!(same_size(99, 100, 100, 0.01).is_ok());
        assert!(same_size(98, 100, 100, 0.01).is_err());
        assert!(same_size(0, 0, 0, 0.0).is_ok());
        let text = same_size(99, 100, 105, 0.0).unwrap_err();
        assert!(
            text.contains("99 entries") && text.contains("100 keys before"),
            "{text}"
        );
    }
}
