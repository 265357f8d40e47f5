//! ClickHouse over its HTTP interface: a cluster of shards, each with replicas to fail over to.
//!
//! Interface: <https://clickhouse.com/docs/interfaces/http>.

mod address;
mod cluster;
mod codes;
mod data_type;
pub mod ddl;
mod describe;
mod error;
mod insert;
mod pinned;
mod query;
pub mod read;
mod replica;
mod settings;
mod stream;
mod syntax;

pub use crate::ConfigError;
pub use cluster::{Cluster, Shard};
pub use data_type::{DataType, NotADataType};
pub use describe::{ColumnComputation, ColumnDescription, KeyExpression, TableDescription};
pub use error::{Error, ErrorKind, classify};
pub use query::{Query, Summary};
pub use replica::Replica;
pub use settings::{ConnectionSettings, Replication, SourceSettings, TargetSettings};
pub use stream::ByteStream;

/// A name as it stands in a statement: in backquotes, with those inside it escaped.
pub fn quote_identifier(name: &str) -> String {
    quote(name, '`')
}

/// A table or a dictionary as it stands in a statement.
pub fn qualified(database: &str, name: &str) -> String {
    format!("{}.{}", quote_identifier(database), quote_identifier(name))
}

/// The name that a text is, without its backquotes; `None` for any other expression.
pub(crate) fn unquote_identifier(text: &str) -> Option<String> {
    syntax::identifier(text)
}

/// A text as it stands in a statement: in single quotes, with those inside it escaped.
/// Values belong into [`Query::param`]; this is for the places of DDL that take none.
pub fn quote_string(text: &str) -> String {
    quote(text, '\'')
}

fn quote(text: &str, mark: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for c in text.chars() {
        if c == mark || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push(mark);
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_leaves_no_way_out_of_the_quotes() {
        assert_eq!(quote_identifier("a`; DROP \\"), r"`a\`; DROP \\`");
        assert_eq!(quote_string("it's \\ `so`"), r"'it\'s \\ `so`'");
    }
}
