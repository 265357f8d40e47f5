use std::time::Duration;

use pipeline::{RetrySchedule, names};
use serde::{Serialize, Serializer};

/// What a queue of a program is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QueueClass {
    Input,
    /// One retry delay: messages come back to the input after this time.
    Delay(Duration),
    Quarantine,
    /// Holds no message: its only active consumer is the one process at work.
    Lease,
    /// An append-only stream; the queue has the program's own name.
    Stream,
}

impl QueueClass {
    /// Name of this queue of `program`.
    pub(crate) fn queue(self, program: &str) -> String {
        match self {
            Self::Input => names::input_queue(program),
            Self::Delay(delay) => RetrySchedule::queue(program, delay),
            Self::Quarantine => names::quarantine_queue(program),
            Self::Lease => names::lease_queue(program),
            Self::Stream => program.to_owned(),
        }
    }

    /// What `queue` is to `program`; `None` when it is not named as one of its queues.
    pub(crate) fn from_queue(program: &str, queue: &str) -> Option<Self> {
        let delay = || {
            let (_, label) = queue.rsplit_once('-')?;
            Some(Self::Delay(delay_from_label(label)?))
        };
        // A delay has only the spelling that the fleet itself uses: `120s` is not, since it would be `2m`.
        [Self::Input, Self::Quarantine, Self::Lease, Self::Stream]
            .into_iter()
            .chain(delay())
            .find(|class| class.queue(program) == queue)
    }

    /// Name of the policy for these queues of `program`. All delays share one policy, so that a delay taken out of
    /// the schedule keeps it until it is empty.
    pub(crate) fn policy(self, program: &str) -> String {
        match self {
            Self::Delay(_) => format!("fleet-{program}-delay"),
            class => format!("fleet-{}", class.queue(program)),
        }
    }

    /// Regular expression that matches these queues of `program` and no others.
    pub(crate) fn pattern(self, program: &str) -> String {
        match self {
            Self::Delay(_) => format!("^{program}-delay{DELAY_LABEL}"),
            class => format!("^{}$", class.queue(program)),
        }
    }
}

/// What follows `-delay` in the names of delays, as a regular expression.
const DELAY_LABEL: &str = "-[0-9]+[smh]$";

/// Whether a policy is the fleet's: its name and its pattern belong together.
pub(crate) fn is_own_policy(name: &str, pattern: &str) -> bool {
    name.strip_prefix("fleet-").is_some_and(|queue| {
        pattern == format!("^{queue}$")
            || (queue.ends_with("-delay") && pattern == format!("^{queue}{DELAY_LABEL}"))
    })
}

/// `in`, `delay`, `quarantine`, `lease` or `stream`.
impl Serialize for QueueClass {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Input => "in",
            Self::Delay(_) => "delay",
            Self::Quarantine => "quarantine",
            Self::Lease => "lease",
            Self::Stream => "stream",
        })
    }
}

fn delay_from_label(label: &str) -> Option<Duration> {
    let (digits, unit) = label.split_at_checked(label.len().checked_sub(1)?)?;
    let seconds: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return None,
    };
    let number = digits.parse().ok().filter(|number| *number > 0)?;
    seconds.checked_mul(number).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_a_queue_is_read_from_its_name() {
        let delay = |seconds| Some(QueueClass::Delay(Duration::from_secs(seconds)));
        assert_eq!(
            QueueClass::from_queue("es-writer", "es-writer-in"),
            Some(QueueClass::Input)
        );
        assert_eq!(
            QueueClass::from_queue("es-writer", "es-writer-quar"),
            Some(QueueClass::Quarantine)
        );
        assert_eq!(
            QueueClass::from_queue("ledger", "ledger"),
            Some(QueueClass::Stream)
        );
        assert_eq!(
            QueueClass::from_queue("persister", "persister-lease"),
            Some(QueueClass::Lease)
        );
        assert_eq!(
            QueueClass::from_queue("es-writer", "es-writer-delay-10m"),
            delay(600)
        );
        assert_eq!(
            QueueClass::from_queue("es-writer", "es-writer-delay-90s"),
            delay(90)
        );
        assert_eq!(
            QueueClass::from_queue("es-writer", "es-writer-delay-120s"),
            None
        );
        assert_eq!(
            QueueClass::from_queue("es-writer", "es-writer-delay-0s"),
            None
        );
        assert_eq!(QueueClass::from_queue("es-writer", "es-writer-eu-in"), None);
        assert_eq!(QueueClass::from_queue("es-writer", "ch-writer-in"), None);
    }
}
