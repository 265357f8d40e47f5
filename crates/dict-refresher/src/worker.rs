use std::time::Duration;

use app::App;
use batch::{Command, Fact, Invalid, Message, Order, Reason, header};
use futures_util::future::{join_all, try_join_all};
use pipeline::{Job, Outcome, Worker, now_ms, receipt};
use serp::SerpSettings;
use stores::clickhouse::{
    Cluster, ConfigError, ConnectionSettings, Replica, Shard, TargetSettings,
};
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::failure::{RefreshFailure, RefreshStep};
use crate::replica::ReplicaRefresh;
use crate::spec::DictionarySpec;
use crate::state::{ReplicaDictionaries, drop_next, replicas_by_address};
use crate::sync::Syncer;
use crate::{DictRefresherSettings, DictionarySettings, ORDERS, RECEIPTS};

/// An interrupted order comes again soon: the server did not stop meanwhile.
const INTERRUPTED_SNOOZE: Duration = Duration::from_secs(10);

/// Refreshes the dictionary of one shard for each order.
pub struct DictRefresher {
    app: App,
    cluster: Cluster,
    /// The same servers, for statements that are silent for as long as a sync, or a read of a whole table, takes.
    slow_cluster: Cluster,
    syncer: Syncer,
    target: TargetSettings,
    dictionary: DictionarySettings,
    settings: DictRefresherSettings,
    serp: SerpSettings,
    /// One for each shard: two orders for one would take each other's dictionary away.
    locks: Vec<Mutex<()>>,
}

/// Why an order ended before the dictionary was in place.
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
            syncer: Syncer::new(target, settings),
            target: target.clone(),
            dictionary: dictionary.clone(),
            settings: settings.clone(),
            serp: serp.clone(),
            locks,
        })
    }

    /// The whole of a refresh, from wherever an earlier try left it; returns the entries of the dictionary, of the
    /// smallest where the replicas differ. It may be dropped at any point, and begun again.
    async fn refresh(
        &self,
        order: &Order,
        shard: &Shard,
        facts: UnboundedSender<Fact>,
        hold: Instant,
    ) -> Result<u64, RefreshFailure> {
        let _lock = self.locks[order.shard as usize].lock().await;
        let slow_shard = self.slow_cluster.shard(order.shard);
        let slow_shard = slow_shard.expect("both clusters are of the same servers");
        let replicas = replicas_by_address(shard);

        let found = self.sync(order, &replicas, slow_shard, &facts).await?;

        let readers = replicas_by_address(slow_shard);
        let refreshes = replicas.iter().zip(readers);
        let refreshes = refreshes.map(|(r, reader)| self.replica_refresh(order, r, reader, hold));
        let refreshes = try_join_all(refreshes).await?;

        let started = Instant::now();
        let loads = refreshes.iter().zip(&found);
        try_join_all(loads.map(|(refresh, found)| refresh.load_and_check(found))).await?;
        self.app.stats.time("load", &[], started.elapsed());
        tracing::info!(run = %order.run, shard = order.shard, "the new dictionary is loaded and good on every replica");

        // From here on all replicas are exchanged, or the shard would serve two versions.
        self.check_due(order, &replicas, true).await?;
        // Each to its end, whatever becomes of the others: a server may still execute an exchange whose request was
        // dropped.
        let entries = join_all(refreshes.iter().map(ReplicaRefresh::apply)).await;
        let entries: Vec<u64> = entries.into_iter().collect::<Result<_, _>>()?;
        Ok(entries.into_iter().min().unwrap_or(0))
    }
}

impl Worker for DictRefresher {
    const RECEIPTS: &'static str = RECEIPTS;

