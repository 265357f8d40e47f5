//! The error codes of ClickHouse that matter here, by class.
//!
//! Numbers and names: `src/Common/ErrorCodes.cpp` of ClickHouse; on a server, `errorCodeToName(n)`.

use batch::Reason;

use crate::Class;

type Codes = &'static [(i32, &'static str)];

/// The replica's network, disk or Keeper session fails, or the replica shuts down.
const REPLICA_FAULTS: Codes = &[
    (74, "CANNOT_READ_FROM_FILE_DESCRIPTOR"),
    (75, "CANNOT_WRITE_TO_FILE_DESCRIPTOR"),
    (95, "CANNOT_READ_FROM_SOCKET"),
    (96, "CANNOT_WRITE_TO_SOCKET"),
    (198, "DNS_ERROR"),
    (203, "NO_FREE_CONNECTION"),
    (204, "CANNOT_FSYNC"),
    (209, "SOCKET_TIMEOUT"),
    (210, "NETWORK_ERROR"),
    (225, "NO_ZOOKEEPER"),
    // The answer to every request while a server shuts down.
    (236, "ABORTED"),
    (244, "UNEXPECTED_ZOOKEEPER_ERROR"),
    (254, "NO_ACTIVE_REPLICAS"),
    (265, "NO_AVAILABLE_REPLICA"),
    (279, "ALL_CONNECTION_TRIES_FAILED"),
    (369, "ALL_REPLICAS_ARE_STALE"),
    (519, "NO_REMOTE_SHARD_AVAILABLE"),
    (733, "TABLE_IS_BEING_RESTARTED"),
    (999, "KEEPER_EXCEPTION"),
];

/// Busy, at a limit, or in a state that ends by itself.
const BUSY: Codes = &[
    (159, "TIMEOUT_EXCEEDED"),
    (160, "TOO_SLOW"),
    (173, "CANNOT_ALLOCATE_MEMORY"),
    (202, "TOO_MANY_SIMULTANEOUS_QUERIES"),
    // The same statement from before a broken connection: it ends by itself.
    (216, "QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING"),
    (241, "MEMORY_LIMIT_EXCEEDED"),
    (252, "TOO_MANY_PARTS"),
    (285, "TOO_FEW_LIVE_REPLICAS"),
    (286, "UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE"),
    (289, "REPLICA_IS_NOT_IN_QUORUM"),
    // The insert may have been done: the deduplication token makes another try safe.
    (319, "UNKNOWN_STATUS_OF_INSERT"),
    (364, "RECEIVED_ERROR_TOO_MANY_REQUESTS"),
    (373, "SESSION_IS_LOCKED"),
    // A user killed the query: not the data's fault.
    (394, "QUERY_WAS_CANCELLED"),
    (439, "CANNOT_SCHEDULE_TASK"),
    (473, "DEADLOCK_AVOIDED"),
    (574, "DISTRIBUTED_TOO_MANY_PENDING_BYTES"),
    (692, "TOO_MANY_MUTATIONS"),
    (700, "USER_SESSION_LIMIT_EXCEEDED"),
    (735, "QUERY_WAS_CANCELLED_BY_CLIENT"),
    (745, "SERVER_OVERLOADED"),
    (749, "TCP_CONNECTION_LIMIT_REACHED"),
    (762, "HTTP_CONNECTION_LIMIT_REACHED"),
    (776, "RESOURCE_LIMIT_EXCEEDED"),
    (777, "MEMORY_RESERVATION_KILLED"),
    (778, "MEMORY_RESERVATION_FAILED"),
    (1019, "QUERY_SLOT_ACQUISITION_TIMEOUT"),
    (1020, "MEMORY_RESERVATION_ACQUISITION_TIMEOUT"),
];

/// Nothing goes in until an operator makes room, or gives the user its rights.
const BLOCKED: Codes = &[
    // A setting that this release of the server does not have, or that the user may not set.
    (115, "UNKNOWN_SETTING"),
    (164, "READONLY"),
    (192, "UNKNOWN_USER"),
    (193, "WRONG_PASSWORD"),
    (194, "REQUIRED_PASSWORD"),
    (195, "IP_ADDRESS_NOT_ALLOWED"),
    (201, "QUOTA_EXCEEDED"),
    (242, "TABLE_IS_READ_ONLY"),
    (243, "NOT_ENOUGH_SPACE"),
    (291, "DATABASE_ACCESS_DENIED"),
    (452, "SETTING_CONSTRAINT_VIOLATION"),
    (472, "READONLY_SETTING"),
    (497, "ACCESS_DENIED"),
    (516, "AUTHENTICATION_FAILED"),
    (720, "USER_EXPIRED"),
    (767, "REQUIRED_SECOND_FACTOR"),
    (774, "TABLE_IS_PERMANENTLY_READ_ONLY"),
    (1016, "TABLE_SIZE_LIMIT_EXCEEDED"),
];

