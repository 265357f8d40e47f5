//! What is known of a replica's dictionaries: all of it stands on the server.

use batch::{Order, RunId};
use serde::{Deserialize, Serialize};
use stores::clickhouse::{Error, Query, Replica, Shard, quote_identifier};

use crate::DictionarySettings;
use crate::failure::Failure;

/// The comment of a dictionary that this program made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    pub run: RunId,
    pub version: i64,
    /// [`Order::expires_at_ms`] of the order that it was made for, by which that is told from a later one for the same run.
    #[serde(default)]
    pub expires_at_ms: i64,
    /// Keys that its table had when it was made: rows that came while it was loaded are told from lost ones by it.
    pub keys: u64,
}

/// States of a dictionary, as `system.dictionaries` has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    NotLoaded,
    Loaded,
    Loading,
    Failed,
}

/// A dictionary on a replica.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Entry {
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

impl Entry {
    /// Its mark; none, if something else made it.
    pub fn mark(&self) -> Option<Mark> {
        serde_json::from_str(&self.comment).ok()
    }

    /// The version that it was made for; none is older than any.
    pub fn version(&self) -> Option<i64> {
        self.mark().map(|mark| mark.version)
    }

    /// Whether it was made for this very order, and not for an earlier one of the same run: the table may have been
    /// repaired since.
    pub fn is_of(&self, order: &Order) -> bool {
        self.mark().is_some_and(|mark| {
            (mark.version, mark.expires_at_ms) == (order.version, order.expires_at_ms)
        })
    }

    pub fn status(&self) -> Status {
        match self.status_text.as_str() {
            "LOADED" | "LOADED_AND_RELOADING" => Status::Loaded,
            "LOADING" | "FAILED_AND_RELOADING" => Status::Loading,
            "FAILED" => Status::Failed,
            _ => Status::NotLoaded,
        }
    }
}

/// The dictionaries of a replica: the one that is read, and the one beside it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Found {
    pub live: Option<Entry>,
    pub next: Option<Entry>,
}

impl Found {
    /// Asks a replica; loads nothing.
    pub async fn on(replica: &Replica, settings: &DictionarySettings) -> Result<Self, Error> {
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
        let mut found = Self::default();
        for entry in replica.rows::<Entry>(&query).await? {
            if entry.name == next_name {
                found.next = Some(entry);
            } else {
                found.live = Some(entry);
            }
        }
        Ok(found)
    }

    pub fn live_version(&self) -> Option<i64> {
        self.live.as_ref()?.version()
    }

    pub fn next_version(&self) -> Option<i64> {
        self.next.as_ref()?.version()
    }

    /// The new dictionary, if it is the order's.
    pub fn next_of(&self, order: &Order) -> Option<&Entry> {
        self.next.as_ref().filter(|next| next.is_of(order))
    }

    /// Fails when the order is older than what the replica has.
    pub fn not_newer_than(&self, order: &Order, replica: &Replica) -> Result<(), Failure> {
        let newest = self.live_version().max(self.next_version());
        let Some(newest) = newest.filter(|newest| *newest > order.version) else {
            return Ok(());
        };
        let what = match self.live_version() {
            Some(live) if live == newest => "is in place",
            _ => "is being loaded, or was rolled back,",
        };
        Err(Failure::stale(format!(
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

/// A dictionary's name as it stands in a statement.
pub(crate) fn qualified(settings: &DictionarySettings, name: &str) -> String {
    format!(
        "{}.{}",
        quote_identifier(&settings.database),
        quote_identifier(name)
    )
}

/// The replicas of a shard, in an order that does not change.
pub(crate) fn in_order(shard: &Shard) -> Vec<&Replica> {
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
    fn a_comment_of_somebody_else_is_no_mark() {
        let entry = |comment: &str| Entry {
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
        assert_eq!(entry(ours).version(), Some(7));
        let before_there_were_limits = r#"{"run":"r-1","version":7,"keys":3}"#;
        assert_eq!(entry(before_there_were_limits).version(), Some(7));
        for other in ["", "volumes of keywords", "{}", r#"{"version":"7"}"#] {
            assert_eq!(entry(other).version(), None, "{other}");
        }
    }
}
