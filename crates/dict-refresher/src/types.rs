//! Types of columns as a dictionary has them.

use stores::clickhouse::DataType;

/// Types that a dictionary holds as they are, whatever their arguments.
const PLAIN: [&str; 28] = [
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
    let full = table_type
        .parse::<DataType>()
        .ok()?
        .without_low_cardinality();
    let holdable = match full.name.as_str() {
        "Nullable" => is_plain(full.inner()?),
        // What is inside is the server's own column: it takes any.
        "Array" | "Map" => true,
        _ => is_plain(&full),
    };
    holdable.then(|| full.to_string())
}

fn is_plain(r#type: &DataType) -> bool {
    PLAIN.contains(&r#type.name.as_str())
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
        for family in PLAIN {
            let full = match family {
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
