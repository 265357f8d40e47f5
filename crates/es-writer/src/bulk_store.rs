//! Elasticsearch, as far as this role writes to it.

use std::time::{Duration, Instant};

use app::App;
use backon::ExponentialBackoff;
use batch::{Invalid, Reason};
use pipeline::{Outcome, paused};
use stores::elasticsearch::{Client, Error, ItemResult, classify};
use stores::{CircuitBreakers, Class, Permit, RequestLimit};
use tokio::sync::Semaphore;

use crate::config::EsWriterSettings;
use crate::encode::Bulk;

/// What an operator can do about an index that is not there.
const CONFIGURE: &str = "run `fleet elasticsearch configure`, then send the batch again";

/// What the bulk requests to all indices share.
pub(crate) struct BulkStore {
    pub app: App,
    pub client: Client,
    pub settings: EsWriterSettings,
    /// Bytes of one request, learnt from answers.
    pub limit: RequestLimit,
    breakers: CircuitBreakers,
    /// One for each bulk request in flight.
    permits: Semaphore,
}

impl BulkStore {
    pub fn new(app: &App, client: Client, settings: &EsWriterSettings) -> Self {
        let (poll, limit) = (settings.pause.poll(), settings.pause.limit());
        Self {
            app: app.clone(),
            client,
            breakers: CircuitBreakers::new(app, "elasticsearch", "paused-indices", poll, limit),
            limit: RequestLimit::new("elasticsearch"),
            permits: Semaphore::new(settings.options.concurrency),
            settings: settings.clone(),
        }
    }

    /// Sends one request as soon as there is a permit.
    pub async fn bulk(&self, index: &str, bulk: &Bulk) -> Result<Vec<ItemResult>, Error> {
        let _permit = self.permits.acquire().await;
        let started = Instant::now();
        let answer = self.client.bulk(index, bulk.body.clone()).await;
        self.app.stats.time("bulk", &[], started.elapsed());
        answer
    }
}

/// How long requests to one endpoint are tried.
pub(crate) struct RetryBudget<'a> {
    store: &'a BulkStore,
    endpoint: String,
    pauses: ExponentialBackoff,
    /// Since when its circuit breaker is tripped.
    tripped_since: Option<tokio::time::Instant>,
}

impl<'a> RetryBudget<'a> {
    pub fn new(store: &'a BulkStore, endpoint: String) -> Self {
        Self {
            store,
            endpoint,
            pauses: store.settings.pauses(),
            tripped_since: None,
        }
    }

    /// Waits until the circuit breaker of the endpoint lets a request through.
    pub async fn acquire(&mut self) -> Result<Permit, Outcome> {
        let breakers = &self.store.breakers;
        let permit = breakers
            .acquire(&self.endpoint, &mut self.tripped_since)
            .await;
        permit.map_err(paused)
    }

    /// The endpoint takes no writes.
    pub fn pause(&self, why: &str) {
        self.store.breakers.trip(&self.endpoint, why);
    }

    /// The endpoint takes writes.
    pub fn resume(&self) {
        self.store.breakers.reset(&self.endpoint);
    }

    /// Pauses before another try. The error is `used_up` when there are no tries left, or that the program stops.
    pub async fn wait(&mut self, used_up: Outcome) -> Result<(), Outcome> {
        let Some(pause) = self.pauses.next() else {
            return Err(used_up);
        };
        tokio::select! {
            biased;
            () = self.store.app.shutdown.triggered() => Err(Outcome::Snooze {
                why: format!("the program stops while {} is busy", self.endpoint),
                delay: Duration::ZERO,
            }),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// A try made progress: the next one is the first again.
    pub fn reset(&mut self) {
        self.pauses = self.store.settings.pauses();
    }
}

/// The outcome where there is no such index: every batch waits in quarantine until an operator creates it.
pub(crate) fn missing(index: &str, why: impl std::fmt::Display) -> Outcome {
    let detail = format!("index {index} does not exist ({why}): {CONFIGURE}");
    Invalid::new(Reason::MissingTarget, detail).into()
}

/// The outcome of rows that could not be sent in all the tries that are worth waiting for.
pub(crate) fn failed(error: &Error, index: &str) -> Outcome {
    match classify(error) {
        Class::Quarantine(reason) => Invalid::new(reason, format!("index {index}: {error}")).into(),
        _ => Outcome::retry(error, format!("index {index}")),
    }
}
