//! What is known of a replica's dictionaries: all of it stands on the server.

use batch::{Order, RunId};
use serde::{Deserialize, Serialize};
use stores::clickhouse::{Error, Query, Replica, Shard, quote_identifier};

use crate::DictionarySettings;
use crate::failure::RefreshFailure;

/// The comment of a dictionary that this program made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DictionaryTag {
    pub run: RunId,
    pub version: i64,
    /// [`Order::expires_at_ms`] of its order, which tells that from a later one for the same run.
    #[serde(default)]
    pub expires_at_ms: i64,
    /// Keys that its table had when it was made: it tells rows that came while it was loaded from lost ones.
    pub keys: u64,
}

/// States of a dictionary, as `system.dictionaries` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LoadStatus {
    NotLoaded,
    Loaded,
    Loading,
    Failed,
}

/// A dictionary on a replica.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct DictionaryRow {
    pub name: String,
    #[serde(rename = "state")]
    pub status_text: String,
    comment: String,
    #[serde(rename = "element_count")]
    pub entries: u64,
    #[serde(rename = "bytes_allocated")]
    pub bytes: u64,
    pub last_exception: String,
    /// Seconds since its loading began, by the server's own clock.
    pub loading_for: u64,
    /// When it was loaded, in seconds since the epoch; 0 if it is not.
    pub loaded_at: u64,
}

impl DictionaryRow {
    /// Its tag; none, if something else made it.
    pub fn tag(&self) -> Option<DictionaryTag> {
        serde_json::from_str(&self.comment).ok()
    }

    /// The version that it was made for; none is older than any.
    pub fn version(&self) -> Option<i64> {
        self.tag().map(|tag| tag.version)
    }

    /// Whether it was made for this very order, and not for an earlier one of the same run: the table may have been
    /// repaired since.
    pub fn is_for(&self, order: &Order) -> bool {
        self.tag().is_some_and(|tag| {
            (tag.version, tag.expires_at_ms) == (order.version, order.expires_at_ms)
        })
    }

    pub fn status(&self) -> LoadStatus {
        match self.status_text.as_str() {
            "LOADED" | "LOADED_AND_RELOADING" => LoadStatus::Loaded,
            "LOADING" | "FAILED_AND_RELOADING" => LoadStatus::Loading,
            "FAILED" => LoadStatus::Failed,
            _ => LoadStatus::NotLoaded,
        }
    }
}

/// The dictionaries of a replica: the one that is read, and the one beside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplicaDictionaries {
    pub live: Option<DictionaryRow>,
    pub next: Option<DictionaryRow>,
}

impl ReplicaDictionaries {
    /// Asks a replica; loads nothing.
    pub async fn inspect(replica: &Replica, settings: &DictionarySettings) -> Result<Self, Error> {
        let next_name = next_name(settings);
        let query = Query::new(
            "SELECT name, toString(status) AS state, comment, element_count, bytes_allocated, last_exception, \
             toUInt64(if(loading_start_time > 0, greatest(now() - loading_start_time, 0), 0)) AS loading_for, \
             toUInt64(toUnixTimestamp(last_successful_update_time)) AS loaded_at \
             FROM system.dictionaries \
             WHERE database = {database:String} AND name IN ({live:String}, {next:String})",
        )
        .param("database", &settings.database)
        .param("live", &settings.name)
        .param("next", &next_name);
        let rows: Vec<DictionaryRow> = replica.rows(&query).await?;
        let (next, live): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|row| row.name == next_name);
        Ok(Self {
            live: live.into_iter().next(),
            next: next.into_iter().next(),
        })
    }

    pub fn live_version(&self) -> Option<i64> {
        self.live.as_ref()?.version()
    }

    /// The live dictionary, if it is of the order's version.
    pub fn live_for(&self, order: &Order) -> Option<&DictionaryRow> {
        let live = self.live.as_ref();
        live.filter(|live| live.version() == Some(order.version))
    }

    /// The new dictionary, if it is the order's.
    pub fn next_for(&self, order: &Order) -> Option<&DictionaryRow> {
        self.next.as_ref().filter(|next| next.is_for(order))
    }

    /// Whether one of the two is the order's, which none is before all replicas are in sync.
    pub fn has_begun(&self, order: &Order) -> bool {
        self.live_for(order).is_some() || self.next_for(order).is_some()
    }

    /// Fails when the order is older than what the replica has.
    pub fn check_not_newer(&self, order: &Order, replica: &Replica) -> Result<(), RefreshFailure> {
        let live = self.live_version();
        let newest = live.max(self.next.as_ref().and_then(DictionaryRow::version));
        let Some(newest) = newest.filter(|newest| *newest > order.version) else {
            return Ok(());
        };
        let what = if live == Some(newest) {
            "is in place"
        } else {
            "is being loaded, or was rolled back,"
        };
        Err(RefreshFailure::stale(format!(
            "version {newest} {what} on {}; the order is for version {}",
            replica.address(),
            order.version
        )))
    }
}

/// Takes the new dictionary away, and its memory with it before this returns.
pub(crate) async fn drop_next(
    replica: &Replica,
    settings: &DictionarySettings,
) -> Result<(), Error> {
    let next = qualified(settings, &next_name(settings));
    let drop = Query::new(format!("DROP DICTIONARY IF EXISTS {next} SYNC"));
    replica.execute(&drop).await.map(|_| ())
}

/// Puts the dictionary beside the live one in its place, in one statement in which no reader finds nothing: both names
/// change what they stand for at once.
pub(crate) async fn exchange(
    replica: &Replica,
    settings: &DictionarySettings,
    live_exists: bool,
) -> Result<(), Error> {
    let live = qualified(settings, &settings.name);
    let next = qualified(settings, &next_name(settings));
    let statement = if live_exists {
        format!("EXCHANGE DICTIONARIES {live} AND {next}")
    } else {
        format!("RENAME DICTIONARY {next} TO {live}")
    };
    replica.execute(&Query::new(statement)).await.map(|_| ())
}

/// A dictionary's name as it stands in a statement.
pub(crate) fn qualified(settings: &DictionarySettings, name: &str) -> String {
    format!(
        "{}.{}",
        quote_identifier(&settings.database),
        quote_identifier(name)
    )
}

/// The replicas of a shard, in an order that does not change.
pub(crate) fn replicas_by_address(shard: &Shard) -> Vec<&Replica> {
    let mut replicas = shard.replicas();
    replicas.sort_by(|a, b| a.address().cmp(b.address()));
    replicas
}

/// Name of the dictionary beside the live one.
pub(crate) fn next_name(settings: &DictionarySettings) -> String {
    format!("{}_next", settings.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_of_something_else_is_no_tag() {
        let row = |comment: &str| DictionaryRow {
            name: "d".into(),
            status_text: "LOADED".into(),
            comment: comment.into(),
            entries: 0,
            bytes: 0,
            last_exception: String::new(),
            loading_for: 0,
            loaded_at: 0,
        };
        let ours = r#"{"run":"r-1","version":7,"expires_at_ms":9,"keys":3}"#;
        assert_eq!(row(ours).version(), Some(7));
        let without_a_limit = r#"{"run":"r-1","version":7,"keys":3}"#;
        assert_eq!(row(without_a_limit).version(), Some(7));
        for other in ["", "volumes of keywords", "{}", r#"{"version":"7"}"#] {
            assert_eq!(row(other).version(), None, "{other}");
        }
    }
}
