//! The settings that can change what a statement reads or stores, and the value that each has in every
//! request, whatever the user's profile, the server's release or its configuration say
//! (docs/decisions/0022-settings-that-can-change-a-result-are-pinned.md). The one list of them.
//!
//! A limit of a profile stays: with the overflow modes below it is an error that names it, never a shorter answer.
//! What a statement asks for itself goes before what is pinned. A server that does not know all of
//! them gets those that it knows: see [`Pins`].

use std::sync::Mutex;
use std::time::{Duration, Instant};

use app::lock;

use super::Query;

/// A setting and its value.
type Setting = (&'static str, &'static str);

/// How long it is remembered what an older server knows: it may be upgraded.
const MAX_AGE: Duration = Duration::from_secs(600);

/// Of every request.
const ALWAYS: &[Setting] = &[
    // An older release's behaviour changes hundreds of others. First: those below are set after it.
    ("compatibility", ""),
    // Break ends a statement early, and calls that its end.
    ("timeout_overflow_mode", "throw"),
    // Texts that are times, where no zone is named.
    ("session_timezone", ""),
    // What becomes of a value that its new type cannot hold.
    ("cast_keep_nullable", "0"),
    ("cast_ipv4_ipv6_default_on_conversion_error", "0"),
];

/// Of every request but inserts.
const READS: &[Setting] = &[
    // Any limit that is reached is an error: break, and any, answer with the rows up to there.
    ("result_overflow_mode", "throw"),
    ("read_overflow_mode", "throw"),
    ("read_overflow_mode_leaf", "throw"),
    ("timeout_overflow_mode_leaf", "throw"),
    ("group_by_overflow_mode", "throw"),
    ("sort_overflow_mode", "throw"),
    ("distinct_overflow_mode", "throw"),
    ("set_overflow_mode", "throw"),
    ("join_overflow_mode", "throw"),
    ("transfer_overflow_mode", "throw"),
    // Rows that are left out or added without a word in the statement.
    ("limit", "0"),
    ("offset", "0"),
    ("additional_table_filters", "{}"),
    ("additional_result_filter", ""),
    ("final", "0"),
    ("apply_deleted_mask", "1"),
    ("apply_patch_parts", "1"),
    ("ignore_cold_parts_seconds", "0"),
    ("skip_unavailable_shards", "0"),
    // With these a server reads its share of the rows, and counts on others for the rest.
    ("max_parallel_replicas", "1"),
    ("allow_experimental_parallel_reading_from_replicas", "0"),
    ("parallel_replicas_count", "0"),
    ("parallel_replica_offset", "0"),
    // An answer from before.
    ("use_query_cache", "0"),
    // What a name, a NULL, a join or an aggregate means.
    ("prefer_column_name_to_alias", "0"),
    ("transform_null_in", "0"),
    ("join_use_nulls", "0"),
    ("join_default_strictness", "ALL"),
    ("any_join_distinct_right_table_keys", "0"),
    ("group_by_use_nulls", "0"),
    ("aggregate_functions_null_for_empty", "0"),
    ("empty_result_for_aggregation_by_empty_set", "0"),
    ("count_distinct_implementation", "uniqExact"),
    // Whether a column of a new table, or of a stream inside a statement, is Nullable.
    ("data_type_default_nullable", "0"),
    ("schema_inference_hints", ""),
    // Arrow: text as text, plain columns, and no bytes that stand for a type that Arrow does not have. Date as
    // a date: releases before 26 write it as the number of the day, which `read::select` does not let them.
    ("output_format_arrow_string_as_string", "1"),
    ("output_format_arrow_fixed_string_as_fixed_byte_array", "1"),
    ("output_format_arrow_low_cardinality_as_dictionary", "0"),
    ("output_format_arrow_date_as_uint16", "0"),
    ("output_format_arrow_variant_as_string", "0"),
    ("output_format_arrow_uuid_as_fixed_byte_array", "0"),
    ("output_format_arrow_unsupported_types_as_binary", "0"),
    // Values as text, which the bounds of ranges are.
    ("date_time_output_format", "simple"),
    ("output_format_decimal_trailing_zeros", "0"),
    ("bool_true_representation", "true"),
    ("bool_false_representation", "false"),
    // Data in a statement, such as the keys that ch-writer looks up.
    ("input_format_arrow_allow_missing_columns", "0"),
    ("input_format_arrow_case_insensitive_column_matching", "0"),
];

/// Of reads whose answer is JSON, in which a row is an object, and a number a number.
const ROWS: &[Setting] = &[
    ("extremes", "0"),
    ("output_format_json_array_of_rows", "0"),
    ("output_format_json_named_tuples_as_objects", "1"),
    ("output_format_json_quote_64bit_integers", "0"),
    ("output_format_json_quote_denormals", "0"),
    ("output_format_json_quote_decimals", "0"),
    ("output_format_json_validate_utf8", "0"),
];

