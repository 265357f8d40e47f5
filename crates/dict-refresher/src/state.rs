//! What is known of a replica's dictionaries: all of it stands on the server.

use batch::{Order, RunId};
use serde::{Deserialize, Serialize};
use stores::clickhouse::{Error, Query, Replica, Shard};

use crate::DictionarySettings;
use crate::failure::{RefreshFailure, RefreshStep};

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

/// The dictionaries of a replica: the one that is read, and the next one or the one before.
#[derive(Debug, Clone, Default)]
pub(crate) struct ReplicaDictionaries {
    pub live: Option<DictionaryRow>,
    pub next: Option<DictionaryRow>,
}

impl ReplicaDictionaries {
    /// Asks a replica; loads nothing.
    pub async fn inspect(replica: &Replica, settings: &DictionarySettings) -> Result<Self, Error> {
        let next_name = settings.next_name();
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
        let mut found = Self::default();
        for row in rows {
            if row.name == next_name {
                found.next = Some(row);
            } else {
                found.live = Some(row);
            }
        }
        Ok(found)
    }

    /// The same for an order; fails when the replica has something newer.
    pub async fn inspect_for(
        order: &Order,
        replica: &Replica,
        settings: &DictionarySettings,
        step: RefreshStep,
    ) -> Result<Self, RefreshFailure> {
        let found = Self::inspect(replica, settings).await;
        let found = found.map_err(|error| RefreshFailure::for_dictionary(step, &error))?;
        let live = found.live_version();
        let newest = live.max(found.next.as_ref().and_then(DictionaryRow::version));
        let Some(newest) = newest.filter(|newest| *newest > order.version) else {
            return Ok(found);
        };
        let what = if live == Some(newest) {
            "is live"
        } else {
            "is being loaded, or was rolled back,"
        };
        Err(RefreshFailure::stale(format!(
            "version {newest} {what} on {}; the order is for version {}",
            replica.address(),
            order.version
        )))
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
}

/// Drops the new dictionary, and with it its memory before this returns.
pub(crate) async fn drop_next(
    replica: &Replica,
    settings: &DictionarySettings,
) -> Result<(), Error> {
    let drop = format!("DROP DICTIONARY IF EXISTS {} SYNC", settings.next());
    replica.execute(&Query::new(drop)).await.map(|_| ())
}

/// Replaces the live dictionary by the next one, in one statement in which no reader finds nothing: both names change
/// what they stand for at once.
pub(crate) async fn exchange(
    replica: &Replica,
    settings: &DictionarySettings,
    live_exists: bool,
) -> Result<(), Error> {
    let (live, next) = (settings.live(), settings.next());
    let statement = if live_exists {
        format!("EXCHANGE DICTIONARIES {live} AND {next}")
    } else {
        format!("RENAME DICTIONARY {next} TO {live}")
    };
    replica.execute(&Query::new(statement)).await.map(|_| ())
}

/// The replicas of a shard, in an order that does not change.
pub(crate) fn replicas_by_address(shard: &Shard) -> Vec<&Replica> {
    let mut replicas = shard.replicas();
    replicas.sort_by(|a, b| a.address().cmp(b.address()));
    replicas
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
