//! Counters, gauges and timers, gathered in memory and sent to statsd once a second.
//!
//! A call takes a short lock and touches a map; a thread of its own looks the host up and sends.
//! Label values must come from small closed sets: never an id, a keyword, a URL or an error text.

mod gathered;
mod name;
mod sender;
#[cfg(any(test, feature = "testing"))]
mod testing;

use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use crate::{StatsSettings, StatsStyle};
use gathered::Gathered;
use name::{Series, prefix};
use sender::{Flush, Sender};

/// A stat's labels, in any order.
pub type Labels<'a> = [(&'a str, &'a str)];

/// Counts, gauges and times; a clone adds to the same series. Never waits for the network.
#[derive(Debug, Clone)]
pub struct Stats(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    style: StatsStyle,
    gathered: Arc<Shared>,
    /// The sending thread ends when this is dropped. None: nothing is sent.
    flushes: Option<mpsc::Sender<Flush>>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<Gathered>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        crate::lock(&self.0)
    }
}

impl Stats {
    /// Sends to the configured host under `REALM.keyword-fleet.PROGRAM.`; counts nothing if no
    /// host is configured.
    pub fn start(settings: &StatsSettings, realm: &str, program: &str) -> Self {
        let Some(host) = settings.host.as_deref().filter(|host| !host.is_empty()) else {
            return Self::disabled();
        };
        let gathered = Arc::new(Shared::default());
        let (flushes, requests) = mpsc::channel();
        let sender = Sender::new(host, settings, prefix(realm, program), gathered.clone());
        let thread = std::thread::Builder::new().name("stats".to_owned());
        if let Err(error) = thread.spawn(move || sender.run(&requests)) {
            tracing::error!(%error, "no thread for the stats: none will be sent");
            return Self::disabled();
        }
        Self(Some(Arc::new(Inner {
            style: settings.style,
            gathered,
            flushes: Some(flushes),
        })))
    }

    /// Counts nothing.
    pub fn disabled() -> Self {
        Self(None)
    }

    /// Adds `n` to a counter.
    pub fn count(&self, name: &str, labels: &Labels<'_>, n: u64) {
        self.with(name, labels, |gathered, series| gathered.count(series, n));
    }

    /// Sets a gauge.
    pub fn gauge(&self, name: &str, labels: &Labels<'_>, value: f64) {
        self.with(name, labels, |gathered, series| {
            gathered.gauge(series, value)
        });
    }

    /// Notes how long something took. Of many observations in one second a fair sample is sent:
    /// averages and percentiles hold, the timer's own count does not; count with [`Stats::count`].
    pub fn time(&self, name: &str, labels: &Labels<'_>, took: Duration) {
        self.with(name, labels, |gathered, series| gathered.time(series, took));
    }

    /// Sends what is gathered; false if that took longer than `timeout`.
    pub fn flush(&self, timeout: Duration) -> bool {
        let Some(flushes) = self.0.as_ref().and_then(|inner| inner.flushes.as_ref()) else {
            return true;
        };
        let (done, sent) = mpsc::channel();
        flushes.send(done).is_ok() && sent.recv_timeout(timeout).is_ok()
    }

    fn with(&self, name: &str, labels: &Labels<'_>, change: impl FnOnce(&mut Gathered, Series)) {
        if let Some(inner) = &self.0 {
            let series = Series::new(inner.style, name, labels);
            change(&mut inner.gathered.lock(), series);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_in_memory_can_be_read_back() {
        let stats = Stats::in_memory();
        stats.count("rows", &[("status", "stored")], 3);
        stats.clone().count("rows", &[("status", "stored")], 4);
        stats.gauge("skew", &[], -2.5);
        stats.time("main_loop", &[], Duration::from_millis(5));
        assert_eq!(stats.counter("rows", &[("status", "stored")]), 7);
        assert_eq!(stats.counter("rows", &[("status", "quarantined")]), 0);
        assert_eq!(stats.gauge_value("skew", &[]), Some(-2.5));
        assert_eq!(stats.observations("main_loop", &[]), 1);
        assert!(stats.flush(Duration::ZERO));
        assert_eq!(stats.counter("rows", &[("status", "stored")]), 7);
    }

    #[test]
    fn the_order_of_the_labels_does_not_matter() {
        let stats = Stats::in_memory();
        stats.count("rows", &[("status", "stored"), ("index", "all")], 1);
        stats.count("rows", &[("index", "all"), ("status", "stored")], 1);
        assert_eq!(
            stats.counter("rows", &[("index", "all"), ("status", "stored")]),
            2
        );
    }

    #[test]
    fn without_a_host_nothing_is_counted() {
        let stats = Stats::start(&StatsSettings::default(), "test", "es-writer");
        stats.count("rows", &[], 1);
        assert_eq!(stats.counter("rows", &[]), 0);
        assert!(stats.flush(Duration::ZERO));
    }
}
