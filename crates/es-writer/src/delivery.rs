//! The bulk requests of one group to one index, with all that may come in their way.

use std::time::Duration;

use backon::ExponentialBackoff;
use batch::Reason;
use pipeline::Outcome;
use stores::elasticsearch::{Error, ItemVerdict, classify};
use stores::{Class, Permit};
use tokio::time::Instant;

use crate::encode::Bulk;
use crate::judge::{Answers, Standing};
use crate::sink::{Sink, failed, missing};

/// What is put off while an index takes no writes comes again after this: the first retry delay, so that it
/// is soon there when the index takes writes again.
const SNOOZE: Duration = Duration::from_secs(10);
/// What was for a follower that is gone comes again after this: when the followers have been looked up anew.
const LOOKED_UP_ANEW: Duration = Duration::from_secs(60);
/// Bytes kept of what Elasticsearch says of a row: it may repeat the whole document.
const REASON_BYTES: usize = 1000;

/// One index at work. Rows without an answer stay pending in its answers.
pub(crate) struct Delivery<'a> {
    sink: &'a Sink,
    index: &'a str,
    /// A follower may go at any time; a leader may not.
    is_leader: bool,
    answers: Answers,
    patience: Patience<'a>,
    place: String,
}

impl<'a> Delivery<'a> {
    pub fn new(sink: &'a Sink, index: &'a str, is_leader: bool, answers: Answers) -> Self {
        let place = format!("index {index}");
        Self {
            sink,
            index,
            is_leader,
            answers,
            patience: Patience::new(sink, &place),
            place,
        }
    }

    /// Sends `bulks` in their order, and again what has to be sent again.
    pub async fn run(mut self, bulks: &[Bulk]) -> Answers {
        let mut left: Vec<Bulk> = bulks.iter().rev().cloned().collect();
        while let Some(bulk) = left.pop() {
            match self.send(bulk).await {
                Ok(rest) => left.extend(rest.into_iter().rev()),
                Err(outcome) => {
                    self.answers.give_up(outcome);
                    break;
                }
            }
        }
        self.answers
    }

    /// Sends one request; answers with what is still to be sent, or with what is to become of the pending rows.
    async fn send(&mut self, bulk: Bulk) -> Result<Vec<Bulk>, Outcome> {
        let permit = self.patience.acquire().await?;
        if permit.is_probe() && self.is_write_blocked().await {
            return Ok(vec![bulk]);
        }
        let rest = match self.sink.bulk(self.index, &bulk).await {
            Ok(items) if items.len() == bulk.rows.len() => self.take(bulk, items)?,
            Ok(items) => {
                let (found, wanted) = (items.len(), bulk.rows.len());
                let error = format!("Elasticsearch answered for {found} of {wanted} documents");
                Rest::again(bulk, error)
            }
            Err(error) => self.judge(bulk, &error)?,
        };
        drop(permit);
        if let Some(error) = rest.again {
            let place = &self.place;
            self.patience.wait(|| error.outcome(place)).await?;
        }
        Ok(rest.bulks)
    }

    /// Asks before the documents are sent: a probe with all of them would cost the network megabytes.
    async fn is_write_blocked(&self) -> bool {
        match self.sink.client.write_block(self.index).await {
            Ok(Some(block)) => {
                let why = format!("it has the block {block:?}");
                self.sink.breakers.trip(&self.place, &why);
                true
            }
            // Who may write need not be allowed to see the settings: the documents will tell.
            Ok(None) | Err(_) => false,
        }
    }

    /// Judges a request item by item.
    fn take(&mut self, bulk: Bulk, items: Vec<ItemVerdict>) -> Result<Rest, Outcome> {
        let (mut left, mut blocked, mut again) = (Vec::new(), None, None);
        for (place, verdict) in items.into_iter().enumerate() {
            let row = bulk.rows[place];
            match verdict {
                ItemVerdict::Stored => self.answers.set(row, Standing::Stored),
                ItemVerdict::Unchanged => self.answers.set(row, Standing::Unchanged),
                ItemVerdict::Again { status, reason } => {
                    left.push(place);
                    again.get_or_insert_with(|| format!("{reason} (status {status})"));
                }
                ItemVerdict::Blocked { reason } => {
                    left.push(place);
                    blocked.get_or_insert(reason);
                }
                refused if refused.quarantine() == Some(Reason::MissingTarget) => {
                    return Err(self.missing(&text_of(&refused)));
                }
                refused => self.answers.refuse(row, text_of(&refused)),
            }
        }
        match &blocked {
            Some(why) => self.sink.breakers.trip(&self.place, why),
            None => self.sink.breakers.reset(&self.place),
        }
        if left.len() < bulk.rows.len() {
            self.patience.renew();
        }
        let count = left.len() as u64;
        if count > 0 {
            self.sink.app.stats.count("resent-rows", &[], count);
        }
        Ok(Rest {
            bulks: (count > 0).then(|| bulk.only(&left)).into_iter().collect(),
            // What is blocked waits at the circuit breaker.
            again: again.filter(|_| blocked.is_none()).map(Again::Busy),
        })
    }

