use std::time::Duration;

use pipeline::{LoopOptions, MAX_IN_FLIGHT_SECONDS};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use settings::Secret;
use stores::clickhouse::{TargetSettings, qualified};
use stores::contract::DictionaryTarget;

/// The dictionary that the SERP service reads, on every replica of `[clickhouse]`. The user of `[clickhouse]` needs
/// CREATE DICTIONARY, DROP DICTIONARY and dictGet on it and on the next one; SELECT, INSERT, CREATE TABLE and
/// DROP TABLE on both, which the server asks for to exchange them; SELECT on the table; SYSTEM RELOAD DICTIONARY and
/// SYSTEM SYNC REPLICA. No user with these rights alone was tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DictionarySettings {
    /// Database of the dictionary. Its engine has to be Atomic, as it is by default: no other exchanges dictionaries on
    /// one replica alone.
    pub database: String,
    /// Name of the dictionary that is read. The one that is loaded, and after that the one before it, is
    /// called the same with `_next` behind it.
    pub name: String,
    /// How the dictionary lies in memory.
    pub layout: DictionaryLayout,
    /// Columns of the table that the dictionary has besides the key. Empty: all of them, the version included.
    pub attributes: Vec<String>,
    /// Expression over the table's columns by which rows are divided among the shards, such as
    /// `cityHash64(country, keyword)`: the dictionary has the rows for which it, modulo the number of shards,
    /// is the shard's number. Empty: all rows of the shard's table, which are its own if nothing else writes to it.
    pub shard_expression: String,
    /// User as which the server reads the table for the dictionary. Empty: the server's `default`.
    pub source_user: String,
    /// Password of that user. It stands in the dictionary's definition, which the server shows without it.
    pub source_password: Option<Secret>,
}

impl Default for DictionarySettings {
    fn default() -> Self {
        Self {
            database: "keywords".to_owned(),
            name: "keywords_metrics_dict".to_owned(),
            layout: DictionaryLayout::default(),
            attributes: Vec::new(),
            shard_expression: String::new(),
            source_user: String::new(),
            source_password: None,
        }
    }
}

/// Layouts of ClickHouse that hold all entries in memory under a key of any columns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DictionaryLayout {
    /// One hash table of the keys, and an array for each attribute. A million keys with eight attributes are loaded in
    /// 1 s and take 150 MB, where `complex_key_hashed` takes 6 s and 800 MB, and the sparse one 12 s and 460 MB.
    #[default]
    ComplexKeyHashedArray,
    /// A hash table for each attribute.
    ComplexKeyHashed,
    /// The same with less memory for small attributes, slower to load and to read.
    ComplexKeySparseHashed,
}

impl DictionaryLayout {
    pub(crate) const fn sql(self) -> &'static str {
        match self {
            Self::ComplexKeyHashed => "COMPLEX_KEY_HASHED()",
            Self::ComplexKeySparseHashed => "COMPLEX_KEY_SPARSE_HASHED()",
            Self::ComplexKeyHashedArray => "COMPLEX_KEY_HASHED_ARRAY()",
        }
    }
}

impl DictionarySettings {
    pub(crate) fn next_name(&self) -> String {
        format!("{}_next", self.name)
    }

    /// The live dictionary, as statements name it.
    pub(crate) fn live(&self) -> String {
        qualified(&self.database, &self.name)
    }

    /// The next one likewise: that which is being loaded, or the one before.
    pub(crate) fn next(&self) -> String {
        qualified(&self.database, &self.next_name())
    }

    /// What the contract with the hub is checked for, of a dictionary that is loaded from this table.
    pub fn target(&self, table: &TargetSettings) -> DictionaryTarget {
        DictionaryTarget {
            table: table.clone(),
            database: self.database.clone(),
            name: self.name.clone(),
            attributes: self.attributes.clone(),
        }
    }

    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        for (key, value) in [("database", &self.database), ("name", &self.name)] {
            // `dictGet` finds a dictionary by a text in which nothing can be quoted.
            let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if value.is_empty() || !value.chars().all(fits) {
                return Err(format!(
                    "{section}.{key} must be letters, digits and underscores, not {value:?}"
                ));
            }
        }
        if self.source_password.is_some() && self.source_user.is_empty() {
            return Err(format!(
                "{section}.source_password needs {section}.source_user"
            ));
        }
        Ok(())
    }
}

