use std::time::Duration;

use pipeline::{RetrySchedule, names};

/// Argument of the fleet's queues and exchanges that names their program: how `fleet pipeline` knows its own.
pub const PROGRAM_ARGUMENT: &str = "fleet-program";

/// Argument of the exchange [`names::CONFIGURED`] that names the pipeline type.
pub const PIPELINE_ARGUMENT: &str = "fleet-pipeline";

/// Priority of the fleet's policies. The broker applies to a queue only the matching policy of the highest
/// priority: well above the 0 that a catch-all policy for a whole virtual host usually has.
pub const POLICY_PRIORITY: i64 = 100;

/// Marker exchanges begin so, such as [`names::CONFIGURED`].
const MARKER_PREFIX: &str = "fleet-";

/// Longest name of a program or a type, in bytes. The broker's own limit is 255; names also appear in stats, logs
/// and tables.
const MAX_NAME: usize = 48;

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
    /// `in`, `delay`, `quarantine`, `lease`, `stream`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Input => "in",
            Self::Delay(_) => "delay",
            Self::Quarantine => "quarantine",
            Self::Lease => "lease",
            Self::Stream => "stream",
        }
    }

    /// Name of this queue of `program`.
    pub fn queue(self, program: &str) -> String {
        match self {
            Self::Input => names::input_queue(program),
            Self::Delay(delay) => RetrySchedule::queue(program, delay),
            Self::Quarantine => names::quarantine_queue(program),
            Self::Lease => names::lease_queue(program),
            Self::Stream => program.to_owned(),
        }
    }
}

/// What `queue` is to `program`; `None` when it is not named as one of its queues.
pub fn class_of(program: &str, queue: &str) -> Option<QueueClass> {
    match queue.strip_prefix(program)? {
        "" => Some(QueueClass::Stream),
        "-in" => Some(QueueClass::Input),
        "-quar" => Some(QueueClass::Quarantine),
        "-lease" => Some(QueueClass::Lease),
        rest => {
            let delay = delay_of(rest.strip_prefix("-delay-")?)?;
            // Only the spelling that the fleet itself uses: `120s` is not, since it would be `2m`.
            (RetrySchedule::queue(program, delay) == queue).then_some(QueueClass::Delay(delay))
        }
    }
}

fn delay_of(label: &str) -> Option<Duration> {
    let (digits, seconds) = [("s", 1), ("m", 60), ("h", 3600)]
        .into_iter()
        .find_map(|(unit, seconds)| Some((label.strip_suffix(unit)?, seconds)))?;
    let number: u64 = digits.parse().ok()?;
    let seconds = number.checked_mul(seconds).filter(|seconds| *seconds > 0)?;
    Some(Duration::from_secs(seconds))
}

/// Name of the policy for the queues of one class of `program`. All delays share one policy, so that a
/// delay taken out of the schedule keeps it until it is empty.
pub fn policy_name(program: &str, class: QueueClass) -> String {
    match class {
        QueueClass::Input => format!("fleet-{program}-in"),
        QueueClass::Delay(_) => format!("fleet-{program}-delay"),
        QueueClass::Quarantine => format!("fleet-{program}-quar"),
        QueueClass::Lease => format!("fleet-{program}-lease"),
        QueueClass::Stream => format!("fleet-{program}"),
    }
}

/// Regular expression that matches the queues of one class of `program` and no others.
pub fn policy_pattern(program: &str, class: QueueClass) -> String {
    match class {
        QueueClass::Delay(_) => format!("^{program}-delay-[0-9]+[smh]$"),
        class => format!("^{}$", class.queue(program)),
    }
}

/// Why `text` cannot be a name at all.
pub(super) fn refuse_word(text: &str) -> Option<&'static str> {
    let shape = text.bytes().enumerate().all(|(n, b)| match b {
        b'a'..=b'z' => true,
        b'0'..=b'9' | b'-' => n > 0,
        _ => false,
    });
    match text {
        "" => Some("it is empty"),
        _ if !shape => Some("it must be small letters, digits and \"-\", beginning with a letter"),
        _ if text.len() > MAX_NAME => Some("it is longer than 48 characters"),
        _ => None,
    }
}

/// Why `text` cannot be the name of a program.
pub(super) fn refuse_program(text: &str) -> Option<&'static str> {
    let reserved = ["-in", "-out", "-quar", "-lease"]
        .iter()
        .any(|end| text.ends_with(end))
        || text.contains("-delay-");
    let is_stage = !matches!(batch::Stage::from(text.to_owned()), batch::Stage::Store(_));
    refuse_word(text)
        .or(reserved.then_some("the broker's objects of another program end so"))
        .or(text
            .starts_with(MARKER_PREFIX)
            .then_some("the fleet's marker exchanges begin so"))
        .or(is_stage.then_some("a stage of a run is called so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_of_a_queue_is_read_from_its_name() {
        let delay = |seconds| Some(QueueClass::Delay(Duration::from_secs(seconds)));
        assert_eq!(
            class_of("es-writer", "es-writer-in"),
            Some(QueueClass::Input)
        );
        assert_eq!(
            class_of("es-writer", "es-writer-quar"),
            Some(QueueClass::Quarantine)
        );
        assert_eq!(class_of("ledger", "ledger"), Some(QueueClass::Stream));
        assert_eq!(
            class_of("persister", "persister-lease"),
            Some(QueueClass::Lease)
        );
        assert_eq!(class_of("es-writer", "es-writer-delay-10m"), delay(600));
        assert_eq!(class_of("es-writer", "es-writer-delay-90s"), delay(90));
        assert_eq!(class_of("es-writer", "es-writer-delay-120s"), None);
        assert_eq!(class_of("es-writer", "es-writer-delay-0s"), None);
        assert_eq!(class_of("es-writer", "es-writer-eu-in"), None);
        assert_eq!(class_of("es-writer", "ch-writer-in"), None);
    }

    #[test]
    fn a_name_that_could_be_taken_for_another_programs_queue_is_refused() {
        assert_eq!(refuse_program("es-writer-eu"), None);
        for name in [
            "a-in",
            "a-out",
            "a-quar",
            "a-lease",
            "a-delay-b",
            "fleet-configured",
            "fleet-serp-paused",
            "",
            "A",
            "1a",
            "a.b",
        ] {
            assert!(refuse_program(name).is_some(), "{name}");
        }
        assert!(refuse_program(&"a".repeat(49)).is_some());
    }
}
