//! Types of ClickHouse: <https://clickhouse.com/docs/sql-reference/data-types>.

use std::fmt;
use std::str::FromStr;

use super::syntax::{end_of_quoted, identifier};

/// A type with its arguments. [`fmt::Display`] writes it as the server does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataType {
    /// Such as `UInt8` or `Array`; the name of the function of an `AggregateFunction` is read as a type too.
    pub name: String,
    /// What stands in the brackets; empty without them.
    arguments: Vec<TypeArgument>,
}

/// One argument of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
enum TypeArgument {
    /// A type, such as that of an array's elements.
    Type(DataType),
    /// A type with a name, such as an element of a named tuple; the name as it is written, maybe in backquotes.
    Named { name: String, r#type: DataType },
    /// Anything else, as it is written: a number, a time zone, a member of an enum, a parameter.
    Literal(String),
}

/// Text that is not the name of a type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a type of ClickHouse")]
pub struct NotADataType(pub String);

impl DataType {
    /// The type inside, if this is `outer` around one; otherwise itself.
    pub(crate) fn unwrapped(&self, outer: &str) -> &Self {
        match self.arguments.as_slice() {
            [TypeArgument::Type(inner)] if self.name == outer => inner,
            _ => self,
        }
    }

    /// The type inside a wrapper such as `Nullable` or `Array`: the first argument that is a type.
    pub fn inner(&self) -> Option<&Self> {
        self.types().next()
    }

    /// The type without `LowCardinality`, also where that is inside of other types.
    #[must_use]
    pub fn without_low_cardinality(&self) -> Self {
        let mut plain = self.unwrapped("LowCardinality").clone();
        for argument in &mut plain.arguments {
            if let TypeArgument::Type(r#type) | TypeArgument::Named { r#type, .. } = argument {
                *r#type = r#type.without_low_cardinality();
            }
        }
        plain
    }

    /// The type with `to` in place of each type of the name `from`, itself or inside of it.
    #[must_use]
    pub(super) fn replaced(&self, from: &str, to: &str) -> Self {
        let mut replaced = self.clone();
        if replaced.name == from {
            to.clone_into(&mut replaced.name);
        }
        for argument in &mut replaced.arguments {
            if let TypeArgument::Type(r#type) | TypeArgument::Named { r#type, .. } = argument {
                *r#type = r#type.replaced(from, to);
            }
        }
        replaced
    }