/// Some value among the rows does not fit.
const DATA: Codes = &[
    (3, "UNEXPECTED_END_OF_FILE"),
    (6, "CANNOT_PARSE_TEXT"),
    (19, "SIZE_OF_FIXED_STRING_DOESNT_MATCH"),
    (25, "CANNOT_PARSE_ESCAPE_SEQUENCE"),
    (26, "CANNOT_PARSE_QUOTED_STRING"),
    (27, "CANNOT_PARSE_INPUT_ASSERTION_FAILED"),
    (32, "ATTEMPT_TO_READ_AFTER_EOF"),
    (33, "CANNOT_READ_ALL_DATA"),
    (38, "CANNOT_PARSE_DATE"),
    (41, "CANNOT_PARSE_DATETIME"),
    (69, "ARGUMENT_OUT_OF_BOUND"),
    // The answer for a value too, such as a NaN for an integer.
    (70, "CANNOT_CONVERT_TYPE"),
    (72, "CANNOT_PARSE_NUMBER"),
    (117, "INCORRECT_DATA"),
    (128, "TOO_LARGE_ARRAY_SIZE"),
    (130, "CANNOT_READ_ARRAY_FROM_TEXT"),
    (131, "TOO_LARGE_STRING_SIZE"),
    (248, "INVALID_PARTITION_VALUE"),
    (321, "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE"),
    (349, "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN"),
    (376, "CANNOT_PARSE_UUID"),
    (395, "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    (407, "DECIMAL_OVERFLOW"),
    (441, "CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING"),
    (467, "CANNOT_PARSE_BOOL"),
    (469, "VIOLATED_CONSTRAINT"),
    (563, "CANNOT_READ_MAP_FROM_TEXT"),
    // Too many for one insert: half the rows have fewer.
    (565, "TOO_MANY_PARTITIONS"),
    (632, "UNEXPECTED_DATA_AFTER_PARSED_VALUE"),
    (675, "CANNOT_PARSE_IPV4"),
    (676, "CANNOT_PARSE_IPV6"),
    (691, "UNKNOWN_ELEMENT_OF_ENUM"),
];

/// The table or its database is not there.
const MISSING: Codes = &[(60, "UNKNOWN_TABLE"), (81, "UNKNOWN_DATABASE")];

/// The table's columns are not those of the statement, whatever the rows hold.
const SCHEMA: Codes = &[
    (7, "INCORRECT_NUMBER_OF_COLUMNS"),
    (8, "THERE_IS_NO_COLUMN"),
    (10, "NOT_FOUND_COLUMN_IN_BLOCK"),
    (15, "DUPLICATE_COLUMN"),
    (16, "NO_SUCH_COLUMN_IN_TABLE"),
    (20, "NUMBER_OF_COLUMNS_DOESNT_MATCH"),
    (43, "ILLEGAL_TYPE_OF_ARGUMENT"),
    (44, "ILLEGAL_COLUMN"),
    (47, "UNKNOWN_IDENTIFIER"),
    (50, "UNKNOWN_TYPE"),
    (53, "TYPE_MISMATCH"),
    (122, "INCOMPATIBLE_COLUMNS"),
    (352, "AMBIGUOUS_COLUMN_NAME"),
    (386, "NO_COMMON_TYPE"),
    (772, "INCOMPATIBLE_SCHEMA"),
];

const TABLE: &[(Class, Codes)] = &[
    (Class::RetryNow, REPLICA_FAULTS),
    (Class::RetryLater, BUSY),
    (Class::Pause, BLOCKED),
    (Class::Refused, DATA),
    (Class::Quarantine(Reason::MissingTarget), MISSING),
    (Class::Quarantine(Reason::WrongSchema), SCHEMA),
];

/// The class of a code. An unknown code is retried later: nothing is lost by that, and
/// `max_retries` bounds it.
pub(super) fn classify(code: i32) -> Class {
    find(code).map_or(Class::RetryLater, |(class, _)| class)
}

/// The code's name, where it is one of the table.
pub(super) fn name(code: i32) -> Option<&'static str> {
    find(code).map(|(_, name)| name)
}

/// What an operator does about an exception whose text does not say it, to stand behind that text.
pub(super) fn advice(code: i32, message: &str) -> &'static str {
    match code {
        // These codes are for statements and tables too.
        164 | 452 | 472 if message.to_lowercase().contains("setting") => {
            "; the fleet sets this setting because it can change a result: allow the user to change it \
             (readonly = 0 or 2 in its profile, and no constraint on this setting)"
        }
        _ => "",
    }
}

fn find(code: i32) -> Option<(Class, &'static str)> {
    TABLE.iter().find_map(|(class, codes)| {
        let (_, name) = codes.iter().find(|(known, _)| *known == code)?;
        Some((*class, *name))
    })
}

