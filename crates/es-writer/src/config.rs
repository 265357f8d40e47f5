use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use pipeline::{GroupLimits, LoopOptions, PauseSettings, check_positive};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::encode::BulkLimits;

/// How rows are written into Elasticsearch; the indices are those of `[elasticsearch]`. `concurrency` bounds
/// the bulk requests in flight as well.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct EsWriterSettings {
    #[serde(flatten)]
    pub options: LoopOptions,
    #[serde(flatten)]
    pub pause: PauseSettings,
    /// Columns that name a row: their values, joined by `/`, are the `_id` of its documents.
    pub key_columns: Vec<String>,
    /// Documents of one bulk request: batches are gathered until they have so many rows.
    pub bulk_rows: usize,
    /// Bytes of one bulk request. A document that alone is larger is sent alone. Requests become smaller by
    /// themselves where Elasticsearch, or a proxy before it, takes less.
    pub bulk_bytes: usize,
    /// Longest time for which a batch waits for others to share its bulk requests, in milliseconds.
    pub bulk_wait_ms: u64,
    /// Pause before rows that Elasticsearch had no room for are sent again, in milliseconds. It doubles
    /// with every try that makes no progress, and varies by chance so that writers do not keep step.
    pub resend_first_ms: u64,
    /// Longest such pause, in milliseconds.
    pub resend_longest_ms: u64,
    /// Tries in a row without progress, after which a batch waits in a delay queue instead. That
    /// counts as one failure of the batch.
    pub resend_tries: usize,
}

impl Default for EsWriterSettings {
    fn default() -> Self {
        Self {
            // Six bulks as the fleet has always had, of two batches each; as many again are gathered
            // in the meantime, and as many are on their way.
            options: LoopOptions::sized(36, 6),
            pause: PauseSettings::default(),
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
        }
    }
}

impl EsWriterSettings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        self.options.check(section)?;
        self.pause.check(section)?;
        let positive = [
            ("bulk_rows", self.bulk_rows as u64),
            ("bulk_bytes", self.bulk_bytes as u64),
            ("resend_first_ms", self.resend_first_ms),
        ];
        check_positive(section, &positive)?;
        if self.key_columns.is_empty() {
            return Err(format!("{section}.key_columns must name a column"));
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
        EsWriterSettings::default().check("es_writer").unwrap();
    }

    #[test]
    fn what_cannot_work_is_named() {
        let refused = |change: fn(&mut EsWriterSettings)| {
            let mut settings = EsWriterSettings::default();
            change(&mut settings);
            settings.check("es_writer").unwrap_err()
        };
        assert!(refused(|s| s.bulk_rows = 0).contains("es_writer.bulk_rows"));
        assert!(refused(|s| s.key_columns.clear()).contains("es_writer.key_columns"));
        assert!(refused(|s| s.pause.limit_seconds = 1800).contains("pause_limit_seconds"));
        assert!(refused(|s| s.options.concurrency = 0).contains("es_writer.concurrency"));
    }

    #[test]
    fn pauses_grow_to_the_longest_and_end() {
        let settings = EsWriterSettings::default();
        let pauses: Vec<Duration> = settings.pauses().collect();
        assert_eq!(pauses.len(), settings.resend_tries);
        assert!(pauses[0] < Duration::from_millis(500), "{pauses:?}");
        assert!(pauses[7] >= Duration::from_secs(10), "{pauses:?}");
        assert!(pauses[7] < Duration::from_secs(21), "{pauses:?}");
    }
}
