use std::time::Duration;

use batch::{Message, Reason, RunId, header};
use pipeline::broker::{Acknowledgement, BrokerError, Confirm, Publication, Session};
use pipeline::names;

/// Messages in hand at once.
const PREFETCH: u16 = 100;
/// The broker hands out what a queue holds within moments.
const QUIET: Duration = Duration::from_secs(10);

/// Gives the batches of a rejected run that was approved back to the queue where batches are held: every message of
/// the run that is in `program`'s quarantine for [`Reason::Rejected`]. All others go to the end of the quarantine,
/// one after the other, and so keep their order. Cut off, it leaves each message in one of the two queues; a copy may
/// be in both, which counts once. Answers with how many there were.
pub(crate) async fn replay(
    session: &Session,
    program: &str,
    run: &RunId,
) -> Result<u64, BrokerError> {
    let quarantine = names::quarantine_queue(program);
    let length = session.queue_length(&quarantine).await?;
    if length == 0 {
        return Ok(0);
    }
    let mut subscription = session.subscribe(&quarantine, PREFETCH).await?;
    let mut replayed = 0;
    for _ in 0..length {
        let received = tokio::time::timeout(QUIET, subscription.deliveries.recv());
        let Ok(Some(delivery)) = received.await else {
            break;
        };
        let is_of_run = is_of(&delivery.message, run);
        let publication = match is_of_run {
            true => Publication::to_queue(names::input_queue(program), cleared(delivery.message)),
            false => Publication::to_queue(quarantine.clone(), delivery.message),
        };
        let confirm = match session.publisher.publish(publication).await {
            Ok(answer) => answer.await.ok(),
            Err(_) => None,
        };
        let tag = delivery.tag;
        match confirm {
            Some(Confirm::Stored) => {
                replayed += u64::from(is_of_run);
                subscription.answer(Acknowledgement::Ack {
                    tag,
                    multiple: false,
                });
            }
            // A quarantine that is full takes nothing at its end: what is left is looked at another time.
            _ => {
                subscription.answer(Acknowledgement::GiveBack { tag });
                tracing::warn!(%run, replayed, "the broker takes no more; the rest of the run stays in quarantine");
                break;
            }
        }
    }
    subscription.close().await;
    Ok(replayed)
}

fn is_of(message: &Message, run: &RunId) -> bool {
    let reason = message.headers.text(header::REASON).and_then(Reason::parse);
    let of_run = message.headers.text(header::RUN) == Some(run.as_str());
    of_run && reason == Some(Reason::Rejected)
}

/// The message as it was before it was put into quarantine; its history stays.
fn cleared(mut message: Message) -> Message {
    message.headers.remove(header::REASON);
    message.headers.remove(header::PROGRAM);
    message
}
