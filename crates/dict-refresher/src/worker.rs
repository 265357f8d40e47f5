use app::App;
use batch::{Command, Fact, Headers, Invalid, Message, Order, Reason};
use futures_util::future::{join_all, try_join_all};
use pipeline::{Job, Outcome, Worker, now_ms, receipt};
use serp::SerpSettings;
use stores::clickhouse::{
    Cluster, ConfigError, ConnectionSettings, Replica, Shard, TargetSettings,
};
use tokio::sync::Mutex as Turn;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::time::{Instant, sleep_until};

use crate::apply::apply;
use crate::blueprint::Blueprint;
use crate::failure::{After, Failure, Step};
use crate::prepare::Preparation;
use crate::state::{Found, drop_next, in_order};
use crate::sync::Syncer;
use crate::{DictRefresherSettings, DictionarySettings};

/// An order that was put off in the middle goes on soon: the server did not stop meanwhile.
const SNOOZE: std::time::Duration = std::time::Duration::from_secs(10);

/// In the text of a failure that was given up by its deadline: an order that an operator brings back begins anew.
const GIVEN_UP: &str = "given up";

/// Refreshes the dictionary of one shard for each order.
pub struct DictRefresher {
    app: App,
    cluster: Cluster,
    /// The same servers, whose silence is borne for as long as they may sync, or read a whole table.
    patient: Cluster,
    syncer: Syncer,
    target: TargetSettings,
    dictionary: DictionarySettings,
    settings: DictRefresherSettings,
    serp: SerpSettings,
    /// Two orders for one shard would take each other's dictionary away.
    turns: Vec<Turn<()>>,
}

