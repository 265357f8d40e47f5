//! Writes the rows of a group into every index and its followers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use app::App;
use batch::{Invalid, Reason};
use futures_util::future::join_all;
use pipeline::Outcome;
use stores::elasticsearch::{
    Client, ElasticsearchSettings, Error, Followers, IndexSettings, ItemVerdict, classify,
};
use stores::{CircuitBreakers, Class};
use tokio::sync::Semaphore;

use crate::config::Settings;
use crate::delivery::{Delivery, Patience};
use crate::encode::{Bulk, encode};
use crate::judge::{Answers, Part, Verdict, judge};
use crate::table::Table;

/// What an operator can do about an index that is not there.
const CONFIGURE: &str = "run `fleet elasticsearch configure`, then send the batch again";

/// Elasticsearch, as far as this role writes to it.
pub(crate) struct Sink {
    pub app: App,
    pub client: Client,
    pub breakers: CircuitBreakers,
    pub settings: Settings,
    indices: Vec<IndexSettings>,
    followers: Followers,
    /// One for each bulk request in flight.
    permits: Semaphore,
}

impl Sink {
    pub fn new(
        app: &App,
        client: Client,
        elasticsearch: &ElasticsearchSettings,
        settings: &Settings,
    ) -> Self {
        let every = Duration::from_secs(elasticsearch.followers_seconds);
        let poll = Duration::from_secs(settings.pause_poll_seconds);
        let limit = Duration::from_secs(settings.pause_limit_seconds);
        Self {
            app: app.clone(),
            followers: Followers::new(client.clone(), every),
            client,
            breakers: CircuitBreakers::new(app, "elasticsearch", "paused-indices", poll, limit),
            settings: settings.clone(),
            indices: elasticsearch.indices.clone(),
            permits: Semaphore::new(settings.options.concurrency),
        }
    }

    /// Writes all rows of `tables`; answers with one verdict for each table.
    pub async fn write(&self, tables: &[Table]) -> Vec<Verdict> {
        let sets = 0..self.indices.len();
        let answers = join_all(sets.map(|set| self.write_set(set, tables))).await;
        let answers: Vec<Answers> = answers.into_iter().flatten().collect();
        let mut first = 0;
        let of_table = |table: &Table| {
            let rows = first..first + table.rows();
            first = rows.end;
            let refused = table.refused();
            judge(&Part { rows, refused }, &answers)
        };
        tables.iter().map(of_table).collect()
    }

    /// Writes into one index and its followers, which share the encoded documents.
    async fn write_set(&self, set: usize, tables: &[Table]) -> Vec<Answers> {
        let leader = &self.indices[set].name;
        let bulks = encode(tables, set, self.settings.bulk_limits());
        let rows = tables.iter().map(Table::rows).sum();
        let followers = match self.followers(leader).await {
            Ok(followers) => followers,
            Err(outcome) => {
                let mut answers = pending(leader, rows, &bulks);
                answers.give_up(outcome);
                return vec![answers];
            }
        };
        let to_leader = Delivery::new(self, leader, true, pending(leader, rows, &bulks));
        let to_followers = followers
            .iter()
            .map(|follower| Delivery::new(self, follower, false, pending(follower, rows, &bulks)));
        let deliveries = std::iter::once(to_leader).chain(to_followers);
        join_all(deliveries.map(|delivery| delivery.run(&bulks))).await
    }

    async fn followers(&self, leader: &str) -> Result<Arc<[String]>, Outcome> {
        let place = format!("the look-up of the followers of {leader}");
        let mut patience = Patience::new(self, &place);
        loop {
            let permit = patience.acquire().await?;
            let error = match self.followers.get(leader).await {
                Ok(followers) => {
                    self.breakers.reset(&place);
                    return Ok(followers);
                }
                Err(error) => error,
            };
            match classify(&error) {
                Class::Pause => self.breakers.trip(&place, &error.to_string()),
                Class::Quarantine(Reason::MissingTarget) => return Err(missing(leader, &error)),
                _ => patience.wait(|| failed(&error, leader)).await?,
            }
            drop(permit);
        }
    }

    /// Sends one request when its turn comes.
    pub async fn bulk(&self, index: &str, bulk: &Bulk) -> Result<Vec<ItemVerdict>, Error> {
        let _permit = self.permits.acquire().await;
        let started = Instant::now();
        let answer = self.client.bulk(index, vec![bulk.body.clone()]).await;
        self.app.stats.time("bulk", &[], started.elapsed());
        answer
    }
}

fn pending(index: &str, rows: usize, bulks: &[Bulk]) -> Answers {
    let mut answers = Answers::new(index, rows);
    bulks.iter().for_each(|bulk| answers.expect(&bulk.rows));
    answers
}

/// There is no such index: every batch waits in quarantine until an operator makes it.
pub(crate) fn missing(index: &str, why: impl std::fmt::Display) -> Outcome {
    let detail = format!("index {index} does not exist ({why}): {CONFIGURE}");
    Invalid::new(Reason::MissingTarget, detail).into()
}

/// What becomes of rows that could not be sent as often as was worth waiting for.
pub(crate) fn failed(error: &Error, index: &str) -> Outcome {
    match classify(error) {
        Class::Quarantine(reason) => Invalid::new(reason, format!("index {index}: {error}")).into(),
        _ => Outcome::retry(error, format!("index {index}")),
    }
}
