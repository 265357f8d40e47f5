//! Whether a column of one type holds every value of another.

use std::collections::BTreeSet;

use crate::clickhouse::DataType;

/// Whether a column of type `there` holds every value of type `wanted`, as the same value: the same type, one that
/// takes nulls too, a wider whole number, an enum of more members, or texts that are stored by number.
pub(crate) fn holds(there: &str, wanted: &str) -> bool {
    let (Ok(there), Ok(wanted)) = (there.parse::<DataType>(), wanted.parse::<DataType>()) else {
        return there == wanted;
    };
    holds_type(
        &there.without_low_cardinality(),
        &wanted.without_low_cardinality(),
    )
}

fn holds_type(there: &DataType, wanted: &DataType) -> bool {
    if there == wanted {
        return true;
    }
    match there.name.as_str() {
        "Nullable" => holds_type(there.unwrapped("Nullable"), wanted.unwrapped("Nullable")),
        "Array" | "Map" | "Tuple" if there.name == wanted.name => {
            let pairs = there.types().zip(wanted.types());
            there.types().count() == wanted.types().count()
                && there.element_names().eq(wanted.element_names())
                && pairs
                    .into_iter()
                    .all(|(there, wanted)| holds_type(there, wanted))
        }
        "Enum8" | "Enum16" => is_enum(wanted) && has_members(there, wanted),
        _ => is_wider(&there.name, &wanted.name),
    }
}

