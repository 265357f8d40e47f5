//! What a pipeline type and a program may be called.

use batch::Stage;

/// Longest name, in bytes. The broker's own limit is 255; names also appear in stats, logs and tables.
const MAX_NAME: usize = 48;

/// Marker exchanges begin so, such as [`pipeline::names::CONFIGURED`].
const MARKER_PREFIX: &str = "fleet-";

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
    let is_stage = !matches!(Stage::from(text.to_owned()), Stage::Store(_));
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