/// The code that a server's own text begins with: `Code: 60. DB::Exception: …`, or, of an exception
/// from one of its libraries, `std::exception. Code: 1001, …`.
pub(super) fn code_in(text: &str) -> Option<i32> {
    let rest = ["", "Poco::Exception. ", "std::exception. "]
        .iter()
        .find_map(|before| text.strip_prefix(before)?.strip_prefix("Code: "))?;
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// A server's text of an exception.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExceptionText {
    /// The name at its end; empty where it has none.
    pub name: String,
    /// What stands between the code and that name.
    pub message: String,
}

pub(super) fn exception_text(text: &str) -> ExceptionText {
    let stack = text.find("\n\nStack trace:").or(text.find(", Stack trace"));
    let mut message = &text[..stack.unwrap_or(text.len())];
    if let Some((before, _)) = message.rsplit_once(" (version ") {
        message = before;
    }
    let mut name = "";
    if let Some((before, last)) = message.strip_suffix(')').and_then(|m| m.rsplit_once(" (")) {
        let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
        if !last.is_empty() && last.chars().all(is_name) {
            (message, name) = (before, last);
        }
    }
    // `DB::Exception`, `DB::NetException`, `DB::ErrnoException`…
    if let Some((before, after)) = message.split_once("Exception: ")
        && before.starts_with("Code: ")
        && before.len() < 40
    {
        message = after;
    }
    ExceptionText {
        name: name.to_owned(),
        message: message.trim().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn all() -> impl Iterator<Item = (i32, &'static str)> {
        TABLE.iter().flat_map(|(_, codes)| codes.iter().copied())
    }

    #[test]
    fn a_real_server_calls_every_code_by_the_same_name() {
        let database = testkit::Database::create();
        let codes: Vec<String> = all().map(|(code, _)| code.to_string()).collect();
        let names = database.run(
            0,
            &format!(
                "SELECT errorCodeToName(arrayJoin([{}])) FORMAT TSV",
                codes.join(",")
            ),
        );
        assert_eq!(names.lines().count(), codes.len());
        for ((code, name), theirs) in all().zip(names.lines()) {
            assert_eq!(name, theirs, "code {code}");
        }
    }

    #[test]
    fn the_codes_that_matter_ask_for_what_an_operator_expects() {
        let missing = Class::Quarantine(Reason::MissingTarget);
        let schema = Class::Quarantine(Reason::WrongSchema);
        for (code, class) in [
            (209, Class::RetryNow),
            (210, Class::RetryNow),
            (225, Class::RetryNow),
            (279, Class::RetryNow),
            (999, Class::RetryNow),
            (159, Class::RetryLater),
            (202, Class::RetryLater),
            (241, Class::RetryLater),
            (252, Class::RetryLater),
            (285, Class::RetryLater),
            (286, Class::RetryLater),
            (319, Class::RetryLater),
            (394, Class::RetryLater),
            (164, Class::Pause),
            (242, Class::Pause),
            (243, Class::Pause),
            (497, Class::Pause),
            (516, Class::Pause),
            (6, Class::Refused),
            (41, Class::Refused),
            (117, Class::Refused),
            (321, Class::Refused),
            (469, Class::Refused),
            (60, missing),
            (81, missing),
            (16, schema),
            (47, schema),
            (53, schema),
        ] {
            assert_eq!(classify(code), class, "code {code}");
        }
    }

    #[test]
    fn an_unknown_code_is_tried_again_later() {
        for code in [-1, 0, 5, 49, 1000, 1001, 424_242] {
            assert_eq!(classify(code), Class::RetryLater, "code {code}");
        }
    }

    #[test]
    fn a_code_stands_in_one_group_alone() {
        let mut seen = BTreeSet::new();
        for (code, name) in all() {
            assert!(seen.insert(code), "{name} ({code}) is in the table twice");
        }
    }

    #[test]
    fn code_name_and_message_are_read_from_a_servers_text() {
        let text = "Code: 60. DB::Exception: Table a.b does not exist. (UNKNOWN_TABLE) \
                    (version 26.9.2.1 (official build))";
        assert_eq!(code_in(text), Some(60));
        assert_eq!(
            exception_text(text),
            ExceptionText {
                name: "UNKNOWN_TABLE".to_owned(),
                message: "Table a.b does not exist.".to_owned(),
            }
        );
        let net = "Code: 210. DB::NetException: I/O error (a -> b). (NETWORK_ERROR)";
        assert_eq!(
            exception_text(net),
            ExceptionText {
                name: "NETWORK_ERROR".to_owned(),
                message: "I/O error (a -> b).".to_owned(),
            }
        );
        let library = "std::exception. Code: 1001, type: std::bad_alloc";
        assert_eq!(code_in(library), Some(1001));
        assert_eq!(code_in("Code: 516"), Some(516));
    }

    #[test]
    fn a_page_that_mentions_a_code_is_no_exception() {
        for text in ["<html>Error Code: 60.</html>", "", "Code: ", "code: 60"] {
            assert_eq!(code_in(text), None, "{text:?}");
        }
    }
}
