//! What each type of ClickHouse becomes in the stores: one row of one table. What has no row is refused.

use crate::clickhouse::DataType;

/// A type that the fleet knows.
#[derive(Debug)]
pub(crate) struct TypeRow {
    /// Its name in ClickHouse, without arguments.
    pub name: &'static str,
    /// Why its values are not distributed; `None` where they reach another table unchanged.
    pub refused: Option<&'static str>,
    /// The field of a document; `None` where documents have no counterpart.
    pub field: Option<DocumentType>,
    /// Whether its values can name documents.
    pub names_documents: bool,
    /// Whether it is a number that an index's minimum is compared with.
    pub has_minimum: bool,
    /// Whether it can be a key column or an attribute of a dictionary.
    pub in_dictionary: bool,
    /// Whether it is around other types, which decide.
    pub is_wrapper: bool,
}

/// What a value is in a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DocumentType {
    Keyword,
    Boolean,
    Integer,
    Long,
    Float,
    Double,
    /// A number of seconds since the epoch.
    Seconds,
    /// A number of milliseconds since the epoch.
    Milliseconds,
}

use DocumentType as Field;

const TYPES: &[TypeRow] = &[
    TypeRow::whole("Int8", Field::Integer),
    TypeRow::whole("Int16", Field::Integer),
    TypeRow::whole("Int32", Field::Integer),
    TypeRow::whole("Int64", Field::Long),
    TypeRow::new("Int128").in_dictionary(),
    TypeRow::new("Int256").in_dictionary(),
    TypeRow::whole("UInt8", Field::Integer),
    TypeRow::whole("UInt16", Field::Integer),
    TypeRow::whole("UInt32", Field::Long),
    // Elasticsearch refuses the few above 2^63 by itself, row by row.
    TypeRow::whole("UInt64", Field::Long),
    TypeRow::new("UInt128").in_dictionary(),
    TypeRow::new("UInt256").in_dictionary(),
    TypeRow::fraction("Float32", Field::Float),
    TypeRow::fraction("Float64", Field::Double),
    TypeRow::fraction("Decimal", Field::Double),
    TypeRow::fraction("Decimal32", Field::Double),
    TypeRow::fraction("Decimal64", Field::Double),
    TypeRow::fraction("Decimal128", Field::Double),
    TypeRow::fraction("Decimal256", Field::Double),
    TypeRow::new("Bool").field(Field::Boolean).in_dictionary(),
    TypeRow::new("String")
        .field(Field::Keyword)
        .names_documents()
        .in_dictionary(),
    TypeRow::new("FixedString")
        .field(Field::Keyword)
        .names_documents(),
    // Enums travel as their numbers.
    TypeRow::new("Enum8")
        .field(Field::Integer)
        .names_documents()
        .has_minimum(),
    TypeRow::new("Enum16")
        .field(Field::Integer)
        .names_documents()
        .has_minimum(),
    TypeRow::new("Date")
        .field(Field::Milliseconds)
        .in_dictionary(),
    TypeRow::new("Date32")
        .field(Field::Milliseconds)
        .in_dictionary(),
    TypeRow::whole("DateTime", Field::Seconds),
    TypeRow::whole("DateTime32", Field::Seconds),
    TypeRow::new("DateTime64")
        .field(Field::Milliseconds)
        .in_dictionary(),
    TypeRow::new("UUID").in_dictionary(),
    TypeRow::new("IPv4").in_dictionary(),
    TypeRow::new("IPv6").in_dictionary(),
    TypeRow::wrapper("Nullable"),
    TypeRow::wrapper("LowCardinality"),
    // What is inside of these is the server's own column for a dictionary: it takes any.
    TypeRow::wrapper("Array").in_dictionary(),
    TypeRow::wrapper("Map").in_dictionary(),
    TypeRow::wrapper("Tuple"),
    TypeRow::wrapper("Nested"),
    TypeRow::wrapper("SimpleAggregateFunction"),
    TypeRow::new("Point"),
    TypeRow::new("Ring"),
    TypeRow::new("LineString"),
    TypeRow::new("MultiLineString"),
    TypeRow::new("Polygon"),
    TypeRow::new("MultiPolygon"),
    TypeRow::new("IntervalNanosecond"),
    TypeRow::new("IntervalMicrosecond"),
    TypeRow::new("IntervalMillisecond"),
    TypeRow::new("IntervalSecond"),
    TypeRow::new("IntervalMinute"),
    TypeRow::new("IntervalHour"),
    TypeRow::new("IntervalDay"),
    TypeRow::new("IntervalWeek"),
    TypeRow::new("IntervalMonth"),
    TypeRow::new("IntervalQuarter"),
    TypeRow::new("IntervalYear"),
    TypeRow::refused(
        "AggregateFunction",
        "the state of an aggregate function arrives as the address of its memory",
    ),
    TypeRow::refused("BFloat16", "Arrow has no such number that ClickHouse reads"),
    TypeRow::refused("Dynamic", NO_COLUMN),
    TypeRow::refused("JSON", NO_COLUMN),
    TypeRow::refused("Nothing", "it has no values"),
    TypeRow::refused("Object", NO_COLUMN),
    TypeRow::refused("QBit", "Arrow has no counterpart of it"),
    TypeRow::refused("Time", OF_A_DAY),
    TypeRow::refused("Time64", OF_A_DAY),
    TypeRow::refused("Variant", NO_COLUMN),
];

