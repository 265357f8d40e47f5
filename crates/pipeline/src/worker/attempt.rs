//! The number of a try at a message.
//!
//! Four numbers count how often a message was tried, each for a purpose of its own:
//!
//! - the header [`header::TRIES`]: the highest attempt that earlier copies of the message can have had. A retry, a
//!   snooze and a message that is put off are new copies for the broker, and this is how one copy knows of another;
//! - `delivery_count`: how often the broker has delivered this copy before without an acknowledgement;
//! - [`crate::Job::attempt`]: both together, plus one. It only has to be different and greater for every later try,
//!   for the batches of a task are named by it; it counts nothing, and most numbers are never used;
//! - the header [`header::FAILURES`]: how often processing failed, which is what `max_retries` limits.

use batch::{Headers, header};

/// Numbers left to the redeliveries of one copy of a message: more than `max_deliveries` allows, so that the next copy
/// never has the same attempt as an older one that is delivered once more.
pub(crate) const REDELIVERIES: u32 = 64;

/// The attempt of a delivery.
pub(super) fn attempt(headers: &Headers, delivery_count: u32) -> u32 {
    let tries = headers.count(header::TRIES).unwrap_or(0);
    tries.saturating_add(delivery_count).saturating_add(1)
}

/// What the next copy of a message has as [`header::TRIES`] after this attempt: counted from the attempt, for a copy
/// that was often delivered again has used up more than [`REDELIVERIES`].
pub(super) fn tries_after(attempt: u32) -> u32 {
    attempt.saturating_add(REDELIVERIES - 1)
}
