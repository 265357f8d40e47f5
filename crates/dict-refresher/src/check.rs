//! Whether a loaded dictionary has what its table has.

use std::time::Duration;

use serde::Deserialize;
use stores::clickhouse::{Error, Query, Replica};
use tokio::time::Instant;

use crate::DictRefresherSettings;
use crate::spec::DictionarySpec;
use crate::state::DictionaryTag;

/// What is left of the time that an order may be held when a statement over the whole table has to be done: for its
/// error to come back.
const RESERVE: Duration = Duration::from_secs(5);
/// The server takes 0 for no limit.
const MIN_LIMIT: Duration = Duration::from_millis(100);

/// A statement over the whole table ends before the order is put off: one that takes longer than an order may be held
/// would be begun again for ever, at no cost of an attempt. Ended by the server it is a failure.
fn limited(query: Query, hold: Instant) -> Query {
    let left = hold.saturating_duration_since(Instant::now());
    let limit = left.saturating_sub(RESERVE.min(left / 2)).max(MIN_LIMIT);
    query.setting("max_execution_time", format!("{:.3}", limit.as_secs_f64()))
}

/// Keys of the shard's own rows in the table, those of repeated rows once. Fails when they are not counted shortly before
/// `hold`.
pub(crate) async fn count_keys(
    replica: &Replica,
    spec: &DictionarySpec,
    hold: Instant,
) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Row {
        keys: u64,
    }
    let query = limited(spec.count_keys(), hold);
    let rows: Vec<Row> = replica.rows(&query).await?;
    Ok(rows.first().map_or(0, |row| row.keys))
}

/// A new dictionary that is loaded, beside the table and the live dictionary that it is to replace.
pub(crate) struct Comparison<'a> {
    pub reader: &'a Replica,
    pub spec: &'a DictionarySpec,
    pub settings: &'a DictRefresherSettings,
    pub tag: &'a DictionaryTag,
    /// Entries of the new dictionary, and of the live one.
    pub entries: u64,
    pub live_entries: u64,
    pub hold: Instant,
}

impl Comparison<'_> {
    /// What keeps the new dictionary from being put in place; none when it is good.
    pub async fn difference(&self) -> Result<Option<String>, Error> {
        let Self {
            settings, entries, ..
        } = self;
        let keys = count_keys(self.reader, self.spec, self.hold).await?;
        let tolerance = settings.entries_tolerance_ratio;
        if let Err(what) = same_size(*entries, self.tag.keys, keys, tolerance) {
            return Ok(Some(what));
        }
        let (live, ratio) = (self.live_entries, settings.min_entries_ratio);
        if (*entries as f64) < live as f64 * ratio {
            return Ok(Some(format!(
                "the new dictionary has {entries} entries, the live one {live}: less than min_entries_ratio ({ratio}) \
                 of them; look at the table's rows and at dictionary.shard_expression"
            )));
        }
        if settings.probe_keys == 0 {
            return Ok(None);
        }
        let probe = self.spec.probe(self.tag.version, settings.probe_keys);
        let differences: Vec<Difference> = self.reader.rows(&limited(probe, self.hold)).await?;
        Ok(differences.first().map(|first| {
            let others = if differences.len() == 1 {
                ""
            } else {
                " and in others"
            };
            format!(
                "the new dictionary differs from the table in {} of key {}{others}",
                first.attribute, first.key
            )
        }))
    }
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