fn is_enum(r#type: &DataType) -> bool {
    ["Enum8", "Enum16"].contains(&r#type.name.as_str())
}

/// Whether one enum has every member of the other, with its value.
fn has_members(there: &DataType, wanted: &DataType) -> bool {
    let members: BTreeSet<EnumMember<'_>> = there.literals().filter_map(EnumMember::read).collect();
    wanted
        .literals()
        .all(|text| EnumMember::read(text).is_some_and(|member| members.contains(&member)))
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct EnumMember<'a> {
    /// In quotes.
    name: &'a str,
    value: &'a str,
}

impl<'a> EnumMember<'a> {
    /// From `'name' = value`.
    fn read(text: &'a str) -> Option<Self> {
        let (name, value) = text.rsplit_once('=')?;
        Some(Self {
            name: name.trim(),
            value: value.trim(),
        })
    }
}

struct WholeNumber {
    is_signed: bool,
    bits: u32,
}

impl WholeNumber {
    fn read(name: &str) -> Option<Self> {
        let unsigned = name.strip_prefix("UInt");
        let bits = unsigned.or_else(|| name.strip_prefix("Int"))?;
        Some(Self {
            is_signed: unsigned.is_none(),
            bits: bits.parse().ok()?,
        })
    }
}

/// Whether one whole number is wider than the other, and has its negative values too.
fn is_wider(there: &str, wanted: &str) -> bool {
    let (Some(there), Some(wanted)) = (WholeNumber::read(there), WholeNumber::read(wanted)) else {
        return false;
    };
    there.bits > wanted.bits && (there.is_signed || !wanted.is_signed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clickhouse::{Cluster, Query, TargetSettings};

    #[test]
    fn a_wider_type_holds_the_values_of_a_narrower_one_and_not_the_other_way_round() {
        for (wide, narrow) in [
            ("String", "LowCardinality(String)"),
            ("LowCardinality(Nullable(String))", "LowCardinality(String)"),
            ("Nullable(UInt64)", "UInt64"),
            ("UInt64", "UInt32"),
            ("Int64", "UInt32"),
            ("Nullable(Int64)", "Nullable(Int8)"),
            ("Array(Nullable(UInt64))", "Array(UInt8)"),
            ("Map(String, UInt64)", "Map(LowCardinality(String), UInt8)"),
            ("Tuple(a UInt64, b String)", "Tuple(a UInt8, b String)"),
            ("Enum8('a' = 1, 'b' = 2)", "Enum8('a' = 1)"),
            ("Enum16('a = 1' = 1, 'b' = 2)", "Enum8('a = 1' = 1)"),
            ("Array(Enum8('a' = 1, 'b' = 2))", "Array(Enum8('a' = 1))"),
        ] {
            assert!(holds(wide, narrow), "{wide} {narrow}");
            assert!(holds(wide, wide), "{wide}");
            let same = ["String", "LowCardinality(String)"];
            assert!(wide == same[0] || !holds(narrow, wide), "{narrow} {wide}");
        }
    }

    #[test]
    fn what_changes_a_value_is_not_held() {
        for (there, wanted) in [
            ("UInt64", "Int32"),
            ("UInt32", "Int32"),
            ("Int32", "UInt32"),
            ("Float64", "Float32"),
            ("Float64", "UInt32"),
            ("UInt64", "Float64"),
            ("String", "FixedString(4)"),
            ("FixedString(8)", "FixedString(4)"),
            ("Date32", "Date"),
            ("Date", "Date32"),
            ("Date", "DateTime"),
            ("DateTime64(3)", "DateTime64(6)"),
            ("DateTime64(6)", "DateTime64(3)"),
            ("DateTime('UTC')", "DateTime('Europe/Berlin')"),
            ("DateTime64(3, 'UTC')", "DateTime64(3)"),
            ("Decimal(18, 2)", "Decimal(18, 4)"),
            ("Decimal(18, 4)", "Decimal(18, 2)"),
            ("Decimal(9, 2)", "Decimal(18, 2)"),
            ("Enum8('a' = 1)", "Enum8('a' = 2)"),
            ("Enum8('b' = 1)", "Enum8('a' = 1)"),
            ("Enum8('a' = 1)", "UInt8"),
            ("String", "Enum8('a' = 1)"),
            ("Tuple(b String, a UInt8)", "Tuple(a UInt8, b String)"),
            ("Tuple(a UInt8)", "Tuple(UInt8)"),
            ("Tuple(UInt8, UInt8)", "Tuple(UInt8)"),
            ("Array(UInt8)", "UInt8"),
            ("Bool", "UInt8"),
            ("UInt8", "Bool"),
            ("IPv4", "UInt32"),
            ("UUID", "UInt128"),
        ] {
            assert!(!holds(there, wanted), "{there} {wanted}");
        }
    }

    /// What the engine makes of values that travel as they do between a fetcher and a writer.
    async fn travels(database: &testkit::Database, from: &str, to: &str, value: &str) -> bool {
        let cluster = Cluster::new(
            &TargetSettings {
                cluster: database.cluster(),
                ..TargetSettings::default()
            }
            .connection(),
        )
        .unwrap();
        let shard = cluster.shard(0).unwrap();
        for (table, r#type) in [("source", from), ("target", to)] {
            database.run(0, &format!("CREATE OR REPLACE TABLE {{db}}.{table} (x {type}) ENGINE = MergeTree ORDER BY tuple()"));
        }
        database.run(0, &format!("INSERT INTO {{db}}.source SELECT {value}"));
        let name = database.name();
        let select = Query::new(format!("SELECT x FROM {name}.source"))
            .setting("output_format_arrow_string_as_string", 1)
            .setting("output_format_arrow_low_cardinality_as_dictionary", 0);
        let mut stream = shard.replicas()[0].stream(&select).await.unwrap();
        let mut pieces = Vec::new();
        while let Some(piece) = stream.try_next().await.unwrap() {
            pieces.push(piece);
        }
        let insert = Query::new(format!("INSERT INTO {name}.target (x) FORMAT ArrowStream"));
        shard.insert(&insert, pieces).await.unwrap();
        let text = |table: &str| {
            database.run(
                0,
                &format!("SELECT toString(x) FROM {{db}}.{table} FORMAT TSVRaw"),
            )
        };
        text("source") == text("target")
    }

    #[tokio::test]
    async fn the_real_engine_keeps_every_value_that_a_wider_type_holds() {
        let database = testkit::Database::create();
        for (from, to, value) in [
            ("UInt8", "UInt64", "255"),
            ("UInt32", "Int64", "4294967295"),
            ("Int8", "Int64", "-128"),
            ("UInt64", "UInt128", "18446744073709551615"),
            ("Nullable(UInt8)", "Nullable(UInt64)", "NULL"),
            ("UInt8", "Nullable(Int64)", "255"),
            ("LowCardinality(String)", "Nullable(String)", "'a'"),
            (
                "Array(LowCardinality(String))",
                "Array(Nullable(String))",
                "['a', '']",
            ),
            ("Array(UInt8)", "Array(UInt64)", "[255]"),
            (
                "Map(LowCardinality(String), UInt8)",
                "Map(String, UInt64)",
                "map('a', 255)",
            ),
            (
                "Tuple(a UInt8, b String)",
                "Tuple(a UInt64, b Nullable(String))",
                "(255, 'b')",
            ),
            ("Enum8('a' = -1)", "Enum16('a' = -1, 'b' = 2000)", "'a'"),
            (
                "Array(Enum8('a' = 1))",
                "Array(Enum8('a' = 1, 'b' = 2))",
                "['a']",
            ),
        ] {
            assert!(holds(to, from), "{from} {to}");
            assert!(travels(&database, from, to, value).await, "{from} {to}");
        }
        for (from, to, value) in [
            ("UInt64", "UInt32", "4294967303"),
            ("Int64", "UInt64", "-5"),
            ("Float64", "Float32", "1e300"),
            (
                "DateTime64(6)",
                "DateTime64(3)",
                "toDateTime64('2020-01-01 00:00:00.123456', 6)",
            ),
        ] {
            assert!(!holds(to, from), "{from} {to}");
            assert!(!travels(&database, from, to, value).await, "{from} {to}");
        }
    }
}
