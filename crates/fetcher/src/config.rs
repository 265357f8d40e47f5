use pipeline::{LoopOptions, check_positive};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::cutter::BatchSize;

/// How ranges are read from the hub, which `[source]` describes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct FetcherSettings {
    /// `concurrency` is the number of ranges that are read at once.
    #[serde(flatten)]
    pub options: LoopOptions,
    /// Rows that the source reads and sends in one piece. At most `batch_rows`: larger pieces would have
    /// to be decoded to be divided.
    pub scroll_rows: u64,
    /// Rows of a batch, at most.
    pub batch_rows: u64,
    /// Bytes of an encoded batch, at most: a batch of very long rows ends before it has `batch_rows`. A row
    /// that alone is larger goes alone. Keep it below the broker's own limit of a message
    /// (`max_message_size`: 16 MiB since RabbitMQ 4.0, 128 MiB before; `rabbitmqctl environment` tells it).
    /// Where that is less, batches are cut to it once the broker has refused one.
    pub batch_bytes: usize,
    /// Threads that the source may use for one range. With more than one, rows come in no particular order.
    pub max_threads: u32,
}

impl Default for FetcherSettings {
    fn default() -> Self {
        Self {
            // As many ranges as were always read from one hub shard at once; a range that waits here could be read
            // by another fetcher.
            options: LoopOptions::sized(8, 8),
            scroll_rows: 1000,
            batch_rows: 1000,
            // A quarter of what programs accept by default; 1,000 rows of ten columns take 66 KB.
            batch_bytes: 4 << 20,
            max_threads: 1,
        }
    }
}

impl FetcherSettings {
    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        self.options.check(section)?;
        let max = batch::arrow::Limits::default().rows;
        if !(1..=max).contains(&self.batch_rows) {
            return Err(format!("{section}.batch_rows must be 1 to {max}"));
        }
        if !(1..=self.batch_rows).contains(&self.scroll_rows) {
            return Err(format!(
                "{section}.scroll_rows must be 1 to {section}.batch_rows, which is {}",
                self.batch_rows
            ));
        }
        if !(1..=self.options.max_body_bytes).contains(&self.batch_bytes) {
            return Err(format!(
                "{section}.batch_bytes must be 1 to {section}.max_body_bytes, which is {}",
                self.options.max_body_bytes
            ));
        }
        check_positive(section, &[("max_threads", self.max_threads.into())])
    }

    pub(crate) fn batch_size(&self) -> BatchSize {
        BatchSize {
            rows: self.batch_rows,
            bytes: self.batch_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work_and_what_cannot_is_named() {
        FetcherSettings::default().check("fetcher").unwrap();
        let refused = |change: fn(&mut FetcherSettings)| {
            let mut settings = FetcherSettings::default();
            change(&mut settings);
            settings.check("fetcher").unwrap_err()
        };
        assert!(refused(|s| s.scroll_rows = 1001).contains("fetcher.scroll_rows"));
        assert!(refused(|s| s.batch_rows = 0).contains("fetcher.batch_rows"));
        assert!(refused(|s| s.batch_bytes = 1 << 30).contains("fetcher.batch_bytes"));
        assert!(refused(|s| s.max_threads = 0).contains("fetcher.max_threads"));
    }
}
