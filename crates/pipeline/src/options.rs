use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::RetrySchedule;

/// How a worker takes messages. Each role has its own defaults for `prefetch` and `concurrency`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LoopOptions {
    /// Messages that the broker hands out before it waits for acknowledgements.
    pub prefetch: u16,
    /// Groups of messages (for a fetcher: tasks) that are processed at once.
    pub concurrency: usize,
    /// Failures after which a message goes to quarantine. With the default delays ten failures take
    /// about seven hours: longer than most outages, shorter than a day.
    pub max_retries: u32,
    /// Deliveries of a message without an acknowledgement after which it goes to quarantine, with its history and a
    /// receipt: it probably kills its worker. Below `pipeline.delivery_limit`, which is the broker's own
    /// last resort and leaves no receipt.
    pub max_deliveries: u32,
    /// Bytes of a message's body above which it goes to quarantine unread.
    pub max_body_bytes: usize,
    /// Bytes of a message's headers above which it goes to quarantine unread.
    pub max_header_bytes: usize,
    /// Seconds that a worker that is being stopped gives to what it has in flight; the rest is requeued.
    pub grace_seconds: f64,
}

impl Default for LoopOptions {
    fn default() -> Self {
        Self {
            prefetch: 50,
            concurrency: 10,
            max_retries: 10,
            max_deliveries: 15,
            max_body_bytes: 16 << 20,
            max_header_bytes: 64 << 10,
            grace_seconds: 30.0,
        }
    }
}

impl LoopOptions {
    /// The defaults with another prefetch and concurrency.
    pub fn sized(prefetch: u16, concurrency: usize) -> Self {
        Self {
            prefetch,
            concurrency,
            ..Self::default()
        }
    }

    /// Refuses what cannot work; `section` names the settings in the error.
    pub fn check(&self, section: &str) -> Result<(), String> {
        if self.prefetch == 0 || self.concurrency == 0 {
            return Err(format!(
                "{section}.prefetch and {section}.concurrency must be at least 1"
            ));
        }
        let most = crate::worker::REDELIVERIES - 1;
        if !(1..=most).contains(&self.max_deliveries) {
            return Err(format!("{section}.max_deliveries must be 1 to {most}"));
        }
        if !(0.0..=86_400.0).contains(&self.grace_seconds) {
            return Err(format!("{section}.grace_seconds must be 0 to 86400"));
        }
        Ok(())
    }

    pub(crate) fn grace(&self) -> Duration {
        Duration::from_secs_f64(self.grace_seconds)
    }
}

/// The broker, and how every program uses it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSettings {
    /// AMQP address with user, password and virtual host: `amqp://user:password@host:5672/%2f`, or
    /// `amqps://…` for TLS. One virtual host holds one deployment of one pipeline. By default the broker on
    /// this machine, as `guest`. An IPv6 address stands in brackets.
    pub url: settings::Secret,
    /// Address of the management plugin, with user and password: `http://user:password@host:15672`.
    /// Needed to configure and to show a pipeline, to run `queuer` and `persister`, and by commands that inspect
    /// queues or pause restarts. By default the broker's host and user, port 15672.
    pub management_url: Option<settings::Secret>,
    /// Seconds after which a program that cannot reach the broker exits with the cause.
    pub give_up_seconds: f64,
    /// Seconds that a failed message waits before it comes again, by the number of its failures; the last
    /// one serves all later failures. Each is a queue of its own: configure the pipeline after a change.
    pub retry_delays_seconds: Vec<u64>,
}

impl Default for BrokerSettings {
    fn default() -> Self {
        Self {
            url: "amqp://guest:guest@127.0.0.1:5672/%2f".into(),
            management_url: None,
            give_up_seconds: 600.0,
            retry_delays_seconds: vec![10, 60, 600, 3600],
        }
    }
}

impl BrokerSettings {
    /// The delays, if they grow from one to the next.
    pub fn retry_schedule(&self) -> Result<RetrySchedule, String> {
        let delays = self.retry_delays_seconds.iter();
        RetrySchedule::new(delays.copied().map(Duration::from_secs).collect())
            .map_err(|error| format!("broker.retry_delays_seconds: {error}"))
    }

    pub(crate) fn give_up(&self) -> Duration {
        Duration::try_from_secs_f64(self.give_up_seconds).unwrap_or(Duration::MAX)
    }
}
