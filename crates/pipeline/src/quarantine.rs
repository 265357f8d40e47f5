//! Inspecting quarantine without changing it.
//!
//! The messages are consumed like any others and never acknowledged: when the reader ends, in whatever way, the
//! broker takes them back. Each inspection counts as a delivery, so a quarantine queue has a delivery limit that is out
//! of reach.
//!
//! A quorum queue delivers first what was requeued, and puts what is requeued again behind all that was requeued
//! earlier: an inspection of a part of it would move that part. So an inspection continues until it has everything
//! that was ever requeued, which the broker's count of deliveries tells, and requeues all of it in its order. Only an
//! inspection that is killed, or two at once, can change the order.

use std::time::Duration;

use batch::{BatchId, Failure, Headers, Message, Reason, RunId, TaskHash, header};
use bytes::Bytes;
use serde::Serialize;

use crate::broker::{Broker, BrokerError, Delivery, Session};
use crate::names;

/// Messages taken at once beyond the limit of an inspection: few, for each inspection adds as many to those that were
/// requeued.
const BEYOND: u16 = 256;

/// A pause after which no more messages are expected, though the queue should have more: another reader has them.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The broker's own word for a message that was delivered too often.
const DELIVERY_LIMIT: &str = "delivery_limit";

/// A message in quarantine. Headers that are absent or unusable are `None`; [`Self::headers`] has them as
/// they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Quarantined {
    /// Position in the queue, from 1: the same at every inspection until a message is taken out.
    pub position: u64,
    /// The program that has it in quarantine.
    pub program: String,
    pub reason: Option<Reason>,
    pub run: Option<RunId>,
    pub task: Option<TaskHash>,
    /// Of a batch, and of the rows split off from one.
    #[serde(serialize_with = "as_text")]
    pub batch: Option<BatchId>,
    pub rows: Option<u32>,
    /// How often processing failed.
    pub failures: u32,
    /// What failed, oldest first.
    pub history: Vec<Failure>,
    /// Why the broker itself moved it here (`delivery_limit`), if it did.
    pub death: Option<String>,
    pub headers: Headers,
    #[serde(skip)]
    pub body: Bytes,
}

impl Quarantined {
    fn new(program: &str, position: u64, message: Message, death: Option<String>) -> Self {
        let Message { headers, body } = message;
        // The broker's reason is the later one: a program that quarantines a message publishes a new copy.
        let reason = match death.as_deref() {
            Some(DELIVERY_LIMIT) => Some(Reason::DeliveryLimit),
            _ => headers.text(header::REASON).and_then(Reason::parse),
        };
        Self {
            position,
            program: program.to_owned(),
            reason,
            run: headers.run().ok(),
            task: headers.text(header::TASK).and_then(|t| t.parse().ok()),
            batch: headers.batch_id().ok(),
            rows: headers.rows().ok(),
            failures: headers.failures(),
            history: headers.history(),
            death,
            headers,
            body,
        }
    }

    /// When the first failure in its history happened, in milliseconds since the epoch.
    pub fn first_failed_ms(&self) -> Option<i64> {
        self.history.iter().map(Failure::first_ms).min()
    }

    /// When the last failure in its history happened, in milliseconds since the epoch.
    pub fn last_failed_ms(&self) -> Option<i64> {
        self.history.iter().map(|failure| failure.when_ms).max()
    }
}

/// What an inspection found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection<T> {
    /// What the caller kept, in the order of the queue.
    pub kept: Vec<T>,
    /// How many messages were inspected, from the head of the queue.
    pub seen: u64,
    /// How many messages were ready in the queue when the inspection began. More than `seen` when there are more than
    /// the limit, or another reader has some.
    pub ready: u64,
}

/// Inspects the first `limit` messages in the quarantine of `program`. `keep` is given each and returns what to keep
/// of it: bodies can be large, so what is not needed should be dropped.
///
/// Fails with [`BrokerError::NotFound`] when the program has no quarantine.
pub async fn inspect<T>(
    broker: &Broker,
    program: &str,
    limit: u16,
    keep: impl FnMut(Quarantined) -> Option<T>,
) -> Result<Inspection<T>, BrokerError> {
    let session = broker.connect("fleet-quarantine").await?;
    let inspection = inspect_in(&session, program, limit, keep).await;
    session.close().await;
    inspection
}