    /// The orders for the SERP nodes go out before the receipt, which names them; all of it goes out again when an
    /// order that was processed comes again, and changes nothing then.
    async fn process(&self, job: &mut Job) -> Outcome {
        job.headers_mut().remove(header::FAILED_STEP);
        let (order, shard) = match self.read_order(job.message()) {
            Ok(order) => order,
            Err(invalid) => return invalid.into(),
        };
        let entries = match self.refresh_within_hold(job, &order, shard).await {
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
        let (shard, version) = (order.shard, order.version);
        tracing::info!(run = %order.run, shard, version, entries, "the dictionary is in place");
        let fact = Fact::ShardApplied {
            shard,
            version,
            entries,
            nodes,
        };
        report(job, &order, fact).await;
        self.count("applied");
        Outcome::Done
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        self.count("quarantined");
        let headers = &message.headers;
        let shard = match Order::from_message(message) {
            Ok(order) => Some(order.shard),
            Err(_) => headers.shard().ok(),
        };
        // A header of an earlier try says nothing of a delivery that was not processed.
        let step = headers
            .text(header::FAILED_STEP)
            .filter(|_| why.reason != Reason::DeliveryLimit)
            .and_then(RefreshStep::parse);
        let fact = Fact::OrderFailed {
            stage: step.unwrap_or(RefreshStep::RefreshDict).stage(),
            target: shard.map_or_else(|| "unknown".to_owned(), |shard| shard.to_string()),
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
    /// Brings the replicas into sync, unless all of them got so far with the order that they were; returns what they
    /// have then.
    async fn sync(
        &self,
        order: &Order,
        replicas: &[&Replica],
        slow_shard: &Shard,
        facts: &UnboundedSender<Fact>,
    ) -> Result<Vec<ReplicaDictionaries>, RefreshFailure> {
        let found = self.inspect(order, replicas).await;
        let has_begun = |found: &ReplicaDictionaries| found.has_begun(order);
        let synced = matches!(&found, Ok(found) if found.iter().all(has_begun));
        self.check_due(order, replicas, synced).await?;
        match found {
            Ok(found) if synced => {
                // The ledger may not have heard of it.
                let _ = facts.send(Fact::ShardSynced {
                    shard: order.shard,
                    replicas: replicas.len() as u32,
                });
                return Ok(found);
            }
            Err(failure) if failure.step == RefreshStep::Stale => return Err(failure),
            // A replica that does not answer is found late.
            Ok(_) | Err(_) => {}
        }
        let started = Instant::now();
        self.syncer.run(order, slow_shard, facts).await?;
        self.app.stats.time("sync", &[], started.elapsed());
        tracing::info!(run = %order.run, shard = order.shard, "the replicas are in sync");
        // That may have taken an hour.
        self.check_due(order, replicas, true).await?;
        self.inspect(order, replicas).await
    }

    /// What each replica has; fails when that is newer than the order on one of them.
    async fn inspect(
        &self,
        order: &Order,
        replicas: &[&Replica],
    ) -> Result<Vec<ReplicaDictionaries>, RefreshFailure> {
        let found = replicas
            .iter()
            .map(|replica| ReplicaDictionaries::inspect(replica, &self.dictionary));
        let found = try_join_all(found).await;
        let found =
            found.map_err(|e| RefreshFailure::for_statement(RefreshStep::DeleteOldDict, &e))?;
        for (replica, found) in replicas.iter().zip(&found) {
            found.check_not_newer(order, replica)?;
        }
        Ok(found)
    }

    /// Fails when the run has given the order up, and drops what was loaded for it: there is no further try. A server
    /// that cannot be asked keeps it until the next order for the shard. A shard of two versions is brought to one
    /// however late it is: what is missing was loaded in time. `synced`: whether all replicas are known to have been
    /// in sync for the order.
    async fn check_due(
        &self,
        order: &Order,
        replicas: &[&Replica],
        synced: bool,
    ) -> Result<(), RefreshFailure> {
        if now_ms() < order.expires_at_ms {
            return Ok(());
        }
        let inspect = |replica| ReplicaDictionaries::inspect(replica, &self.dictionary);
        let found = try_join_all(replicas.iter().map(|replica| inspect(replica))).await;
        let exchanging = found.is_ok_and(|found| {
            found.iter().any(|found| found.live_for(order).is_some())
                && found.iter().all(|found| found.has_begun(order))
        });
        if exchanging {
            return Ok(());
        }
        join_all(replicas.iter().map(async |replica| {
            let dropped = async {
                match inspect(replica).await?.next_for(order) {
                    Some(_) => drop_next(replica, &self.dictionary).await,
                    None => Ok(()),
                }
            };
            if let Err(error) = dropped.await {
                let replica = replica.address();
                tracing::warn!(replica, %error, "what was loaded for an expired order stays");
            }
        }))
        .await;
        Err(RefreshFailure::expired(order.expires_at_ms, synced))
    }

    async fn replica_refresh<'a>(
        &'a self,
        order: &'a Order,
        replica: &'a Replica,
        reader: &'a Replica,
        hold: Instant,
    ) -> Result<ReplicaRefresh<'a>, RefreshFailure> {
        let (shard, shards) = (order.shard, self.cluster.shard_count());
        let spec =
            DictionarySpec::load(replica, &self.target, &self.dictionary, shard, shards).await?;
        Ok(ReplicaRefresh {
            order,
            dictionary: &self.dictionary,
            settings: &self.settings,
            spec,
            replica,
            reader,
            hold,
        })
    }

    /// Runs [`Self::refresh`] for as long as an order may be held, and sends its facts on as they come.
    async fn refresh_within_hold(
        &self,
        job: &mut Job,
        order: &Order,
        shard: &Shard,
    ) -> Result<u64, Unfinished> {
        let (facts, mut received) = unbounded_channel();
        let hold = Instant::now() + self.settings.hold();
        let result = {
            let mut refresh = std::pin::pin!(self.refresh(order, shard, facts, hold));
            loop {
                tokio::select! {
                    biased;
                    Some(fact) = received.recv() => report(job, order, fact).await,
                    result = &mut refresh => break result.map_err(Unfinished::Failed),
                    () = sleep_until(hold) => break Err(Unfinished::Interrupted("it was in flight for hold_seconds")),
                    () = self.app.shutdown.triggered() => break Err(Unfinished::Interrupted("the program was told to stop")),
                }
            }
        };
        while let Ok(fact) = received.try_recv() {
            report(job, order, fact).await;
        }
        result
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
            stage: failure.step.stage(),
            target: order.shard.to_string(),
            step: failure.step.to_string(),
            error: failure.error,
            given_up: matches!(outcome, Outcome::Discard { .. }),
        };
        report(job, order, fact).await;
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

async fn report(job: &mut Job, order: &Order, fact: Fact) {
    job.send(RECEIPTS, receipt(&order.run, fact).to_message())
        .await;
}
