//! A refresh on one replica: the new dictionary is loaded next to the live one, checked, and exchanged with it.

use std::time::Duration;

use batch::Order;
use stores::clickhouse::{Error, Query, Replica};
use tokio::time::{Instant, sleep};

use crate::DictionarySettings;
use crate::failure::{RefreshFailure, RefreshStep};
use crate::spec::DictionarySpec;
use crate::state::{
    DictionaryRow, DictionaryTag, LoadStatus, ReplicaDictionaries, drop_next, exchange,
};
use crate::worker::DictRefresher;

/// A dictionary of a few rows is loaded at once; one of a hundred million takes minutes, and is asked for at most
/// every two seconds.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(50);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(2);

const DROPPED: &str = "the new dictionary was dropped while it was loaded; is another order for this shard in \
     flight, or another dict-refresher running?";

pub(crate) struct ReplicaRefresh<'a> {
    pub refresher: &'a DictRefresher,
    pub order: &'a Order,
    pub spec: DictionarySpec,
    pub replica: &'a Replica,
    /// The same server, which may be silent for as long as it takes to read a whole table.
    pub reader: &'a Replica,
    /// When the order is put off.
    pub deadline: Instant,
}

/// Which of the two dictionaries is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loading {
    /// The one that is read, which a server that was restarted has not loaded.
    Live,
    Next,
}

