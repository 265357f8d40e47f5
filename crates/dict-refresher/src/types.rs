//! Types of columns as a dictionary has them.

/// Types that a dictionary holds as they are, by their names without arguments.
const PLAIN: &[&str] = &[
    "Bool",
    "Date",
    "Date32",
    "DateTime",
    "DateTime64",
    "Decimal",
    "Decimal128",
    "Decimal256",
    "Decimal32",
    "Decimal64",
    "Float32",
    "Float64",
    "IPv4",
    "IPv6",
    "Int128",
    "Int16",
    "Int256",
    "Int32",
    "Int64",
    "Int8",
    "String",
    "UInt128",
    "UInt16",
    "UInt256",
    "UInt32",
    "UInt64",
    "UInt8",
    "UUID",
];

/// The type that an attribute or a key column has in a dictionary: that of the table without `LowCardinality`, which
/// dictionaries do not know. `None` where a dictionary cannot hold such values at all, such as those of an Enum.
pub(crate) fn in_dictionary(table_type: &str) -> Option<String> {
    let full = without_low_cardinality(table_type);
    let holdable = match name_and_inner(&full) {
        ("Nullable", Some(inner)) => is_plain(inner),
        // What is inside is the server's own column: it takes any.
        ("Array" | "Map", Some(_)) => true,
        _ => is_plain(&full),
    };
    holdable.then_some(full)
}

fn is_plain(r#type: &str) -> bool {
    let (name, _) = name_and_inner(r#type);
    PLAIN.contains(&name)
}

fn name_and_inner(r#type: &str) -> (&str, Option<&str>) {
    match r#type.split_once('(') {
        Some((name, rest)) => (name, rest.strip_suffix(')')),
        None => (r#type, None),
    }
}

/// `LowCardinality(T)` becomes `T`, also inside of other types; text in quotes is left alone.
fn without_low_cardinality(r#type: &str) -> String {
    const WRAPPER: &str = "LowCardinality(";
    let mut result = String::with_capacity(r#type.len());
    // For each open bracket whether it belongs to the wrapper.
    let mut brackets = Vec::new();
    let mut rest = r#type;
    while let Some(c) = rest.chars().next() {
        if let Some(inner) = rest.strip_prefix(WRAPPER) {
            brackets.push(true);
            rest = inner;
            continue;
        }
        if c == '\'' {
            let end = end_of_quoted(rest);
            result.push_str(&rest[..end]);
            rest = &rest[end..];
            continue;
        }
        let dropped = match c {
            '(' => {
                brackets.push(false);
                false
            }
            ')' => brackets.pop().unwrap_or(false),
            _ => false,
        };
        if !dropped {
            result.push(c);
        }
        rest = &rest[c.len_utf8()..];
    }
    result
}

/// Where the quoted text ends that `text` begins with.
fn end_of_quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '\'' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_cardinality_is_taken_off_wherever_it_is() {
        for (table, dictionary) in [
            ("LowCardinality(String)", "String"),
            ("LowCardinality(Nullable(String))", "Nullable(String)"),
            ("Array(LowCardinality(String))", "Array(String)"),
            (
                "Map(LowCardinality(String), Array(UInt8))",
                "Map(String, Array(UInt8))",
            ),
            ("DateTime64(3, 'UTC')", "DateTime64(3, 'UTC')"),
            ("Nullable(Decimal(18, 4))", "Nullable(Decimal(18, 4))"),
            ("UInt8", "UInt8"),
            (
                "Array(Enum8('LowCardinality(' = 1))",
                "Array(Enum8('LowCardinality(' = 1))",
            ),
        ] {
            assert_eq!(in_dictionary(table).as_deref(), Some(dictionary), "{table}");
        }
    }

    #[test]
    fn what_a_dictionary_cannot_hold_has_no_type_there() {
        for table in [
            "Enum8('a' = 1)",
            "Nullable(Enum8('a' = 1))",
            "FixedString(4)",
            "Tuple(a UInt8, b String)",
            "Variant(String, UInt8)",
            "BFloat16",
            "Time64(3)",
            "Point",
        ] {
            assert_eq!(in_dictionary(table), None, "{table}");
        }
    }

    /// The list is the engine's own: what it takes and what it does not.
    #[test]
    fn the_real_engine_holds_what_we_think_it_does() {
        let database = testkit::Database::create();
        let takes = |r#type: &str| {
            let sql = format!(
                "CREATE OR REPLACE DICTIONARY {}.d (k String, x {type}) PRIMARY KEY k
                 SOURCE(NULL()) LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0)",
                database.name()
            );
            testkit::clickhouse::query(&database.shards()[0], &sql).0
        };
        for &name in PLAIN {
            let full = match name {
                "Decimal" => "Decimal(18, 4)".to_owned(),
                "DateTime64" => "DateTime64(3)".to_owned(),
                name if name.starts_with("Decimal") => format!("{name}(2)"),
                name => name.to_owned(),
            };
            assert!(takes(&full), "{full}");
            assert!(takes(&format!("Nullable({full})")), "Nullable({full})");
        }
        for bad in [
            "Enum8('a' = 1)",
            "FixedString(4)",
            "Tuple(UInt8)",
            "LowCardinality(String)",
        ] {
            assert!(!takes(bad), "{bad}");
        }
    }
}
