use std::sync::Arc;
use std::time::Duration;

use batch::{Message, Reason, header};
use pipeline::broker::{Acknowledgement, BrokerError, Confirm, Publication, Session};
use pipeline::names;
use tokio::sync::Notify;

use crate::shared_ledger::SharedLedger;

/// Messages in flight at once.
const PREFETCH: u16 = 100;
/// The broker hands out what a queue holds within moments.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause after a pass that found something, or that failed.
const PASS_INTERVAL: Duration = Duration::from_secs(2);
/// After a pass that found nothing there is one more: a batch that was on its way to quarantine when its run was
/// approved has arrived by then.
const LAST_PASS_DELAY: Duration = Duration::from_secs(90);

/// Moves batches from `program`'s quarantine back to the queue where they are held, whenever `asked`: those that are
/// there for [`Reason::Rejected`] and whose runs' batches are released by now. Until the session ends.
pub(crate) async fn replay_approved(
    session: Session,
    program: String,
    ledger: SharedLedger,
    asked: Arc<Notify>,
) {
    loop {
        asked.notified().await;
        let mut once_more = true;
        loop {
            let pause = match pass(&session, &program, &ledger).await {
                Ok(0) if once_more => {
                    once_more = false;
                    LAST_PASS_DELAY
                }
                Ok(0) => break,
                Ok(batches) => {
                    tracing::info!(batches, "taken out of quarantine: their runs were approved");
                    ledger.decided();
                    PASS_INTERVAL
                }
                Err(_) if session.is_lost() => return,
                Err(error) => {
                    tracing::error!(%error, "the quarantine cannot be read; trying again");
                    PASS_INTERVAL
                }
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = asked.notified() => once_more = true,
            }
        }
    }
}

/// Takes every message of the quarantine once. Those that stay go to its end, one after the other, and so keep their
/// order. Interrupted, it leaves each message in one of the two queues; a copy may be in both, which counts once.
/// Returns how many were moved back.
async fn pass(session: &Session, program: &str, ledger: &SharedLedger) -> Result<u64, BrokerError> {
    let quarantine = names::quarantine_queue(program);
    let length = session.queue_length(&quarantine).await?;
    if length == 0 {
        return Ok(0);
    }
    let mut subscription = session.subscribe(&quarantine, PREFETCH).await?;
    let mut replayed = 0;
    for _ in 0..length {
        let received = tokio::time::timeout(IDLE_TIMEOUT, subscription.deliveries.recv());
        let Ok(Some(delivery)) = received.await else {
            break;
        };
        let is_approved = is_approved(&delivery.message, ledger);
        let publication = if is_approved {
            Publication::to_queue(names::input_queue(program), cleared(delivery.message))
        } else {
            Publication::to_queue(quarantine.clone(), delivery.message)
        };
        let confirm = session.publisher.publish_and_wait(publication).await;
        let tag = delivery.tag;
        if confirm != Ok(Confirm::Stored) {
            subscription.acknowledge(Acknowledgement::Requeue { tag });
            tracing::warn!(
                replayed,
                "the broker takes no more; the rest stays in quarantine for now"
            );
            break;
        }
        replayed += u64::from(is_approved);
        subscription.acknowledge(Acknowledgement::single(tag));
    }
    subscription.close().await;
    Ok(replayed)
}

fn is_approved(message: &Message, ledger: &SharedLedger) -> bool {
    let reason = message.headers.text(header::REASON).and_then(Reason::parse);
    let run = message.headers.run();
    reason == Some(Reason::Rejected)
        && run.is_ok_and(|run| ledger.with(|tracker| tracker.is_open(&run)))
}

/// The message as it was before it was put into quarantine; its history stays.
fn cleared(mut message: Message) -> Message {
    message.headers.remove(header::REASON);
    message.headers.remove(header::PROGRAM);
    message
}