impl ReplicaRefresh<'_> {
    /// Loads the new dictionary, continuing with what an earlier try left, which is `found`; then checks it. A live
    /// dictionary that is the order's already is only loaded.
    pub async fn load_and_check(&self, found: &ReplicaDictionaries) -> Result<(), RefreshFailure> {
        if found.live_for(self.order).is_some() {
            return self.load(Loading::Live).await.map(drop);
        }
        match found.next_for(self.order).map(DictionaryRow::status) {
            Some(LoadStatus::Loaded | LoadStatus::Loading) => {}
            Some(LoadStatus::NotLoaded) => self.check_memory(found).await?,
            Some(LoadStatus::Failed) | None => {
                if found.next.is_some() {
                    self.drop_next(RefreshStep::DeleteOldDict).await?;
                }
                self.check_memory(found).await?;
                self.create().await?;
            }
        }
        let loaded = self.load(Loading::Next).await?;
        self.check(&loaded).await
    }

    /// Makes the new dictionary the live one, unless it is already; returns its entries. The old one stays as the next
    /// one, until the next refresh.
    pub async fn apply(&self) -> Result<u64, RefreshFailure> {
        let failed = |what| self.failed(RefreshStep::ApplyDict, what);
        let found = self.inspect(RefreshStep::ApplyDict).await?;
        if let Some(live) = found.live_for(self.order) {
            if live.status() == LoadStatus::Loaded {
                return Ok(live.entries);
            }
            return Err(failed("the new dictionary is live and not loaded any more"));
        }
        let next = found.next_for(self.order).map(DictionaryRow::status);
        if next != Some(LoadStatus::Loaded) {
            return Err(failed("the new dictionary is not loaded any more"));
        }
        let exchanged = exchange(self.replica, self.dictionary(), found.live.is_some()).await;
        exchanged.map_err(|e| RefreshFailure::for_dictionary(RefreshStep::ApplyDict, &e))?;
        // An exchange is undone by another one, such as that of an earlier try which the server still had to execute.
        let found = self.inspect(RefreshStep::ApplyDict).await?;
        let live = found.live_for(self.order).map(|live| live.entries);
        live.ok_or_else(|| failed("the new dictionary was exchanged and is not live"))
    }

    fn dictionary(&self) -> &DictionarySettings {
        &self.refresher.dictionary
    }

    /// What the replica has now; fails when that is newer than the order.
    async fn inspect(&self, step: RefreshStep) -> Result<ReplicaDictionaries, RefreshFailure> {
        ReplicaDictionaries::inspect_for(self.order, self.replica, self.dictionary(), step).await
    }

    async fn drop_next(&self, step: RefreshStep) -> Result<(), RefreshFailure> {
        let dropped = drop_next(self.replica, self.dictionary()).await;
        dropped.map_err(|error| RefreshFailure::for_dictionary(step, &error))
    }

    async fn create(&self) -> Result<(), RefreshFailure> {
        let keys = self.count_keys().await;
        let keys =
            keys.map_err(|e| RefreshFailure::for_statement(RefreshStep::ConfineShard, &e))?;
        let tag = DictionaryTag {
            run: self.order.run.clone(),
            version: self.order.version,
            expires_at_ms: self.order.expires_at_ms,
            keys,
        };
        let created = self.replica.execute(&self.spec.create(&tag)).await;
        let failed = |e| RefreshFailure::for_dictionary(RefreshStep::RefreshDict, &e);
        created.map(drop).map_err(failed)
    }

    /// Waits until it is loaded; returns what the replica has then. The server loads in a thread of its own: a request
    /// that breaks off stops nothing.
    async fn load(&self, which: Loading) -> Result<ReplicaDictionaries, RefreshFailure> {
        let name = match which {
            Loading::Live => self.dictionary().live(),
            Loading::Next => self.dictionary().next(),
        };
        let reload = Query::new(format!("SYSTEM RELOAD DICTIONARY {name}"));
        let mut reload = std::pin::pin!(self.replica.execute(&reload));
        // Sent only when the server does not load by itself.
        let mut reloaded: Option<Result<(), Error>> = None;
        let mut interval = MIN_POLL_INTERVAL;
        loop {
            let found = self.inspect(RefreshStep::RefreshDict).await?;
            let loading = match which {
                Loading::Live => found.live_for(self.order),
                Loading::Next => found.next_for(self.order),
            };
            let loading = loading.ok_or_else(|| self.failed(RefreshStep::RefreshDict, DROPPED))?;
            let limit = self.refresher.settings.load_timeout_seconds;
            match (loading.status(), &reloaded) {
                (LoadStatus::Loaded, _) => return Ok(found),
                (LoadStatus::Failed, _) => {
                    let why = format!("it cannot be loaded: {}", loading.last_exception);
                    return Err(self.reject(which, why).await);
                }
                (LoadStatus::Loading, _) if loading.loading_for > limit => {
                    let why = format!("it was not loaded in {limit} s");
                    return Err(self.reject(which, why).await);
                }
                (LoadStatus::NotLoaded, Some(Err(error))) => {
                    let step = RefreshStep::RefreshDict;
                    return Err(RefreshFailure::for_dictionary(step, error));
                }
                (LoadStatus::Loading, _) | (LoadStatus::NotLoaded, Some(Ok(()))) => {
                    sleep(interval).await;
                }
                (LoadStatus::NotLoaded, None) => tokio::select! {
                    result = &mut reload => reloaded = Some(result.map(drop)),
                    () = sleep(interval) => {}
                },
            }
            interval = (interval * 3 / 2).min(MAX_POLL_INTERVAL);
        }
    }

    /// Compares the new dictionary of `loaded` with the table and with the live one. One that is not good is dropped, so
    /// that the next try begins from the start.
    async fn check(&self, loaded: &ReplicaDictionaries) -> Result<(), RefreshFailure> {
        let next = loaded.next_for(self.order);
        let Some((next, tag)) = next.and_then(|next| Some((next, next.tag()?))) else {
            return Err(self.failed(RefreshStep::RefreshDict, DROPPED));
        };
        let live_entries = loaded.live.as_ref().map_or(0, |live| live.entries);
        match self.difference(next, &tag, live_entries).await {
            Ok(None) => Ok(()),
            Ok(Some(what)) => Err(self.reject(Loading::Next, what).await),
            Err(error) => Err(RefreshFailure::for_dictionary(
                RefreshStep::RefreshDict,
                &error,
            )),
        }
    }

    /// The failure of a dictionary that is not good. The server would try to load a new one again and again, so it is
    /// dropped; the live one stays, whatever is wrong with it.
    async fn reject(&self, which: Loading, why: String) -> RefreshFailure {
        if which == Loading::Next
            && let Err(failure) = self.drop_next(RefreshStep::RefreshDict).await
        {
            return failure;
        }
        self.failed(RefreshStep::RefreshDict, &why)
    }

    fn failed(&self, step: RefreshStep, what: &str) -> RefreshFailure {
        RefreshFailure::retry(step, format!("{}: {what}", self.replica.address()))
    }
}
