use ::clickhouse::QuerySummary;

/// Name of the setting that deduplicates a repeated insert.
const DEDUPLICATION_TOKEN: &str = "insert_deduplication_token";

/// A statement with its parameters and settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    sql: String,
    pub(super) params: Vec<QueryParam>,
    settings: Vec<(String, String)>,
}

/// The value of a `{name:Type}` in a statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueryParam {
    pub name: String,
    pub value: String,
}

impl Query {
    /// `sql` names its parameters as `{name:Type}`; `?` has no meaning in it.
    pub fn new(sql: impl Into<String>) -> Self {
        Self {
            sql: sql.into(),
            params: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// Gives `{name:Type}` its value. The type is any scalar or `Identifier`; the value is its text.
    /// Bytes that are no text: `unhex({name:String})`.
    #[must_use]
    pub fn param(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        let (name, value) = (name.to_owned(), value.to_string());
        self.params.push(QueryParam { name, value });
        self
    }

    /// Sets a setting of the server for this statement.
    #[must_use]
    pub fn setting(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.settings.retain(|(existing, _)| existing != name);
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// Makes an insert idempotent for as long as the table remembers its token (`deduplication_window`).
    /// One token, one body: the server compares the token alone.
    #[must_use]
    pub fn deduplication_token(self, token: impl std::fmt::Display) -> Self {
        self.setting(DEDUPLICATION_TOKEN, token)
    }

    pub fn sql(&self) -> &str {
        &self.sql
    }

    pub(super) fn has_setting(&self, name: &str) -> bool {
        self.settings.iter().any(|(existing, _)| existing == name)
    }

    pub(super) fn has_deduplication_token(&self) -> bool {
        self.has_setting(DEDUPLICATION_TOKEN)
    }

    /// The URL parameters that are the statement's own: parameters as `param_NAME`, and settings.
    pub(super) fn options(&self) -> impl Iterator<Item = (String, String)> {
        let params = self.params.iter();
        let params = params.map(|param| (format!("param_{}", param.name), escaped(&param.value)));
        params.chain(self.settings.iter().cloned())
    }
}

/// The server reads the values of parameters as it reads a TabSeparated field.
fn escaped(value: &str) -> String {
    let escapes = [
        ('\\', "\\\\"),
        ('\t', "\\t"),
        ('\n', "\\n"),
        ('\r', "\\r"),
        ('\0', "\\0"),
    ];
    // The backslash comes first: the others bring more of them.
    let escape = |text: String, (c, escaped): (char, &str)| text.replace(c, escaped);
    escapes.into_iter().fold(value.to_owned(), escape)
}

/// The server's own counts of what a statement did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub read_rows: u64,
    pub read_bytes: u64,
    /// Rows that an insert wrote; 0 when its token was known.
    pub written_rows: u64,
}

impl Summary {
    /// From the header `X-ClickHouse-Summary`: a JSON object of numbers written as strings.
    pub(super) fn from_header(text: &str) -> Option<Self> {
        let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(text).ok()?;
        let number = |name: &str| match fields.get(name) {
            Some(serde_json::Value::String(text)) => text.parse().unwrap_or(0),
            Some(value) => value.as_u64().unwrap_or(0),
            None => 0,
        };
        Some(Self {
            read_rows: number("read_rows"),
            read_bytes: number("read_bytes"),
            written_rows: number("written_rows"),
        })
    }
}

impl From<&QuerySummary> for Summary {
    fn from(summary: &QuerySummary) -> Self {
        Self {
            read_rows: summary.read_rows().unwrap_or(0),
            read_bytes: summary.read_bytes().unwrap_or(0),
            written_rows: summary.written_rows().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_escaped_as_the_server_reads_them() {
        let query = Query::new("SELECT {x:String}").param("x", "a\\b\tc\nd'e");
        let options: Vec<_> = query.options().collect();
        assert_eq!(
            options,
            [("param_x".to_owned(), "a\\\\b\\tc\\nd'e".to_owned())]
        );
    }

    #[test]
    fn the_last_value_of_a_setting_counts() {
        let query = Query::new("SELECT 1")
            .setting("max_threads", 1)
            .setting("max_threads", 2)
            .setting("query_id", "q");
        let options: Vec<_> = query.options().collect();
        assert_eq!(
            options,
            [
                ("max_threads".to_owned(), "2".to_owned()),
                ("query_id".to_owned(), "q".to_owned())
            ]
        );
    }

    #[test]
    fn a_summary_reads_numbers_written_as_strings_and_refuses_what_is_no_object() {
        let summary = Summary::from_header(r#"{"written_rows":"12","read_rows":"7","x":"y"}"#);
        let expected = Summary {
            read_rows: 7,
            written_rows: 12,
            ..Summary::default()
        };
        assert_eq!(summary, Some(expected));
        assert_eq!(Summary::from_header("<html>"), None);
    }
}
