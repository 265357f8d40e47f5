use std::time::Duration;

use pipeline::{GroupLimits, LoopOptions, PauseSettings, check_positive};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How rows are written into ClickHouse; the table is that of `[clickhouse]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct ChWriterSettings {
    /// `concurrency` is the number of inserts in flight.
    #[serde(flatten)]
    pub options: LoopOptions,
    #[serde(flatten)]
    pub pause: PauseSettings,
    /// Rows of one INSERT: batches of a shard are gathered until they have so many.
    pub group_rows: u64,
    /// Bytes of one INSERT, as they travel. Inserts become smaller by themselves where a proxy takes less.
    pub group_bytes: u64,
    /// Longest time for which a batch waits for others to share its INSERT, in milliseconds.
    pub group_wait_ms: u64,
    /// Refused rows that are looked for in one batch. With so many, the rest of the batch goes to
    /// quarantine untried: a batch that is bad throughout would cost an INSERT for each row.
    pub max_refused_rows: usize,
    /// Asks the table before each INSERT which rows it already has in the same version or a newer one.
    /// Those count as `unchanged`, and a batch with nothing else is not inserted. Without it they count as
    /// `stored`: the table keeps the newest version of a row in either case. The query costs the server
    /// up to three times as much as the INSERT.
    pub count_unchanged: bool,
}

impl Default for ChWriterSettings {
    fn default() -> Self {
        Self {
            // 50 inserts as the fleet has always had. 400 batches of 1,000 rows and 66 KB are 26 MB at
            // most, and 20 full groups.
            options: LoopOptions::sized(400, 50),
            pause: PauseSettings::default(),
            // A part of 20,000 rows takes the server about 25 ms, most of it for the rows themselves.
            group_rows: 20_000,
            group_bytes: 16 << 20,
            group_wait_ms: 200,
            max_refused_rows: 50,
            count_unchanged: false,
        }
    }
}

impl ChWriterSettings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        self.options.check(section)?;
        self.pause.check(section)?;
        let positive = [
            ("group_rows", self.group_rows),
            ("group_bytes", self.group_bytes),
            ("max_refused_rows", self.max_refused_rows as u64),
        ];
        check_positive(section, &positive)
    }

    pub(crate) fn group_limits(&self) -> GroupLimits {
        GroupLimits {
            rows: self.group_rows,
            bytes: self.group_bytes,
            wait: Duration::from_millis(self.group_wait_ms),
        }
    }
}
