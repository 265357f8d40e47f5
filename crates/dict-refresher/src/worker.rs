use std::collections::HashMap;
use std::time::Duration;

use app::App;
use batch::{Command, Fact, Invalid, Message, Order, Reason, header};
use pipeline::{Job, ORDERS, Outcome, Worker, now_ms, receipt};
use serp::SerpSettings;
use stores::clickhouse::{Cluster, ConfigError, ConnectionSettings, Shard, TargetSettings};
use tokio::sync::Mutex;
use tokio::sync::mpsc::unbounded_channel;
use tokio::time::{Instant, sleep_until};

use crate::failure::{RefreshFailure, RefreshStep};
use crate::shard::ShardRefresh;
use crate::state::replicas_by_address;
use crate::{DictRefresherSettings, DictionarySettings};

/// An interrupted order comes again soon: the server did not stop meanwhile.
const INTERRUPTED_SNOOZE: Duration = Duration::from_secs(10);

/// Refreshes the dictionary of one shard for each order.
pub struct DictRefresher {
    pub(crate) app: App,
    pub(crate) cluster: Cluster,
    /// The same servers, for statements that are silent for as long as a sync, or a read of a whole table, takes.
    pub(crate) slow_cluster: Cluster,
    /// Since when orders wait for their replicas: one that is put off meanwhile continues with the time it has left.
    pub(crate) waiting: std::sync::Mutex<HashMap<Order, Instant>>,
    pub(crate) target: TargetSettings,
    pub(crate) dictionary: DictionarySettings,
    pub(crate) settings: DictRefresherSettings,
    serp: SerpSettings,
    /// One for each shard: two orders for one would drop each other's dictionary.
    pub(crate) locks: Vec<Mutex<()>>,
}

/// Why an order ended before its dictionary was live.
enum Unfinished {
    Failed(RefreshFailure),
    Interrupted(&'static str),
}

impl DictRefresher {
    /// Connects to nothing yet; fails when the cluster's addresses are not usable.
    pub fn new(
        app: &App,
        target: &TargetSettings,
        dictionary: &DictionarySettings,
        serp: &SerpSettings,
        settings: &DictRefresherSettings,
    ) -> Result<Self, ConfigError> {
        let connection = target.connection();
        let cluster = Cluster::new(&connection)?;
        let slow_cluster = Cluster::new(&ConnectionSettings {
            idle_timeout: connection.idle_timeout.max(settings.idle_timeout()),
            ..connection
        })?;
        let locks = cluster.shards().map(|_| Mutex::new(())).collect();
        Ok(Self {
            app: app.clone(),
            cluster,
            slow_cluster,
            waiting: std::sync::Mutex::default(),
            target: target.clone(),
            dictionary: dictionary.clone(),
            settings: settings.clone(),
            serp: serp.clone(),
            locks,
        })
    }
}

impl Worker for DictRefresher {
    /// The orders for the SERP nodes go out before the receipt, which names them; all of it goes out again when an
    /// order that was processed comes again, and changes nothing then.
    async fn process(&self, job: &mut Job) -> Outcome {
        job.headers_mut().remove(header::FAILED_STEP);
        let (order, shard) = match self.read_order(job.message()) {
            Ok(order) => order,
            Err(invalid) => return invalid.into(),
        };
        let entries = match self.refresh_within_limit(job, &order, shard).await {
            Ok(entries) => entries,
            Err(Unfinished::Failed(failure)) => return self.failed(job, &order, failure).await,
            Err(Unfinished::Interrupted(why)) => {
                return Outcome::Snooze {
                    why: format!("shard {}: {why}", order.shard),
                    delay: INTERRUPTED_SNOOZE,
                };
            }
        };
        let nodes = self.nodes(shard);
        for node in &nodes {
            let restart = Order {
                // A node that serves what its dictionary has is right, however late it is.
                expires_at_ms: i64::MAX,
                command: Command::RestartSerp { node: node.clone() },
                ..order.clone()
            };
            job.send(ORDERS, restart.to_message()).await;
        }
        let Order { shard, version, .. } = order;
        tracing::info!(run = %order.run, shard, version, entries, "the new dictionary is live");
        let fact = Fact::ShardApplied {
            shard,
            version,
            entries,
            nodes,
        };
        job.report(&order.run, fact).await;
        self.count("applied");
        Outcome::Done
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        self.count("quarantined");
        let headers = &message.headers;
        let shard = Order::from_message(message).map(|order| order.shard);
        let shard = shard.or_else(|_| headers.shard());
        // The header of an earlier try is not about a delivery that was not processed.
        let step = headers
            .text(header::FAILED_STEP)
            .filter(|_| why.reason != Reason::DeliveryLimit)
            .and_then(RefreshStep::parse);
        let fact = Fact::OrderFailed {
            stage: step.unwrap_or(RefreshStep::RefreshDict).stage(),
            target: shard.map_or_else(|_| "unknown".to_owned(), |shard| shard.to_string()),
            step: step
                .map_or(why.reason.as_str(), RefreshStep::as_str)
                .to_owned(),
            error: why.to_string(),
            given_up: true,
        };
        Some(receipt(&headers.run().ok()?, fact).to_message())
    }
}

impl DictRefresher {
    /// Refreshes for as long as an order may be in flight, and sends its facts on as they come.
    async fn refresh_within_limit(
        &self,
        job: &mut Job,
        order: &Order,
        shard: &Shard,
    ) -> Result<u64, Unfinished> {
        let (facts, mut received) = unbounded_channel();
        let deadline = Instant::now() + self.settings.in_flight_limit();
        let refresh = ShardRefresh::new(self, order, shard, facts, deadline);
        let refresh = async {
            tokio::select! {
                biased;
                result = refresh.run() => result.map_err(Unfinished::Failed),
                () = sleep_until(deadline) => Err(Unfinished::Interrupted("it was in flight for max_in_flight_seconds")),
                () = self.app.shutdown.triggered() => Err(Unfinished::Interrupted("the program is stopping")),
            }
        };
        // Ends after the refresh, which closes the channel.
        let report = async {
            while let Some(fact) = received.recv().await {
                job.report(&order.run, fact).await;
            }
        };
        tokio::join!(refresh, report).0
    }