/// How the dictionary is refreshed; where it is and what it holds stands in `[dictionary]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct DictRefresherSettings {
    /// `concurrency` is the number of shards that are refreshed at once. `prefetch` is the same, and may not be more.
    #[serde(flatten)]
    pub options: LoopOptions,
    /// Longest wait for a replica to get everything that was written to its shard, in seconds.
    pub sync_timeout_seconds: u64,
    /// A shard whose replicas are not in sync so long after the order failed for the first time is given up,
    /// in seconds: its dictionary stays as it is.
    pub sync_deadline_seconds: u64,
    /// Name of the cluster, as the servers know it, over which the replicas are brought into sync with one
    /// statement. Empty: each replica is asked by itself.
    pub sync_on_cluster: String,
    /// Longest time for loading a dictionary, in seconds.
    pub load_timeout_seconds: u64,
    /// Share by which the number of entries may differ from that of the keys in the table. The keys are counted before
    /// and after loading, and any number between the two is right: rows that arrive meanwhile need no tolerance.
    pub entries_tolerance_ratio: f64,
    /// A new dictionary with less than this share of the entries of the live one does not replace it: the table
    /// lost rows, or `dictionary.shard_expression` is not what divides them. 0 lets any pass.
    pub min_entries_ratio: f64,
    /// Keys whose every attribute is compared with the table before a dictionary becomes the live one: the newest ones of
    /// the run, or of those before it. 0: none.
    pub probe_keys: u32,
    /// A dictionary is not loaded while the server has less free memory than this many times the size of the live
    /// one. 0: loaded in any case.
    pub memory_factor: f64,
    /// Longest time for which an order is in flight, in seconds. Then it waits in a delay queue, without using
    /// up an attempt, while the server works on, and continues where it was. At most 1500: the broker takes back what is in
    /// flight for 30 minutes. A count of the table's keys that takes longer is a failure.
    pub max_in_flight_seconds: u64,
}

impl Default for DictRefresherSettings {
    fn default() -> Self {
        Self {
            // Loading is the servers' work: a process waits for many of them at once. An order in flight that waits
            // for its turn is one that no other process can take.
            options: LoopOptions::sized(1, 64),
            // As long as the sync of replicas has always been waited for.
            sync_timeout_seconds: 3600,
            // One whole wait, the delays between the first tries, and another wait.
            sync_deadline_seconds: 4 * 3600,
            sync_on_cluster: String::new(),
            load_timeout_seconds: 2 * 3600,
            // The run is closed and both counts are exact.
            entries_tolerance_ratio: 0.0,
            min_entries_ratio: 0.5,
            probe_keys: 20,
            // Hash tables double as they grow; the new one is of about the size of the old.
            memory_factor: 1.2,
            max_in_flight_seconds: 1200,
        }
    }
}