/// Of inserts.
const INSERTS: &[Setting] = &[
    // Answered when the rows are stored, and sent again without harm.
    ("async_insert", "0"),
    ("wait_for_async_insert", "1"),
    ("insert_deduplicate", "1"),
    ("insert_distributed_sync", "1"),
    // A column gets what the batch has for it, or the insert fails. A NULL for a column that takes none is refused,
    // not turned into a zero; a time that the column cannot hold is refused, not turned into another.
    ("input_format_null_as_default", "0"),
    ("input_format_force_null_for_omitted_fields", "0"),
    ("input_format_defaults_for_omitted_fields", "1"),
    ("input_format_skip_unknown_fields", "1"),
    ("input_format_arrow_allow_missing_columns", "0"),
    ("input_format_arrow_case_insensitive_column_matching", "0"),
    ("input_format_arrow_import_nested", "0"),
    ("input_format_ipv4_default_on_conversion_error", "0"),
    ("input_format_ipv6_default_on_conversion_error", "0"),
    ("insert_allow_materialized_columns", "0"),
    ("date_time_overflow_behavior", "throw"),
    // Rows that cannot be read are not left out.
    ("input_format_allow_errors_num", "0"),
    ("input_format_allow_errors_ratio", "0"),
];

/// The code of [`super::ErrorKind::Exception`] for a setting that a server does not know.
const UNKNOWN_SETTING: i32 = 115;

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// A read whose answer is JSON.
    Rows,
    /// Any other statement but an insert.
    Read,
    Insert,
}

impl Access {
    const ALL: [Self; 3] = [Self::Rows, Self::Read, Self::Insert];

    fn settings(self) -> impl Iterator<Item = Setting> {
        let (own, more): (&[Setting], &[Setting]) = match self {
            Self::Rows => (READS, ROWS),
            Self::Read => (READS, &[]),
            Self::Insert => (INSERTS, &[]),
        };
        ALWAYS.iter().chain(own).chain(more).copied()
    }
}

/// What one server gets of the list: all, until it says that it does not know one.
#[derive(Debug, Default)]
pub(super) struct Pins {
    known: Mutex<Option<KnownSettings>>,
}

#[derive(Debug, Clone)]
struct KnownSettings {
    at: Instant,
    names: Vec<String>,
}

impl Pins {
    /// The settings to send along with a statement: those of the list that the server knows and the statement does
    /// not set, and after them the statement's own.
    pub fn settings(&self, query: &Query, access: Access) -> Vec<Setting> {
        let known = lock(&self.known).clone();
        let known = known.filter(|known| known.at.elapsed() < MAX_AGE);
        let sent = |(name, _): &Setting| {
            let known = known.as_ref();
            let knows = known.is_none_or(|known| known.names.iter().any(|known| known == name));
            knows && !query.has_setting(name)
        };
        access.settings().filter(sent).collect()
    }

    /// Whether `error` may be the server's word that it does not know all of the list, which it was sent.
    pub fn may_be_unknown(&self, error: &super::Error) -> bool {
        let known = lock(&self.known);
        let asked = known
            .as_ref()
            .is_some_and(|known| known.at.elapsed() < MAX_AGE);
        error.code() == Some(UNKNOWN_SETTING) && !asked
    }

    /// Asks for those of the list that a server knows, in one row that no limit cuts: the settings against that are
    /// as old as any server.
    pub fn question() -> Query {
        let names = Access::ALL.into_iter().flat_map(Access::settings);
        let names: Vec<String> = names.map(|(name, _)| format!("'{name}'")).collect();
        Query::new(format!(
            "SELECT groupUniqArray(name) AS names FROM system.settings WHERE name IN ({})",
            names.join(", ")
        ))
        .setting("read_overflow_mode", "throw")
        .setting("timeout_overflow_mode", "throw")
        .setting("result_overflow_mode", "throw")
    }

    /// Remembers the answer to [`Pins::question`].
    pub fn remember(&self, names: Vec<String>) {
        let at = Instant::now();
        *lock(&self.known) = Some(KnownSettings { at, names });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_setting_is_pinned_once_for_a_request_and_a_statement_goes_before_it() {
        for access in Access::ALL {
            let names: Vec<_> = access.settings().map(|(name, _)| name).collect();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
            assert_eq!(names[0], "compatibility");
        }
        let query = Query::new("SELECT 1").setting("extremes", 1);
        let sent = Pins::default().settings(&query, Access::Rows);
        assert!(sent.iter().all(|(name, _)| *name != "extremes"));
        assert!(sent.contains(&("result_overflow_mode", "throw")));
    }

    #[test]
    fn a_real_server_knows_every_setting_and_its_value() {
        let database = testkit::Database::create();
        for access in Access::ALL {
            let settings = access.settings();
            let settings = settings.map(|(name, value)| format!("{name}='{value}'"));
            let settings: Vec<_> = settings.collect();
            database.run(0, &format!("SELECT 1 SETTINGS {}", settings.join(", ")));
        }
    }
}
