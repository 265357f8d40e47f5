//! delete_old_dict and refresh_dict on one replica: the new dictionary, loaded and good, beside the live one.

use std::time::Duration;

use batch::Order;
use stores::clickhouse::{Error, Query, Replica};
use tokio::time::{Instant, sleep};

use crate::blueprint::Blueprint;
use crate::failure::{Failure, Step};
use crate::state::{Entry, Found, Mark, Status, drop_next};
use crate::{DictRefresherSettings, DictionarySettings};
use crate::{check, memory};

/// A dictionary of a few rows is loaded at once; one of a hundred million takes minutes, and is asked for at most
/// every two seconds.
const FIRST_POLL: Duration = Duration::from_millis(50);
const LAST_POLL: Duration = Duration::from_secs(2);

const TAKEN_AWAY: &str = "the new dictionary was taken away while it was loaded; is another order for this shard in \
     work, or another dict-refresher?";

/// What the preparation of a replica needs to know.
pub(crate) struct Preparation<'a> {
    pub order: &'a Order,
    pub dictionary: &'a DictionarySettings,
    pub settings: &'a DictRefresherSettings,
    pub blueprint: &'a Blueprint,
    pub replica: &'a Replica,
    /// The same server, asked with the patience that it takes to read a whole table.
    pub reader: &'a Replica,
    /// When the order is put off.
    pub hold: Instant,
}

/// Which of the two dictionaries is loaded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Loading {
    /// The one that is in place, which a server that was restarted has not loaded.
    Live,
    Next,
}

impl Preparation<'_> {
    /// Goes on from whatever an earlier try left, unless the replica's live dictionary is the order's already.
    pub async fn run(&self) -> Result<(), Failure> {
        let found = self.found(Step::DeleteOldDict).await?;
        found.not_newer_than(self.order, self.replica)?;
        if found.live_version() == Some(self.order.version) {
            return self.load(Loading::Live).await;
        }
        let begun = found.next_of(self.order).map(Entry::status);
        match begun.filter(|status| *status != Status::Failed) {
            Some(Status::NotLoaded) => self.guard(found.live.as_ref()).await?,
            Some(_) => {}
            None => {
                if found.next.is_some() {
                    self.drop_next(Step::DeleteOldDict).await?;
                }
                self.guard(found.live.as_ref()).await?;
                self.create().await?;
            }
        }
        self.load(Loading::Next).await?;
        self.check().await
    }

    async fn found(&self, step: Step) -> Result<Found, Failure> {
        let found = Found::on(self.replica, self.dictionary).await;
        found.map_err(|error| Failure::of(step, &error))
    }

    async fn drop_next(&self, step: Step) -> Result<(), Failure> {
        let dropped = drop_next(self.replica, self.dictionary).await;
        dropped.map_err(|error| Failure::of_dictionary(step, &error))
    }

    async fn guard(&self, live: Option<&Entry>) -> Result<(), Failure> {
        let bytes = live.map_or(0, |live| live.bytes);
        let guarded = memory::guard(self.replica, bytes, self.settings.memory_factor).await;
        guarded
            .map_err(|error| Failure::of(Step::RefreshDict, &error))?
            .map_err(|what| Failure::retry(Step::RefreshDict, format!("not loaded: {what}")))
    }

    async fn create(&self) -> Result<(), Failure> {
        let counted = check::count_keys(self.reader, self.blueprint, self.hold).await;
        let mark = Mark {
            run: self.order.run.clone(),
            version: self.order.version,
            expires_at_ms: self.order.expires_at_ms,
            keys: counted.map_err(|error| Failure::of(Step::ConfineShard, &error))?,
        };
        let created = self.replica.execute(&self.blueprint.create(&mark)).await;
        created.map_err(|error| Failure::of_dictionary(Step::RefreshDict, &error))?;
        Ok(())
    }

    /// Waits until it is loaded. The server loads in a thread of its own: a request that breaks off stops nothing.
    async fn load(&self, which: Loading) -> Result<(), Failure> {
        let failed = |what: String| {
            Failure::retry(
                Step::RefreshDict,
                format!("{}: {what}", self.replica.address()),
            )
        };
        let name = match which {
            Loading::Live => &self.blueprint.live,
            Loading::Next => &self.blueprint.next,
        };
        let reload = Query::new(format!("SYSTEM RELOAD DICTIONARY {name}"));
        let mut reload = std::pin::pin!(self.replica.execute(&reload));
        // What the statement answered, once it was needed and has.
        let mut answered: Option<Option<Error>> = None;
        let mut pause = FIRST_POLL;
        loop {
            let found = self.found(Step::RefreshDict).await?;
            let loading = match which {
                Loading::Live => found
                    .live
                    .filter(|l| l.version() == Some(self.order.version)),
                Loading::Next => found.next.filter(|next| next.is_of(self.order)),
            };
            let loading = loading.ok_or_else(|| failed(TAKEN_AWAY.to_owned()))?;
            match (loading.status(), &answered) {
                (Status::Loaded, _) => return Ok(()),
                (Status::Failed, _) => {
                    self.give_up(which).await?;
                    return Err(failed(format!(
                        "it cannot be loaded: {}",
                        loading.last_exception
                    )));
                }
                (Status::Loading, _)
                    if loading.loading_for > self.settings.load_timeout_seconds =>
                {
                    self.give_up(which).await?;
                    let limit = self.settings.load_timeout_seconds;
                    return Err(failed(format!("it was not loaded in {limit} s")));
                }
                (Status::NotLoaded, Some(Some(error))) => {
                    return Err(Failure::of_dictionary(Step::RefreshDict, error));
                }
                (Status::Loading, _) | (Status::NotLoaded, Some(None)) => sleep(pause).await,
                (Status::NotLoaded, None) => tokio::select! {
                    result = &mut reload => answered = Some(result.err()),
                    () = sleep(pause) => {}
                },
            }
            pause = (pause * 3 / 2).min(LAST_POLL);
        }
    }

    /// The server would load a new one again and again, in vain. What is in place stays, whatever is wrong with it.
    async fn give_up(&self, which: Loading) -> Result<(), Failure> {
        match which {
            Loading::Live => Ok(()),
            Loading::Next => self.drop_next(Step::RefreshDict).await,
        }
    }

    /// One that is not good is taken away, so that the next try begins anew.
    async fn check(&self) -> Result<(), Failure> {
        let found = self.found(Step::RefreshDict).await?;
        let next = found.next_of(self.order);
        let Some((next, mark)) = next.and_then(|next| Some((next, next.mark()?))) else {
            return Err(Failure::retry(
                Step::RefreshDict,
                format!("{}: {TAKEN_AWAY}", self.replica.address()),
            ));
        };
        let compared = check::compare(
            self.reader,
            self.blueprint,
            self.settings,
            (next, &mark),
            found.live.as_ref(),
            self.hold,
        );
        let compared = compared.await;
        let compared = compared.map_err(|e| Failure::of_dictionary(Step::RefreshDict, &e))?;
        if let Err(what) = compared {
            self.drop_next(Step::RefreshDict).await?;
            return Err(Failure::retry(Step::RefreshDict, what));
        }
        Ok(())
    }
}