    /// Judges a request that failed as a whole.
    fn judge(&mut self, bulk: Bulk, error: &Error) -> Result<Rest, Outcome> {
        match classify(error) {
            Class::Refused => {
                self.sink.breakers.reset(&self.place);
                let halves = bulk.halves().map(Vec::from);
                if halves.is_none() {
                    self.answers
                        .refuse(bulk.rows[0], shortened(error.to_string()));
                }
                Ok(Rest {
                    bulks: halves.unwrap_or_default(),
                    again: None,
                })
            }
            Class::Pause => {
                self.sink.breakers.trip(&self.place, &error.to_string());
                Ok(Rest {
                    bulks: vec![bulk],
                    again: None,
                })
            }
            Class::Quarantine(Reason::MissingTarget) => Err(self.missing(&error.to_string())),
            Class::Quarantine(Reason::UnexpectedAnswer) | Class::RetryNow | Class::RetryLater => {
                Ok(Rest {
                    bulks: vec![bulk],
                    again: Some(Again::Failed(failed(error, self.index))),
                })
            }
            Class::Quarantine(_) => Err(failed(error, self.index)),
        }
    }

    fn missing(&self, why: &str) -> Outcome {
        if self.is_leader {
            return missing(self.index, why);
        }
        // Nobody's fault: the next look-up will not find it any more.
        Outcome::Snooze {
            why: format!("follower {} is gone: {why}", self.index),
            delay: LOOKED_UP_ANEW,
        }
    }
}

/// What is still to be sent, and what for if it must wait.
struct Rest {
    bulks: Vec<Bulk>,
    again: Option<Again>,
}

enum Again {
    /// Elasticsearch has no room for the rows.
    Busy(String),
    /// The request failed.
    Failed(Outcome),
}

impl Rest {
    fn again(bulk: Bulk, error: String) -> Self {
        Self {
            bulks: vec![bulk],
            again: Some(Again::Busy(error)),
        }
    }
}

impl Again {
    /// What becomes of the rows when waiting brings nothing.
    fn outcome(self, place: &str) -> Outcome {
        match self {
            Self::Busy(error) => Outcome::retry(error, place),
            Self::Failed(outcome) => outcome,
        }
    }
}

/// What Elasticsearch says of a row that it refused.
fn text_of(verdict: &ItemVerdict) -> String {
    match verdict {
        ItemVerdict::Refused {
            status,
            kind,
            reason,
        } => shortened(format!("{reason} ({kind}, status {status})")),
        other => format!("{other:?}"),
    }
}

fn shortened(mut text: String) -> String {
    if text.len() > REASON_BYTES {
        let end = (0..=REASON_BYTES)
            .rev()
            .find(|at| text.is_char_boundary(*at));
        text.truncate(end.unwrap_or(0));
        text.push('…');
    }
    text
}

/// How long requests to one place are tried.
pub(crate) struct Patience<'a> {
    sink: &'a Sink,
    place: String,
    pauses: ExponentialBackoff,
    /// Since when its circuit breaker is tripped.
    tripped_since: Option<Instant>,
}

impl<'a> Patience<'a> {
    pub fn new(sink: &'a Sink, place: &str) -> Self {
        Self {
            sink,
            place: place.to_owned(),
            pauses: sink.settings.pauses(),
            tripped_since: None,
        }
    }

    /// Waits at the circuit breaker of the place.
    pub async fn acquire(&mut self) -> Result<Permit, Outcome> {
        let permit = self
            .sink
            .breakers
            .acquire(&self.place, &mut self.tripped_since)
            .await;
        permit.map_err(|why| Outcome::Snooze { why, delay: SNOOZE })
    }

    /// Pauses before another try; the error is what is to happen when the tries are used up, or that the
    /// program is to end.
    pub async fn wait(&mut self, used_up: impl FnOnce() -> Outcome) -> Result<(), Outcome> {
        let Some(pause) = self.pauses.next() else {
            return Err(used_up());
        };
        tokio::select! {
            biased;
            () = self.sink.app.shutdown.triggered() => Err(Outcome::Snooze {
                why: format!("the program ends while {} is busy", self.place),
                delay: Duration::ZERO,
            }),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// A try brought something: the tries begin anew.
    pub fn renew(&mut self) {
        self.pauses = self.sink.settings.pauses();
    }
}