const NO_COLUMN: &str = "its values have no one type that they keep on their way";
const OF_A_DAY: &str = "the times of Arrow end after a day";

impl TypeRow {
    const fn new(name: &'static str) -> Self {
        Self {
            name,
            refused: None,
            field: None,
            names_documents: false,
            has_minimum: false,
            in_dictionary: false,
            is_wrapper: false,
        }
    }

    const fn whole(name: &'static str, field: DocumentType) -> Self {
        Self::fraction(name, field).names_documents()
    }

    const fn fraction(name: &'static str, field: DocumentType) -> Self {
        Self::new(name).field(field).has_minimum().in_dictionary()
    }

    const fn wrapper(name: &'static str) -> Self {
        Self {
            is_wrapper: true,
            ..Self::new(name)
        }
    }

    const fn refused(name: &'static str, why: &'static str) -> Self {
        Self {
            refused: Some(why),
            ..Self::new(name)
        }
    }

    const fn field(mut self, field: DocumentType) -> Self {
        self.field = Some(field);
        self
    }

    const fn names_documents(mut self) -> Self {
        self.names_documents = true;
        self
    }

    const fn has_minimum(mut self) -> Self {
        self.has_minimum = true;
        self
    }

    const fn in_dictionary(mut self) -> Self {
        self.in_dictionary = true;
        self
    }
}

/// Digits of a second that a document's time has.
const DOCUMENT_PRECISION: u32 = 3;

impl DataType {
    fn row(&self) -> Option<&'static TypeRow> {
        TYPES.iter().find(|row| row.name == self.name)
    }

    /// Why values of this type, or of one inside of it, cannot be distributed; `None` where they arrive unchanged.
    pub(crate) fn refusal(&self) -> Option<String> {
        let Some(row) = self.row() else {
            return Some(format!("{}: the fleet does not know the type", self.name));
        };
        if let Some(why) = row.refused {
            return Some(format!("{}: {why}", self.name));
        }
        let inner = if row.is_wrapper {
            self.types()
        } else {
            return None;
        };
        // The first argument of this one is a function.
        let functions = usize::from(self.name == "SimpleAggregateFunction");
        let mut inner = inner.skip(functions);
        inner.find_map(Self::refusal)
    }

    /// The field that its values are in documents; `None` where they have no counterpart, or lose something on the way.
    pub(crate) fn document_field(&self) -> Option<DocumentType> {
        let plain = self.unwrapped("LowCardinality").unwrapped("Nullable");
        // Any field of Elasticsearch takes one value or many, but no lists of lists.
        let item = plain.unwrapped("Array");
        let item = item.unwrapped("LowCardinality").unwrapped("Nullable");
        let is_finer = item.name == "DateTime64" && item.number(0)? > DOCUMENT_PRECISION;
        item.row()?.field.filter(|_| !is_finer)
    }

    /// Whether its values can name documents.
    pub(crate) fn names_documents(&self) -> bool {
        let plain = self.unwrapped("LowCardinality");
        plain.row().is_some_and(|row| row.names_documents)
    }

    /// Whether an index's minimum can be compared with its values.
    pub(crate) fn has_minimum(&self) -> bool {
        let plain = self.unwrapped("LowCardinality").unwrapped("Nullable");
        plain.row().is_some_and(|row| row.has_minimum)
    }

    /// The type that an attribute or a key column has in a dictionary: this one without `LowCardinality`, which
    /// dictionaries do not know. `None` where a dictionary cannot hold such values at all, such as those of an Enum.
    pub fn in_dictionary(&self) -> Option<Self> {
        let full = self.without_low_cardinality();
        let row = full.unwrapped("Nullable").row()?;
        row.in_dictionary.then_some(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_dictionary(text: &str) -> Option<String> {
        let r#type: DataType = text.parse().unwrap();
        Some(r#type.in_dictionary()?.to_string())
    }

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
        let plain = TYPES
            .iter()
            .filter(|row| row.in_dictionary && !row.is_wrapper);
        for family in plain.map(|row| row.name) {
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