impl DictRefresherSettings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        self.options.check(section)?;
        if usize::from(self.options.prefetch) > self.options.concurrency {
            return Err(format!(
                "{section}.prefetch must not be more than {section}.concurrency, which is {}",
                self.options.concurrency
            ));
        }
        if self.max_in_flight_seconds > MAX_IN_FLIGHT_SECONDS {
            return Err(format!(
                "{section}.max_in_flight_seconds must be at most {MAX_IN_FLIGHT_SECONDS}: the broker takes back what is in flight \
                 for 30 minutes"
            ));
        }
        let seconds = [
            ("sync_timeout_seconds", self.sync_timeout_seconds),
            ("sync_deadline_seconds", self.sync_deadline_seconds),
            ("load_timeout_seconds", self.load_timeout_seconds),
            ("max_in_flight_seconds", self.max_in_flight_seconds),
        ];
        for (key, value) in seconds {
            // A month: nothing here is worth a longer wait, and sums of them stay in range.
            if !(1..=2_592_000).contains(&value) {
                return Err(format!("{section}.{key} must be 1 to 2592000"));
            }
        }
        for (key, value, most) in [
            ("entries_tolerance_ratio", self.entries_tolerance_ratio, 1.0),
            ("min_entries_ratio", self.min_entries_ratio, 1.0),
            ("memory_factor", self.memory_factor, f64::MAX),
        ] {
            if !(0.0..=most).contains(&value) {
                let most = if most == 1.0 { " to 1" } else { " or more" };
                return Err(format!("{section}.{key} must be 0{most}"));
            }
        }
        // They stand in one statement, with all their attributes in the answer.
        if self.probe_keys > 10_000 {
            return Err(format!("{section}.probe_keys must be at most 10000"));
        }
        Ok(())
    }

    /// As the loop takes them: no order is delivered that is not processed at once.
    pub fn loop_options(&self) -> LoopOptions {
        LoopOptions {
            prefetch: u16::try_from(self.options.concurrency).unwrap_or(u16::MAX),
            ..self.options.clone()
        }
    }

    /// The longest silence of a server that is no failure: it syncs, or reads a whole table.
    pub(crate) fn idle_timeout(&self) -> Duration {
        let longest = self.sync_timeout_seconds.max(self.load_timeout_seconds);
        Duration::from_secs(longest) + crate::sync::ANSWER_TIMEOUT
    }

    pub(crate) fn in_flight_limit(&self) -> Duration {
        Duration::from_secs(self.max_in_flight_seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_what_cannot_is_named() {
        DictRefresherSettings::default()
            .check("dict_refresher")
            .unwrap();
        DictionarySettings::default().check("dictionary").unwrap();
        let refused = |change: fn(&mut DictRefresherSettings)| {
            let mut settings = DictRefresherSettings::default();
            change(&mut settings);
            settings.check("dict_refresher").unwrap_err()
        };
        assert!(refused(|s| s.sync_timeout_seconds = 0).contains("sync_timeout_seconds"));
        assert!(
            refused(|s| s.max_in_flight_seconds = 1501)
                .contains("max_in_flight_seconds must be at most 1500")
        );
        assert!(refused(|s| s.max_in_flight_seconds = 0).contains("max_in_flight_seconds"));
        assert!(
            refused(|s| s.entries_tolerance_ratio = 1.5)
                .contains("entries_tolerance_ratio must be 0 to 1")
        );
        assert!(refused(|s| s.memory_factor = -1.0).contains("memory_factor must be 0 or more"));
        assert!(refused(|s| s.memory_factor = f64::NAN).contains("memory_factor"));
        assert!(refused(|s| s.probe_keys = 10_001).contains("probe_keys"));
        for name in ["", "a.b", "a`b"] {
            let settings = DictionarySettings {
                name: name.to_owned(),
                ..DictionarySettings::default()
            };
            let refused = settings.check("dictionary").unwrap_err();
            assert!(refused.contains("dictionary.name"), "{refused}");
        }
    }

    #[test]
    fn no_more_orders_are_taken_than_are_processed() {
        let mut settings = DictRefresherSettings::default();
        settings.options.concurrency = 4;
        settings.check("dict_refresher").unwrap();
        let options = settings.loop_options();
        assert_eq!((options.prefetch, options.concurrency), (4, 4));
        settings.options.prefetch = 5;
        let refused = settings.check("dict_refresher").unwrap_err();
        assert!(
            refused.contains("dict_refresher.prefetch must not be more"),
            "{refused}"
        );
    }

    #[test]
    fn only_layouts_of_the_list_are_taken() {
        let layout = |text: &str| serde_json::from_str::<DictionaryLayout>(text);
        assert_eq!(
            layout("\"complex_key_sparse_hashed\"").unwrap().sql(),
            "COMPLEX_KEY_SPARSE_HASHED()"
        );
        assert!(layout("\"cache(); DROP TABLE x\"").is_err());
    }
}
