//! The bulk requests of one group to one index, sent again where it helps.

use std::time::Duration;

use batch::Reason;
use pipeline::Outcome;
use stores::Class;
use stores::elasticsearch::{Error, ItemResult, classify};

use crate::bulk_store::{BulkStore, RetryBudget, failed, missing};
use crate::encode::Bulk;
use crate::results::{IndexResult, RowStatus};

/// Delay of what was for a follower that is gone: by then the followers have been looked up again.
const FOLLOWER_GONE_DELAY: Duration = Duration::from_secs(60);
/// Bytes kept of the reason why Elasticsearch refuses a row: it may repeat the whole document.
const REASON_BYTES: usize = 1000;

/// Sends the documents of a group to one index.
pub(crate) struct BulkSender<'a> {
    store: &'a BulkStore,
    result: IndexResult,
    /// A follower may go at any time; a leader may not.
    is_leader: bool,
    retries: RetryBudget<'a>,
}

/// What is still to be sent.
struct Unsent {
    bulks: Vec<Bulk>,
    /// Where it has to wait: the outcome of its rows when the tries are used up.
    used_up: Option<Outcome>,
}

impl<'a> BulkSender<'a> {
    /// `result` has the rows that are to be sent as pending.
    pub fn new(store: &'a BulkStore, result: IndexResult, is_leader: bool) -> Self {
        let retries = RetryBudget::new(store, result.endpoint());
        Self {
            store,
            result,
            is_leader,
            retries,
        }
    }

    /// Sends `bulks` in their order, and again what has to be sent again. Rows without an answer stay pending.
    pub async fn send_all(mut self, bulks: &[Bulk]) -> IndexResult {
        let mut unsent: Vec<Bulk> = bulks.iter().rev().cloned().collect();
        while let Some(bulk) = unsent.pop() {
            match self.send(bulk).await {
                Ok(rest) => unsent.extend(rest.into_iter().rev()),
                Err(outcome) => {
                    self.result.give_up(outcome);
                    break;
                }
            }
        }
        self.result
    }

    /// Sends one request. Returns what is still to be sent; the error is the outcome of the pending rows.
    async fn send(&mut self, bulk: Bulk) -> Result<Vec<Bulk>, Outcome> {
        if !self.store.limit.allows(bulk.body.len())
            && let Some(halves) = bulk.halves()
        {
            return Ok(halves.into());
        }
        let permit = self.retries.acquire().await?;
        if permit.is_probe() && self.is_write_blocked().await {
            return Ok(vec![bulk]);
        }
        let unsent = match self.store.bulk(&self.result.index, &bulk).await {
            Ok(items) if items.len() == bulk.rows.len() => self.classify_items(&bulk, items)?,
            Ok(items) => {
                let (found, wanted) = (items.len(), bulk.rows.len());
                let error = format!("Elasticsearch answered for {found} of {wanted} documents");
                Unsent {
                    bulks: vec![bulk],
                    used_up: Some(Outcome::retry(error, self.result.endpoint())),
                }
            }
            Err(error) => self.classify_error(bulk, &error)?,
        };
        drop(permit);
        if let Some(outcome) = unsent.used_up {
            self.retries.wait(outcome).await?;
        }
        Ok(unsent.bulks)
    }

    /// Asks before the documents are sent: a probe with all of them would cost the network megabytes.
    async fn is_write_blocked(&self) -> bool {
        match self.store.client.write_block(&self.result.index).await {
            Ok(Some(block)) => {
                self.retries.pause(&format!("it has the block {block:?}"));
                true
            }
            // A user who may write need not be allowed to read the settings: the documents will tell.
            Ok(None) | Err(_) => false,
        }
    }

    /// Takes the answer to a request, item by item.
    fn classify_items(&mut self, bulk: &Bulk, items: Vec<ItemResult>) -> Result<Unsent, Outcome> {
        let (mut left, mut blocked, mut busy) = (Vec::new(), None, None);
        for (n, item) in items.into_iter().enumerate() {
            let row = bulk.rows[n];
            let is_missing = item.quarantine() == Some(Reason::MissingTarget);
            match item {
                ItemResult::Stored => self.result.set(row, RowStatus::Stored),
                ItemResult::Unchanged => self.result.set(row, RowStatus::Unchanged),
                ItemResult::Again { status, reason } => {
                    left.push(n);
                    busy.get_or_insert_with(|| format!("{reason} (status {status})"));
                }
                ItemResult::Blocked { reason } => {
                    left.push(n);
                    blocked.get_or_insert(reason);
                }
                ItemResult::Refused {
                    status,
                    kind,
                    reason,
                } => {
                    let why = shortened(format!("{reason} ({kind}, status {status})"));
                    if is_missing {
                        return Err(self.missing(&why));
                    }
                    self.result.refuse(row, why);
                }
            }
        }
        match &blocked {
            Some(why) => self.retries.pause(why),
            None => self.retries.resume(),
        }
        if left.len() < bulk.rows.len() {
            self.retries.reset();
        }
        let mut bulks = Vec::new();
        if !left.is_empty() {
            let stats = &self.store.app.stats;
            stats.count("resent-rows", &[], left.len() as u64);
            bulks.push(bulk.only(&left));
        }
        // What is blocked waits for the circuit breaker.
        let busy = busy.filter(|_| blocked.is_none());
        Ok(Unsent {
            bulks,
            used_up: busy.map(|error| Outcome::retry(error, self.result.endpoint())),
        })
    }

    /// Takes the failure of a whole request.
    fn classify_error(&mut self, bulk: Bulk, error: &Error) -> Result<Unsent, Outcome> {
        let mut used_up = None;
        match classify(error) {
            Class::Refused => {
                self.retries.resume();
                let bulks = self.halve(&bulk, error);
                return Ok(Unsent { bulks, used_up });
            }
            Class::TooLarge => {
                if bulk.rows.len() > 1 {
                    self.store.limit.lower(bulk.body.len(), error);
                }
                let bulks = self.halve(&bulk, error);
                return Ok(Unsent { bulks, used_up });
            }
            Class::Pause => self.retries.pause(&error.to_string()),
            Class::Quarantine(Reason::MissingTarget) => {
                return Err(self.missing(&error.to_string()));
            }
            Class::Quarantine(Reason::UnexpectedAnswer) | Class::RetryNow | Class::RetryLater => {
                used_up = Some(failed(error, &self.result.index));
            }
            Class::Quarantine(_) => return Err(failed(error, &self.result.index)),
        }
        let bulks = vec![bulk];
        Ok(Unsent { bulks, used_up })
    }

    /// What is to be sent in place of a bulk that was refused: its halves, or nothing for a row that is refused alone.
    fn halve(&mut self, bulk: &Bulk, error: &Error) -> Vec<Bulk> {
        let halves = bulk.halves();
        if halves.is_none() {
            let why = shortened(error.to_string());
            self.result.refuse(bulk.rows[0], why);
        }
        halves.into_iter().flatten().collect()
    }

    fn missing(&self, why: &str) -> Outcome {
        let index = &self.result.index;
        if self.is_leader {
            return missing(index, why);
        }
        // No failure: the next look-up will not find it any more.
        Outcome::Snooze {
            why: format!("follower {index} is gone: {why}"),
            delay: FOLLOWER_GONE_DELAY,
        }
    }
}

fn shortened(mut text: String) -> String {
    batch::truncate(&mut text, REASON_BYTES);
    text
}