async fn inspect_in<T>(
    session: &Session,
    program: &str,
    limit: u16,
    mut keep: impl FnMut(Quarantined) -> Option<T>,
) -> Result<Inspection<T>, BrokerError> {
    let queue = names::quarantine_queue(program);
    let ready = session.queue_length(&queue).await?;
    let wanted = ready.min(u64::from(limit));
    let mut inspection = Inspection {
        kept: Vec::new(),
        seen: 0,
        ready,
    };
    // In the order of their messages.
    let mut subscriptions = Vec::new();
    let (mut taken, mut next) = (0, wanted as u16);
    while next > 0 {
        let mut subscription = session.subscribe(&queue, next).await?;
        let mut was_requeued = false;
        for _ in 0..next {
            let received = tokio::time::timeout(IDLE_TIMEOUT, subscription.deliveries.recv());
            let Ok(received) = received.await else {
                was_requeued = false;
                break;
            };
            let Some(delivery) = received else {
                return Err(BrokerError::Object {
                    object: "queue",
                    name: queue,
                    detail: session.lost().await,
                });
            };
            taken += 1;
            was_requeued = delivery.delivery_count > 0;
            if taken <= wanted {
                inspection.seen = taken;
                let Delivery { message, death, .. } = delivery;
                let quarantined = Quarantined::new(program, taken, message, death);
                inspection.kept.extend(keep(quarantined));
            }
        }
        subscriptions.push(subscription);
        let more = (ready - taken).min(u64::from(BEYOND)) as u16;
        next = if was_requeued { more } else { 0 };
    }
    for subscription in subscriptions {
        subscription.close().await;
    }
    Ok(inspection)
}

fn as_text<S: serde::Serializer>(id: &Option<BatchId>, serializer: S) -> Result<S::Ok, S::Error> {
    match id {
        Some(id) => serializer.collect_str(id),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quarantined(headers: Headers, death: Option<&str>) -> Quarantined {
        let message = Message::new(headers, "body");
        Quarantined::new("es-writer", 1, message, death.map(str::to_owned))
    }

    #[test]
    fn what_a_program_wrote_is_read_back() {
        let id = BatchId {
            task: TaskHash::new([b"t".as_slice()]),
            attempt: 2,
            sequence: 3,
        };
        let mut headers = Headers::for_batch(&"r-1".parse().unwrap(), id, 0, 17);
        headers.set(header::REASON, Reason::RefusedRows.as_str());
        for (when_ms, what) in [(20, "refused"), (10, "timed out")] {
            headers.add_failure(Failure {
                who: "es-writer".into(),
                host: "a".into(),
                when_ms,
                what: what.into(),
                r#where: String::new(),
                times: 1,
                first_ms: None,
            });
        }
        let read = quarantined(headers, None);
        assert_eq!(read.reason, Some(Reason::RefusedRows));
        assert_eq!((read.batch, read.task), (Some(id), Some(id.task)));
        assert_eq!((read.rows, read.failures), (Some(17), 2));
        assert_eq!(read.first_failed_ms(), Some(10));
        assert_eq!(read.last_failed_ms(), Some(20));
    }

    #[test]
    fn headers_that_cannot_be_read_are_absent_and_refuse_nothing() {
        let mut headers = Headers::new();
        headers.set(header::RUN, "\u{1b}[31m");
        headers.set(header::ROWS, -4);
        headers.set(header::HISTORY, "{");
        headers.set(header::REASON, "of-a-later-release");
        let read = quarantined(headers.clone(), None);
        assert_eq!(read.first_failed_ms(), None);
        assert_eq!((read.run, read.rows, read.reason), (None, None, None));
        assert_eq!(read.headers, headers);
    }

    #[test]
    fn a_message_that_the_broker_gave_up_has_that_for_its_reason() {
        let mut headers = Headers::new();
        headers.set(header::REASON, Reason::RefusedRows.as_str());
        let read = quarantined(headers, Some("delivery_limit"));
        assert_eq!(read.reason, Some(Reason::DeliveryLimit));
        assert_eq!(quarantined(Headers::new(), Some("expired")).reason, None);
    }
}
