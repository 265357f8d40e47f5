//! Calls of the role. A panic in it is the fault of these messages, not of the program.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use batch::{Invalid, Message, Reason};
use futures_util::FutureExt;

use crate::{BatchWorker, Job, LoopOptions, Outcome, Weight};

/// What no role is shown: a message that was delivered too often, or is too large.
pub(super) fn check_limits(
    options: &LoopOptions,
    message: &Message,
    delivery_count: u32,
) -> Result<(), Invalid> {
    if delivery_count >= options.max_deliveries {
        let detail = format!(
            "delivered {delivery_count} times without an acknowledgement: it probably kills its worker"
        );
        return Err(Invalid::new(Reason::DeliveryLimit, detail));
    }
    let limits = [
        ("body", message.body.len(), options.max_body_bytes),
        ("headers", message.headers.size(), options.max_header_bytes),
    ];
    for (part, size, limit) in limits {
        if size > limit {
            let detail =
                format!("the message's {part} have {size} bytes; at most {limit} are accepted");
            return Err(Invalid::new(Reason::Oversized, detail));
        }
    }
    Ok(())
}

pub(super) fn call_admit<W: BatchWorker>(
    worker: &W,
    message: &Message,
) -> Result<(W::Key, Weight, W::Item), Invalid> {
    let admitted = std::panic::catch_unwind(AssertUnwindSafe(|| worker.admit(message)));
    admitted.unwrap_or_else(|panic| {
        let what = format!("checking it panicked: {}", text_of(&*panic));
        Err(Invalid::new(Reason::NotReadable, what))
    })
}

pub(super) async fn call_process<W: BatchWorker>(
    worker: &W,
    key: W::Key,
    members: &mut [(Job, W::Item)],
) -> Vec<Outcome> {
    let count = members.len();
    let processing = AssertUnwindSafe(worker.process(key, members)).catch_unwind();
    let error = match processing.await {
        Ok(outcomes) if outcomes.len() == count => return outcomes,
        Ok(outcomes) => {
            let returned = outcomes.len();
            format!("the role returned {returned} outcomes for {count} messages")
        }
        Err(panic) => format!("the role panicked: {}", text_of(&*panic)),
    };
    vec![Outcome::retry(error, "worker"); count]
}

fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_default()
}