    fn read_order(&self, message: &Message) -> Result<(Order, &Shard), Invalid> {
        let order = Order::from_message(message)?;
        if order.command != Command::RefreshDictionary {
            let what = format!(
                "it orders {:?}, which is not for this program",
                order.command
            );
            return Err(Invalid::new(Reason::NotReadable, what));
        }
        let shard = self.cluster.shard(order.shard)?;
        Ok((order, shard))
    }

    /// Reports a failure, unless the order goes to quarantine for it: [`Worker::quarantined`] does that then. A sync that
    /// fails for too long is given up.
    async fn failed(&self, job: &mut Job, order: &Order, mut failure: RefreshFailure) -> Outcome {
        let headers = job.headers_mut();
        headers.set(header::FAILED_STEP, failure.step.as_str());
        if failure.costs_attempt() {
            let now = now_ms();
            let since = headers.int(header::FAILING_SINCE).unwrap_or(now);
            let seconds = (now - since).max(0) as u64 / 1000;
            let deadline = self.settings.sync_deadline_seconds;
            if failure.step == RefreshStep::Sync && failure.is_retried() && seconds >= deadline {
                // An order that an operator brings back begins from the start.
                headers.remove(header::FAILING_SINCE);
                failure = failure.given_up(format!(
                    "given up {seconds} s after the first failure (sync_deadline_seconds is {deadline})"
                ));
            } else {
                headers.set(header::FAILING_SINCE, since);
            }
        }
        let outcome = failure.outcome(order.shard);
        if matches!(outcome, Outcome::Quarantine(_)) && !failure.costs_attempt() {
            return outcome;
        }
        let fact = Fact::OrderFailed {
            stage: failure.stage,
            target: order.shard.to_string(),
            step: failure.step.as_str().to_owned(),
            error: failure.error,
            given_up: matches!(outcome, Outcome::Discard { .. }),
        };
        job.report(&order.run, fact).await;
        outcome
    }

    /// The SERP nodes that read the dictionary of a shard.
    fn nodes(&self, shard: &Shard) -> Vec<String> {
        let replicas = replicas_by_address(shard).into_iter();
        let addresses: Vec<String> = replicas.map(|r| r.address().to_owned()).collect();
        for replica in self.serp.without_node(&addresses) {
            tracing::warn!(
                shard = shard.number(),
                replica,
                "serp.node_template gives no node for this replica: none is restarted"
            );
        }
        self.serp.nodes_of(shard.number(), &addresses)
    }

    fn count(&self, status: &'static str) {
        let labels = [("status", status)];
        self.app.stats.count("dictionaries", &labels, 1);
    }
}
