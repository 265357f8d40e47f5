//! A refresh of one shard: all of its replicas get the new dictionary, or none does.

use batch::{Fact, Order};
use futures_util::future::{join_all, try_join_all};
use pipeline::now_ms;
use stores::clickhouse::{Error, Replica, Shard};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::failure::{RefreshFailure, RefreshStep};
use crate::replica::ReplicaRefresh;
use crate::spec::DictionarySpec;
use crate::state::{ReplicaDictionaries, drop_next, replicas_by_address};
use crate::worker::DictRefresher;

pub(crate) struct ShardRefresh<'a> {
    pub refresher: &'a DictRefresher,
    pub order: &'a Order,
    replicas: Vec<&'a Replica>,
    /// The same servers, which may be silent for as long as a sync, or a read of a whole table, takes.
    pub slow_shard: &'a Shard,
    pub facts: UnboundedSender<Fact>,
    /// When the order is put off.
    deadline: Instant,
}

impl<'a> ShardRefresh<'a> {
    pub fn new(
        refresher: &'a DictRefresher,
        order: &'a Order,
        shard: &'a Shard,
        facts: UnboundedSender<Fact>,
        deadline: Instant,
    ) -> Self {
        let slow_shard = refresher.slow_cluster.shard(order.shard);
        Self {
            refresher,
            order,
            replicas: replicas_by_address(shard),
            slow_shard: slow_shard.expect("both clusters are of the same servers"),
            facts,
            deadline,
        }
    }

    /// The whole of a refresh, from wherever an earlier try left it; returns the entries of the dictionary, of the
    /// smallest where the replicas differ. It may be dropped at any point, and begun again.
    pub async fn run(self) -> Result<u64, RefreshFailure> {
        let (run, shard) = (&self.order.run, self.order.shard);
        let _lock = self.refresher.locks[shard as usize].lock().await;

        let found = self.sync().await?;

        let readers = replicas_by_address(self.slow_shard);
        let refreshes = self.replicas.iter().zip(readers);
        let refreshes = refreshes.map(|(replica, reader)| self.replica_refresh(replica, reader));
        let refreshes = try_join_all(refreshes).await?;

        let started = Instant::now();
        let loads = refreshes.iter().zip(&found);
        try_join_all(loads.map(|(refresh, found)| refresh.load_and_check(found))).await?;
        let stats = &self.refresher.app.stats;
        stats.time("load", &[], started.elapsed());
        tracing::info!(%run, shard, "the new dictionary is loaded and good on every replica");

        // From here on all replicas are exchanged, or the shard would serve two versions.
        self.check_due(true).await?;
        // Each to its end, whatever becomes of the others: a server may still execute an exchange whose request was
        // dropped.
        let entries = join_all(refreshes.iter().map(ReplicaRefresh::apply)).await;
        let entries: Vec<u64> = entries.into_iter().collect::<Result<_, _>>()?;
        Ok(entries.into_iter().min().unwrap_or(0))
    }

    /// Brings the replicas into sync, unless all of them got so far with the order that they were; returns what they
    /// have then.
    async fn sync(&self) -> Result<Vec<ReplicaDictionaries>, RefreshFailure> {
        let (run, shard) = (&self.order.run, self.order.shard);
        let found = self.inspect().await;
        let has_begun = |found: &ReplicaDictionaries| found.has_begun(self.order);
        let synced = matches!(&found, Ok(found) if found.iter().all(has_begun));
        self.check_due(synced).await?;
        match found {
            Ok(found) if synced => {
                // The receipt of an earlier try may not have been sent.
                self.report_synced();
                return Ok(found);
            }
            Err(failure) if failure.step == RefreshStep::Stale => return Err(failure),
            // A replica that does not answer is found late.
            Ok(_) | Err(_) => {}
        }
        let started = Instant::now();
        self.sync_replicas().await?;
        let stats = &self.refresher.app.stats;
        stats.time("sync", &[], started.elapsed());
        tracing::info!(%run, shard, "the replicas are in sync");
        // That may have taken an hour.
        self.check_due(true).await?;
        self.inspect().await
    }

    pub fn report_synced(&self) {
        let (shard, replicas) = (self.order.shard, self.replicas.len() as u32);
        let _ = self.facts.send(Fact::ShardSynced { shard, replicas });
    }

    /// What each replica has; fails when that is newer than the order on one of them.
    async fn inspect(&self) -> Result<Vec<ReplicaDictionaries>, RefreshFailure> {
        let (settings, step) = (&self.refresher.dictionary, RefreshStep::DeleteOldDict);
        let found = self
            .replicas
            .iter()
            .map(|replica| ReplicaDictionaries::inspect_for(self.order, replica, settings, step));
        try_join_all(found).await
    }

    /// Fails when the run has given the order up, and drops what was loaded for it: there is no further try. A server
    /// that cannot be asked keeps it until the next order for the shard. A shard of two versions is brought to one
    /// however late it is: what is missing was loaded in time. `synced`: whether all replicas are known to have been
    /// in sync for the order.
    async fn check_due(&self, synced: bool) -> Result<(), RefreshFailure> {
        let (order, settings) = (self.order, &self.refresher.dictionary);
        if now_ms() < order.expires_at_ms {
            return Ok(());
        }
        let inspect = |replica: &&'a Replica| ReplicaDictionaries::inspect(replica, settings);
        let found = join_all(self.replicas.iter().map(inspect)).await;
        let known = || found.iter().flatten();
        let begun = known().filter(|found| found.has_begun(order)).count();
        if begun == found.len() && known().any(|found| found.live_for(order).is_some()) {
            return Ok(());
        }
        join_all(self.replicas.iter().zip(found).map(async |(replica, found)| {
            let dropped = async {
                if found?.next_for(order).is_some() {
                    drop_next(replica, settings).await?;
                }
                Ok::<(), Error>(())
            };
            if let Err(error) = dropped.await {
                let replica = replica.address();
                tracing::warn!(replica, %error, "what was loaded for an expired order stays");
            }
        }))
        .await;
        Err(RefreshFailure::expired(order.expires_at_ms, synced))
    }

    async fn replica_refresh(
        &'a self,
        replica: &'a Replica,
        reader: &'a Replica,
    ) -> Result<ReplicaRefresh<'a>, RefreshFailure> {
        let (refresher, order) = (self.refresher, self.order);
        let (target, dictionary) = (&refresher.target, &refresher.dictionary);
        let shards = refresher.cluster.shard_count();
        Ok(ReplicaRefresh {
            refresher,
            order,
            spec: DictionarySpec::load(replica, target, dictionary, order.shard, shards).await?,
            replica,
            reader,
            deadline: self.deadline,
        })
    }
}