/// What an order led to.
struct Applied {
    /// Entries of the dictionary; of the smallest, where the replicas differ.
    entries: u64,
    nodes: Vec<String>,
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
        let patient = Cluster::new(&ConnectionSettings {
            idle_timeout: connection.idle_timeout.max(settings.patience()),
            ..connection
        })?;
        let turns = cluster.shards().map(|_| Turn::new(())).collect();
        Ok(Self {
            app: app.clone(),
            cluster,
            patient,
            syncer: Syncer::new(target, settings),
            target: target.clone(),
            dictionary: dictionary.clone(),
            settings: settings.clone(),
            serp: serp.clone(),
            turns,
        })
    }

    /// Carries out an order from wherever it stands. It may be dropped at any point, and begun again.
    async fn carry_out(
        &self,
        order: &Order,
        shard: &Shard,
        facts: UnboundedSender<Fact>,
        hold: Instant,
    ) -> Result<Applied, Failure> {
        let _turn = self.turns[order.shard as usize].lock().await;
        let patient = self.patient.shard(order.shard);
        let patient = patient.expect("both clusters are of the same servers");
        let replicas = in_order(shard);
        if self.is_too_late(order, &replicas).await {
            // Every replica has a dictionary of the order only if all of them were in sync for it.
            let synced = matches!(self.begun(order, &replicas).await, Ok(true));
            return Err(self.expired(order, &replicas, synced).await);
        }
        self.sync(order, &replicas, patient, &facts).await?;
        if self.is_too_late(order, &replicas).await {
            return Err(self.expired(order, &replicas, true).await);
        }
        let place = (order.shard, self.cluster.shard_count());
        let blueprints = replicas.iter().map(async |replica| {
            Blueprint::draw(replica, &self.target, &self.dictionary, place).await
        });
        let blueprints = try_join_all(blueprints).await?;

        let started = Instant::now();
        let with_patience = replicas.iter().zip(in_order(patient));
        let prepared = with_patience
            .zip(&blueprints)
            .map(|((replica, reader), blueprint)| {
                let preparation = Preparation {
                    order,
                    dictionary: &self.dictionary,
                    settings: &self.settings,
                    blueprint,
                    replica,
                    reader,
                    hold,
                };
                async move { preparation.run().await }
            });
        try_join_all(prepared).await?;
        self.app.stats.time("load", &[], started.elapsed());
        tracing::info!(run = %order.run, shard = order.shard, "the new dictionary is loaded and good on every replica");

        // From here on all replicas are exchanged, or the shard would serve two versions.
        if self.is_too_late(order, &replicas).await {
            return Err(self.expired(order, &replicas, true).await);
        }
        let applied = replicas
            .iter()
            .zip(&blueprints)
            .map(|(replica, blueprint)| apply(replica, &self.dictionary, blueprint, order));
        // Each to its end, whatever becomes of the others: an exchange that is let go of may still be carried out.
        let applied = join_all(applied).await.into_iter();
        let entries = applied.collect::<Result<Vec<_>, _>>()?;
        Ok(Applied {
            entries: entries.into_iter().min().unwrap_or(0),
            nodes: self.nodes(order.shard, &replicas),
        })
    }

    /// Drops what was loaded for the order: nobody comes back for it. A server that cannot be asked keeps it until the next
    /// order for the shard.
    async fn expired(&self, order: &Order, replicas: &[&Replica], synced: bool) -> Failure {
        join_all(replicas.iter().map(async |replica| {
            let dropped = async {
                let found = Found::on(replica, &self.dictionary).await?;
                match found.next_of(order) {
                    Some(_) => drop_next(replica, &self.dictionary).await,
                    None => Ok(()),
                }
            };
            if let Err(error) = dropped.await {
                let replica = replica.address();
                tracing::warn!(replica, %error, "what was loaded for an order that is too late stays");
            }
        }))
        .await;
        Failure::expired(order.expires_at_ms, synced)
    }

    /// Brings the replicas into sync, unless all of them got so far with the order that they were.
    async fn sync(
        &self,
        order: &Order,
        replicas: &[&Replica],
        patient: &Shard,
        facts: &UnboundedSender<Fact>,
    ) -> Result<(), Failure> {
        match self.begun(order, replicas).await {
            Ok(true) => {
                // The ledger may not have heard of it.
                let _ = facts.send(Fact::ShardSynced {
                    shard: order.shard,
                    replicas: replicas.len() as u32,
                });
                return Ok(());
            }
            Err(failure) if failure.step == Step::Stale => return Err(failure),
            // A replica that does not answer is found late.
            Ok(false) | Err(_) => {}
        }
        let started = Instant::now();
        self.syncer.run(order, patient, facts).await?;
        self.app.stats.time("sync", &[], started.elapsed());
        tracing::info!(run = %order.run, shard = order.shard, "the replicas are in sync");
        // That may have taken an hour.
        self.begun(order, replicas).await.map(drop)
    }

    /// Whether the run has given the order up. A shard of two versions is brought to one however late it is: what is
    /// missing was loaded in time.
    async fn is_too_late(&self, order: &Order, replicas: &[&Replica]) -> bool {
        now_ms() >= order.expires_at_ms && !self.is_exchanging(order, replicas).await
    }

    /// Whether the order's dictionary is in place on some replicas, and ready on the others.
    async fn is_exchanging(&self, order: &Order, replicas: &[&Replica]) -> bool {
        let found = replicas.iter().map(|r| Found::on(r, &self.dictionary));
        let Ok(found) = try_join_all(found).await else {
            return false;
        };
        let live = |f: &Found| f.live_version() == Some(order.version);
        let ready = |f: &Found| live(f) || f.next_of(order).is_some();
        found.iter().any(live) && found.iter().all(ready)
    }

    /// Whether every replica has a dictionary of the order, which none has before all are in sync; fails when the
    /// order is older than what one of them has.
    async fn begun(&self, order: &Order, replicas: &[&Replica]) -> Result<bool, Failure> {
        let found = replicas.iter().map(|r| Found::on(r, &self.dictionary));
        let found = try_join_all(found).await;
        let found = found.map_err(|error| Failure::of(Step::DeleteOldDict, &error))?;
        for (replica, found) in replicas.iter().zip(&found) {
            found.not_newer_than(order, replica)?;
        }
        let version = Some(order.version);
        let begun = |f: &Found| f.live_version() == version || f.next_of(order).is_some();
        Ok(found.iter().all(begun))
    }

    /// The SERP nodes that read the dictionary of a shard.
    fn nodes(&self, shard: u32, replicas: &[&Replica]) -> Vec<String> {
        let addresses: Vec<String> = replicas.iter().map(|r| r.address().to_owned()).collect();
        for replica in self.serp.without_node(&addresses) {
            tracing::warn!(
                shard,
                replica,
                "serp.node_template gives no node for this replica: none is restarted"
            );
        }
        self.serp.nodes_of(shard, &addresses)
    }

    /// Sends the facts on as they come, until the order is carried out, has to be put off, or failed.
    async fn follow(
        &self,
        job: &mut Job,
        order: &Order,
        shard: &Shard,
    ) -> Result<Applied, Outcome> {
        let (facts, mut said) = unbounded_channel();
        let hold = Instant::now() + self.settings.hold();
        let ended = {
            let mut work = std::pin::pin!(self.carry_out(order, shard, facts, hold));
            loop {
                tokio::select! {
                    biased;
                    Some(fact) = said.recv() => job.send("receipts", receipt(&order.run, fact).to_message()).await,
                    ended = &mut work => break ended.map_err(Ended::Failed),
                    () = sleep_until(hold) => break Err(Ended::PutOff("it was in hand for hold_seconds")),
                    () = self.app.shutdown.triggered() => break Err(Ended::PutOff("the program was told to stop")),
                }
            }
        };
        while let Ok(fact) = said.try_recv() {
            job.send("receipts", receipt(&order.run, fact).to_message())
                .await;
        }
        match ended {
            Ok(applied) => Ok(applied),
            Err(Ended::Failed(failure)) => Err(self.failed(job, order, failure).await),
            Err(Ended::PutOff(why)) => Err(Outcome::Snooze {
                why: format!("shard {}: {why}", order.shard),
                delay: SNOOZE,
            }),
        }
    }

    /// Tells the ledger of a failure, and the runtime what is to become of the order. The ledger hears of one that goes
    /// to quarantine by [`Worker::quarantined`].
    async fn failed(&self, job: &mut Job, order: &Order, failure: Failure) -> Outcome {
        let failure = self.dated(failure, first_failure(&job.message().headers));
        let outcome = failure.outcome(order.shard);
        let given_up = match &outcome {
            // The loop tries it again, as long as there are tries left.
            Outcome::Quarantine(invalid) if invalid.reason == Reason::UnexpectedAnswer => false,
            Outcome::Quarantine(_) => return outcome,
            Outcome::Discard { .. } => true,
            _ => false,
        };
        let fact = Fact::OrderFailed {
            stage: failure.step.stage(),
            target: order.shard.to_string(),
            step: failure.step.to_string(),
            error: failure.error,
            given_up,
        };
        job.send("receipts", receipt(&order.run, fact).to_message())
            .await;
        outcome
    }

    /// Says how long the order has been failing, and gives a sync up that fails for too long. With it no two failures
    /// in the history of a message are the same, so that the time of the first one stays in it.
    fn dated(&self, mut failure: Failure, first_ms: Option<i64>) -> Failure {
        let Some(first_ms) = first_ms else {
            return failure;
        };
        let failing = (now_ms() - first_ms).max(0) as u64 / 1000;
        let deadline = self.settings.sync_deadline_seconds;
        if failure.step == Step::Sync && failure.after == After::Retry && failing >= deadline {
            failure.after = After::Quarantine(Reason::TooManyRetries);
            failure.error = format!(
                "{}; {GIVEN_UP} {failing} s after the first failure (sync_deadline_seconds is {deadline})",
                failure.error
            );
        } else {
            failure.error = format!("{}; failing for {failing} s", failure.error);
        }
        failure
    }
}

