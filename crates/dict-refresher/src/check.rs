//! Whether a loaded dictionary has what its table has.

use std::time::Duration;

use serde::Deserialize;
use stores::clickhouse::{Error, Query};
use tokio::time::Instant;

use crate::replica::ReplicaRefresh;
use crate::state::{DictionaryRow, DictionaryTag};

/// What is left of the time that an order may be held when a statement over the whole table has to be done: for its
/// error to come back.
const RESERVE: Duration = Duration::from_secs(5);
/// The server takes 0 for no limit.
const MIN_LIMIT: Duration = Duration::from_millis(100);

#[derive(Debug, Deserialize)]
struct KeyCount {
    keys: u64,
}

#[derive(Debug, Deserialize)]
struct Difference {
    key: String,
    attribute: String,
}

impl ReplicaRefresh<'_> {
    /// Keys of the shard's own rows in the table, those of repeated rows once.
    pub async fn count_keys(&self) -> Result<u64, Error> {
        let query = limited(self.spec.count_keys(), self.deadline);
        let rows: Vec<KeyCount> = self.reader.rows(&query).await?;
        Ok(rows.first().map_or(0, |row| row.keys))
    }

    /// Compares the new dictionary, once it is loaded, with the table and with the live one. Returns why it must not
    /// replace that; none when it is good.
    pub async fn difference(
        &self,
        next: &DictionaryRow,
        tag: &DictionaryTag,
        live_entries: u64,
    ) -> Result<Option<String>, Error> {
        let (entries, settings) = (next.entries, &self.refresher.settings);
        let keys = self.count_keys().await?;
        if let Err(what) = same_size(entries, tag.keys, keys, settings.entries_tolerance_ratio) {
            return Ok(Some(what));
        }
        let ratio = settings.min_entries_ratio;
        if (entries as f64) < live_entries as f64 * ratio {
            return Ok(Some(format!(
                "the new dictionary has {entries} entries, the live one {live_entries}: less than min_entries_ratio \
                 ({ratio}) of them; check the table's rows and dictionary.shard_expression"
            )));
        }
        if settings.probe_keys == 0 {
            return Ok(None);
        }
        let probe = self.spec.probe(tag.version, settings.probe_keys);
        let differences: Vec<Difference> = self.reader.rows(&limited(probe, self.deadline)).await?;
        Ok(differences.first().map(|Difference { key, attribute }| {
            let others = if differences.len() == 1 {
                ""
            } else {
                " and in others"
            };
            format!("the new dictionary differs from the table in {attribute} of key {key}{others}")
        }))
    }
}

/// A statement over the whole table ends before the order is put off: one that takes longer than an order may be in
/// flight would be begun again and again without using up an attempt. Ended by the server it is a failure.
fn limited(query: Query, deadline: Instant) -> Query {
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = left.saturating_sub(RESERVE.min(left / 2)).max(MIN_LIMIT);
    query.setting("max_execution_time", format!("{:.3}", limit.as_secs_f64()))
}

/// Rows may come while a dictionary is loaded: what the table had before and has after bounds what is right.
fn same_size(entries: u64, before: u64, after: u64, tolerance: f64) -> Result<(), String> {
    let least = (before.min(after) as f64 * (1.0 - tolerance)).ceil() as u64;
    let most = (before.max(after) as f64 * (1.0 + tolerance)).floor() as u64;
    if (least..=most).contains(&entries) {
        return Ok(());
    }
    let keys = if before == after {
        format!("{after} keys")
    } else {
        format!("{before} keys before and {after} keys after it was loaded")
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
