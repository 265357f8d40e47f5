use std::time::Duration;

use batch::{Invalid, Message};

use crate::{BatchWorker, GroupLimits, Job, Outcome, Weight, Worker};

/// A worker of single messages, as a batch worker whose groups are full with one.
pub(super) struct Single<W>(pub W);

impl<W: Worker> BatchWorker for Single<W> {
    type Key = ();
    type Item = ();

    fn admit(&self, _: &Message) -> Result<((), Weight, ()), Invalid> {
        Ok(((), Weight { rows: 1, bytes: 0 }, ()))
    }

    fn limits(&self) -> GroupLimits {
        GroupLimits {
            rows: 1,
            bytes: u64::MAX,
            wait: Duration::ZERO,
        }
    }

    async fn process(&self, (): (), group: &mut [(Job, ())]) -> Vec<Outcome> {
        let mut outcomes = Vec::with_capacity(group.len());
        for (job, ()) in group {
            outcomes.push(self.0.process(job).await);
        }
        outcomes
    }

    fn quarantined(&self, message: &Message, why: &Invalid) -> Option<Message> {
        self.0.quarantined(message, why)
    }
}