/// Why the work on an order ended before it was carried out.
enum Ended {
    Failed(Failure),
    PutOff(&'static str),
}

impl Worker for DictRefresher {
    const RECEIPTS: &'static str = "receipts";

    /// The orders for the SERP nodes go out before the receipt, which names them; all of it goes out again when an
    /// order that was carried out comes again, and changes nothing then.
    async fn process(&self, job: &mut Job) -> Outcome {
        let order = match Order::from_message(job.message()) {
            Ok(order) => order,
            Err(invalid) => return invalid.into(),
        };
        if order.command != Command::RefreshDictionary {
            let what = format!(
                "it orders {:?}, which is not for this program",
                order.command
            );
            return Invalid::new(Reason::NotReadable, what).into();
        }
        let shard = match self.cluster.shard(order.shard) {
            Ok(shard) => shard,
            Err(invalid) => return invalid.into(),
        };
        let applied = match self.follow(job, &order, shard).await {
            Ok(applied) => applied,
            Err(outcome) => return outcome,
        };
        tracing::info!(
            run = %order.run,
            shard = order.shard,
            version = order.version,
            entries = applied.entries,
            "the dictionary is in place"
        );
        for node in &applied.nodes {
            let restart = Order {
                // A node that serves what its dictionary has is right, however late it is.
                expires_at_ms: i64::MAX,
                command: Command::RestartSerp { node: node.clone() },
                ..order.clone()
            };
            job.send("orders", restart.to_message()).await;
        }
        let fact = Fact::ShardApplied {
            shard: order.shard,
            version: order.version,
            entries: applied.entries,
            nodes: applied.nodes,
        };
        job.send("receipts", receipt(&order.run, fact).to_message())
            .await;
        self.app
            .stats
            .count("dictionaries", &[("status", "applied")], 1);
        Outcome::Done
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        self.app
            .stats
            .count("dictionaries", &[("status", "quarantined")], 1);
        let headers = &message.headers;
        let shard = match Order::from_message(message) {
            Ok(order) => Some(order.shard),
            Err(_) => headers.shard().ok(),
        };
        let step = Step::named_in(&why.detail);
        let fact = Fact::OrderFailed {
            stage: step.unwrap_or(Step::RefreshDict).stage(),
            target: shard.map_or_else(|| "unknown".to_owned(), |shard| shard.to_string()),
            step: step.map_or(why.reason.as_str(), Step::as_str).to_owned(),
            error: why.to_string(),
            given_up: true,
        };
        Some(receipt(&headers.run().ok()?, fact).to_message())
    }
}

/// When the order failed for the first time since it was last given up, in milliseconds since the epoch.
fn first_failure(headers: &Headers) -> Option<i64> {
    let history = headers.history();
    let since = history
        .iter()
        .rev()
        .take_while(|f| !f.what.contains(GIVEN_UP));
    since.map(|failure| failure.when_ms).min()
}