    /// Whether it is called so, or any type inside of it is.
    pub fn contains(&self, name: &str) -> bool {
        self.name == name || self.types().any(|r#type| r#type.contains(name))
    }

    /// The argument of this number, if it is a number.
    pub fn number(&self, argument: usize) -> Option<u32> {
        match self.arguments.get(argument)? {
            TypeArgument::Literal(text) => text.parse().ok(),
            TypeArgument::Type(_) | TypeArgument::Named { .. } => None,
        }
    }

    /// The names of a tuple's elements, as they are written; `None` for one without a name.
    pub(crate) fn element_names(&self) -> impl Iterator<Item = Option<&str>> {
        self.arguments.iter().map(|argument| match argument {
            TypeArgument::Named { name, .. } => Some(name.as_str()),
            TypeArgument::Type(_) | TypeArgument::Literal(_) => None,
        })
    }

    /// The arguments that are neither types nor named ones, such as the members of an enum.
    pub(crate) fn literals(&self) -> impl Iterator<Item = &str> {
        self.arguments.iter().filter_map(|argument| match argument {
            TypeArgument::Literal(text) => Some(text.as_str()),
            TypeArgument::Type(_) | TypeArgument::Named { .. } => None,
        })
    }

    /// The arguments that are types, in their order.
    pub(crate) fn types(&self) -> impl Iterator<Item = &Self> {
        self.arguments.iter().filter_map(|argument| match argument {
            TypeArgument::Type(r#type) | TypeArgument::Named { r#type, .. } => Some(r#type),
            TypeArgument::Literal(_) => None,
        })
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (n, argument) in self.arguments.iter().enumerate() {
            f.write_str(if n == 0 { "(" } else { ", " })?;
            match argument {
                TypeArgument::Type(r#type) => write!(f, "{type}")?,
                TypeArgument::Named { name, r#type } => write!(f, "{name} {type}")?,
                TypeArgument::Literal(text) => f.write_str(text)?,
            }
        }
        if !self.arguments.is_empty() {
            f.write_str(")")?;
        }
        Ok(())
    }
}

/// Takes nothing that could end a statement or begin a comment in it, so that a type that was read can be written
/// into one.
impl FromStr for DataType {
    type Err = NotADataType;

    fn from_str(text: &str) -> Result<Self, NotADataType> {
        let mut parser = Parser { rest: text.trim() };
        let r#type = parser.r#type().filter(|_| parser.rest.is_empty());
        r#type.ok_or_else(|| NotADataType(text.to_owned()))
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn r#type(&mut self) -> Option<DataType> {
        let name = self.word()?.to_owned();
        let mut arguments = Vec::new();
        if self.takes('(') && !self.takes(')') {
            arguments.push(self.argument()?);
            while self.takes(',') {
                arguments.push(self.argument()?);
            }
            self.takes(')').then_some(())?;
        }
        Some(DataType { name, arguments })
    }

    fn argument(&mut self) -> Option<TypeArgument> {
        let start = self.rest;
        if let Some(r#type) = self.r#type()
            && self.at_end_of_argument()
        {
            return Some(TypeArgument::Type(r#type));
        }
        self.rest = start;
        if let Some(name) = self.name()
            && let Some(r#type) = self.r#type()
            && self.at_end_of_argument()
        {
            let name = name.to_owned();
            return Some(TypeArgument::Named { name, r#type });
        }
        self.rest = start;
        while !self.at_end_of_argument() {
            self.literal()?;
        }
        let text = start[..start.len() - self.rest.len()].trim_end();
        (!text.is_empty()).then(|| TypeArgument::Literal(text.to_owned()))
    }

    fn at_end_of_argument(&self) -> bool {
        self.rest.starts_with([',', ')'])
    }

    /// A word that begins with a letter.
    fn word(&mut self) -> Option<&'a str> {
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
        let is_number = self.rest.starts_with(|c: char| c.is_ascii_digit());
        (end > 0 && !is_number).then(|| self.take(end))
    }

    /// A word, several of them with points in between, or a name in backquotes.
    fn name(&mut self) -> Option<&'a str> {
        if self.rest.starts_with('`') {
            let end = end_of_quoted(self.rest, 0)?;
            identifier(&self.rest[..end])?;
            return Some(self.take(end));
        }
        let is_path = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let end = self.rest.find(|c| !is_path(c)).unwrap_or(self.rest.len());
        (end > 0).then(|| self.take(end))
    }

    /// A piece of a literal: a text in quotes, a number, a word or `=`.
    fn literal(&mut self) -> Option<()> {
        if self.rest.starts_with('\'') {
            let end = end_of_quoted(self.rest, 0)?;
            self.take(end);
            return Some(());
        }
        if self.takes('=') {
            return Some(());
        }
        // A sign, and never the beginning of a comment.
        if let Some(number) = self.rest.strip_prefix('-') {
            if !number.starts_with(|c: char| c.is_ascii_digit()) {
                return None;
            }
            self.rest = number;
        }
        self.name().map(drop)
    }

    fn takes(&mut self, c: char) -> bool {
        let takes = self.rest.starts_with(c);
        if takes {
            self.take(c.len_utf8());
        }
        takes
    }

    /// What stands up to `end`; the spaces after it are left out.
    fn take(&mut self, end: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest.trim_start();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> DataType {
        text.parse().unwrap()
    }

    #[test]
    fn types_are_written_as_they_were_read() {
        for text in [
            "UInt8",
            "LowCardinality(Nullable(String))",
            "DateTime64(3, 'Europe/Paris')",
            "Enum8('it\\'s) --' = -1, 'b' = 2)",
            "Tuple(a UInt8, `b, c` Array(String))",
            "Map(LowCardinality(String), Array(UInt8))",
            "Decimal(18, 4)",
            "Decimal32(2)",
            "AggregateFunction(quantiles(0.5, 0.9), UInt64)",
            "AggregateFunction(1, sumMap, Array(UInt8), Array(UInt8))",
            "SimpleAggregateFunction(sum, Int64)",
            "JSON(max_dynamic_paths=8, a.b UInt32, SKIP c.d, SKIP REGEXP 'x, y')",
            "IntervalSecond",
            "Variant(String, UInt8)",
        ] {
            assert_eq!(parse(text).to_string(), text);
        }
    }

    #[test]
    fn what_could_end_a_statement_is_no_type() {
        for text in [
            "UInt64) ENGINE = Log --",
            "",
            "UInt64; DROP TABLE x",
            "a(b",
            "Enum8('a' = 1",
            "Int8 /* */",
            "Int8 -- x",
            "Array(Int8 -- x)",
            "Array(Int8 /* */)",
            "Array(Int8,)",
            "Tuple(`a Int8)",
            "Decimal(18, 4",
            "3",
        ] {
            assert_eq!(text.parse::<DataType>(), Err(NotADataType(text.to_owned())));
        }
    }

    #[test]
    fn named_and_plain_elements_and_the_spellings_of_a_decimal_are_kept_apart() {
        assert_ne!(parse("Tuple(a UInt8)"), parse("Tuple(UInt8)"));
        assert_ne!(parse("Tuple(a UInt8)"), parse("Tuple(b UInt8)"));
        assert_ne!(parse("Decimal32(2)"), parse("Decimal(9, 2)"));
    }

    #[test]
    fn wrappers_are_seen_and_taken_off_wherever_they_are() {
        let text =
            "Array(Tuple(a LowCardinality(Nullable(String)), b Enum8('LowCardinality(' = 1)))";
        assert!(parse(text).contains("Nullable"));
        assert!(!parse("Enum8('Nullable(' = 1)").contains("Nullable"));
        assert_eq!(
            parse(text).without_low_cardinality().to_string(),
            "Array(Tuple(a Nullable(String), b Enum8('LowCardinality(' = 1)))"
        );
        let inner = parse("LowCardinality(String)");
        assert_eq!(*inner.unwrapped("LowCardinality"), parse("String"));
        assert_eq!(
            parse("String").unwrapped("LowCardinality"),
            &parse("String")
        );
        assert_eq!(parse("Array(UInt8)").inner(), Some(&parse("UInt8")));
        assert_eq!(parse("DateTime64(3, 'UTC')").number(0), Some(3));
        assert_eq!(parse("DateTime64(3, 'UTC')").number(1), None);
    }

    #[test]
    fn a_real_servers_types_are_all_read() {
        let database = testkit::Database::create();
        let names = database.run(0, "SELECT name FROM system.data_type_families FORMAT TSV");
        assert!(names.lines().count() > 50);
        for name in names.lines().filter(|name| !name.contains(' ')) {
            assert_eq!(parse(name).to_string(), name);
        }
    }
}
