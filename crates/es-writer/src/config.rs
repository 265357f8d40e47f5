use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use pipeline::{GroupLimits, LoopOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encode::BulkLimits;

/// How rows are written into Elasticsearch; the indices are those of `[elasticsearch]`. `concurrency` bounds
/// the bulk requests in flight as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Settings {
    #[serde(flatten)]
    pub options: LoopOptions,
    /// Columns that name a row: their values, joined by `/`, are the `_id` of its documents.
    pub key_columns: Vec<String>,
    /// Documents of one bulk request: batches are gathered until they have so many rows.
    pub bulk_rows: usize,
    /// Bytes of one bulk request. A document that alone is larger is sent alone.
    pub bulk_bytes: usize,
    /// Longest time for which a batch waits for others to share its bulk requests, in milliseconds.
    pub bulk_wait_ms: u64,
    /// Pause before rows that Elasticsearch had no room for are sent again, in milliseconds. It doubles
    /// with every try that brings nothing, and varies by chance so that writers do not keep step.
    pub resend_first_ms: u64,
    /// Longest such pause, in milliseconds.
    pub resend_longest_ms: u64,
    /// Tries in a row that bring nothing, after which a batch waits in a delay queue instead. That
    /// counts as one failure of the batch.
    pub resend_tries: usize,
    /// While an index takes no writes (disk full, read-only, credentials refused) it is tried so often,
    /// in seconds.
    pub pause_poll_seconds: u64,
    /// Longest time for which batches wait for such an index in this program, in seconds. Then they
    /// wait in a delay queue, at no cost of an attempt. Less than the broker's consumer timeout (30 minutes).
    pub pause_limit_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            // Six bulks as the fleet has always had, of two batches each; as many again are gathered
            // meanwhile, and as many are on their way.
            options: LoopOptions::sized(36, 6),
            key_columns: vec!["country".to_owned(), "keyword".to_owned()],
            bulk_rows: 2000,
            // 2,000 documents take about half a megabyte. Elasticsearch advises against bulks of tens of
            // megabytes, and refuses those above 100.
            bulk_bytes: 8 << 20,
            bulk_wait_ms: 200,
            // Eight pauses of 0.2 to 10 s are half a minute: a burst passes, an outage is for the delay queues.
            resend_first_ms: 200,
            resend_longest_ms: 10_000,
            resend_tries: 8,
            pause_poll_seconds: 5,
            pause_limit_seconds: 600,
        }
    }
}

impl Settings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        self.options.check(section)?;
        let positive = [
            ("bulk_rows", self.bulk_rows as u64),
            ("bulk_bytes", self.bulk_bytes as u64),
            ("resend_first_ms", self.resend_first_ms),
            ("pause_poll_seconds", self.pause_poll_seconds),
        ];
        if let Some((name, _)) = positive.iter().find(|(_, value)| *value == 0) {
            return Err(format!("{section}.{name} must be at least 1"));
        }
        if self.key_columns.is_empty() {
            return Err(format!("{section}.key_columns must name a column"));
        }
        // The broker takes messages back after 30 minutes without an acknowledgement.
        if self.pause_limit_seconds > 1500 {
            return Err(format!(
                "{section}.pause_limit_seconds must be at most 1500"
            ));
        }
        Ok(())
    }

    pub(crate) fn group_limits(&self) -> GroupLimits {
        GroupLimits {
            rows: self.bulk_rows as u64,
            bytes: self.bulk_bytes as u64,
            wait: Duration::from_millis(self.bulk_wait_ms),
        }
    }

    pub(crate) fn bulk_limits(&self) -> BulkLimits {
        BulkLimits {
            rows: self.bulk_rows,
            bytes: self.bulk_bytes,
        }
    }

    /// The pauses before each try to send again.
    pub(crate) fn pauses(&self) -> ExponentialBackoff {
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(self.resend_first_ms))
            .with_max_delay(Duration::from_millis(self.resend_longest_ms))
            .with_max_times(self.resend_tries)
            .with_jitter()
            .build()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_work() {
        Settings::default().check("es_writer").unwrap();
    }

    #[test]
    fn what_cannot_work_is_named() {
        let refused = |change: fn(&mut Settings)| {
            let mut settings = Settings::default();
            change(&mut settings);
            settings.check("es_writer").unwrap_err()
        };
        assert!(refused(|s| s.bulk_rows = 0).contains("es_writer.bulk_rows"));
        assert!(refused(|s| s.key_columns.clear()).contains("es_writer.key_columns"));
        assert!(refused(|s| s.pause_limit_seconds = 1800).contains("pause_limit_seconds"));
        assert!(refused(|s| s.options.concurrency = 0).contains("es_writer.concurrency"));
    }

    #[test]
    fn pauses_grow_to_the_longest_and_end() {
        let settings = Settings::default();
        let pauses: Vec<Duration> = settings.pauses().collect();
        assert_eq!(pauses.len(), settings.resend_tries);
        assert!(pauses[0] < Duration::from_millis(500), "{pauses:?}");
        assert!(pauses[7] >= Duration::from_secs(10), "{pauses:?}");
        assert!(pauses[7] < Duration::from_secs(21), "{pauses:?}");
    }
}
