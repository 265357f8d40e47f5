//! The wanted dictionary: its columns, and the statements that create it and compare it with its table.

use batch::{Column, Reason, VERSION_COLUMN};
use serde::Deserialize;
use stores::clickhouse::{
    Query, Replica, TargetSettings, qualified, quote_identifier, quote_string,
};
use stores::contract::DictionaryColumns;

use crate::DictionarySettings;
use crate::failure::{RefreshFailure, RefreshStep};
use crate::state::DictionaryTag;

const STEP: RefreshStep = RefreshStep::ConfineShard;

/// A dictionary over the rows of one shard's table, with the types that the columns have in it.
#[derive(Debug, Clone)]
pub(crate) struct DictionarySpec {
    /// The next dictionary, as statements name it.
    next: String,
    /// The same as a text, for functions that take the name so.
    next_text: String,
    table: String,
    key: Vec<Column>,
    attributes: Vec<Column>,
    /// The table's version column, quoted.
    version: String,
    /// Condition of the shard's own rows.
    own_rows: Option<String>,
    layout: &'static str,
    /// `USER … PASSWORD …`, or nothing.
    credentials: String,
}

impl DictionarySpec {
    /// Reads the table's columns from a replica. Shard `shard` of `shards`.
    pub async fn load(
        replica: &Replica,
        target: &TargetSettings,
        settings: &DictionarySettings,
        shard: u32,
        shards: u32,
    ) -> Result<Self, RefreshFailure> {
        check_database(replica, &settings.database).await?;
        let (database, table) = (&target.database, &target.table);
        let refused = |reason, what: String| {
            let address = replica.address();
            RefreshFailure::quarantine(STEP, reason, format!("{address}: {database}.{table}{what}"))
        };
        let found = replica.describe(database, table).await;
        let found = found.map_err(|error| RefreshFailure::for_statement(STEP, &error))?;
        let found =
            found.ok_or_else(|| refused(Reason::MissingTarget, " does not exist".to_owned()))?;
        let DictionaryColumns { key, attributes } = DictionaryColumns::choose(
            &found.readable_columns(),
            &found.sorting_key,
            &settings.attributes,
        )
        .map_err(|problems| refused(Reason::WrongSchema, format!(": {}", problems.join("; "))))?;
        let own_rows = (!settings.shard_expression.trim().is_empty())
            .then(|| format!("modulo({}, {shards}) = {shard}", settings.shard_expression));
        Ok(Self {
            next: settings.next(),
            // `dictGet` takes no quotes in it: the settings let no name pass that needs them.
            next_text: quote_string(&format!("{}.{}", settings.database, settings.next_name())),
            table: qualified(database, table),
            key,
            attributes,
            version: quote_identifier(&target.mapping().target_name(VERSION_COLUMN)),
            own_rows,
            layout: settings.layout.sql(),
            credentials: credentials(settings)?,
        })
    }

    /// Creates the next dictionary, without loading it.
    pub fn create(&self, tag: &DictionaryTag) -> Query {
        let columns = self.key.iter().chain(&self.attributes);
        let declaration = |c: &Column| format!("    {} {}", quote_identifier(&c.name), c.r#type);
        let declared: Vec<String> = columns.clone().map(declaration).collect();
        // Of each key the row of the highest version alone, whatever is merged already.
        let source = quote_string(&format!(
            "SELECT {} FROM {}",
            names(columns),
            self.rows(None)
        ));
        let comment = serde_json::to_string(tag).expect("a tag is plain data");
        Query::new(format!(
            "CREATE DICTIONARY {next}\n(\n{declared}\n)\nPRIMARY KEY {key}\n\
             SOURCE(CLICKHOUSE(QUERY {source}{credentials}))\nLAYOUT({layout})\nLIFETIME(0)\nCOMMENT {comment}",
            next = self.next,
            declared = declared.join(",\n"),
            key = names(&self.key),
            credentials = self.credentials,
            layout = self.layout,
            comment = quote_string(&comment),
        ))
    }

    /// Counts the keys of the shard's own rows as `keys`. The dictionary's key is the table's whole sorting key,
    /// so that with FINAL there is one row for each.
    pub fn count_keys(&self) -> Query {
        Query::new(format!("SELECT count() AS keys FROM {}", self.rows(None)))
    }

    /// Compares the newest `limit` keys of versions up to `version` with the next dictionary. Answers with `key` and
    /// `attribute`, as texts, for each difference. A row that changed again since is of a later run, and left out.
    pub fn probe(&self, version: i64, limit: u32) -> Query {
        let Self {
            next_text,
            table,
            version: version_column,
            ..
        } = self;
        let up_to = format!("{version_column} <= {version}");
        // The key of a dictionary is a tuple, also if it is of one column.
        let key = format!("tuple({})", names(&self.key));
        let checks = self.attributes.iter().map(|attribute| {
            let name = quote_identifier(&attribute.name);
            let label = quote_string(&attribute.name);
            // As texts of tuples: equal for NULL and NULL, for NaN and NaN, and for texts that are stored by number.
            format!("if(toString(tuple(dictGet({next_text}, {label}, {key}))) = toString(tuple({name})), '', {label})")
        });
        let checks: Vec<String> = checks.collect();
        Query::new(format!(
            "SELECT toString({key}) AS key, arrayJoin(arrayFilter(x -> x != '', \
             arrayConcat(if(dictHas({next_text}, {key}), [], ['(key)']), [{checks}]))) AS attribute \
             FROM {rows} AND {key} IN (SELECT {key} FROM {table}{own} ORDER BY {version_column} DESC \
             LIMIT {limit}) LIMIT 10",
            checks = checks.join(", "),
            rows = self.rows(Some(&up_to)),
            own = self.filter(Some(&up_to)),
        ))
    }

    /// The shard's own rows, each key once, and of them those of another condition.
    fn rows(&self, and: Option<&str>) -> String {
        format!("{} FINAL{}", self.table, self.filter(and))
    }

    /// `WHERE` with the condition of the shard's own rows, and another one.
    fn filter(&self, and: Option<&str>) -> String {
        let conditions: Vec<&str> = self.own_rows.as_deref().into_iter().chain(and).collect();
        if conditions.is_empty() {
            return String::new();
        }
        format!(" WHERE {}", conditions.join(" AND "))
    }
}

#[derive(Deserialize)]
struct DatabaseEngine {
    engine: String,
}

/// Refuses a database in which dictionaries cannot be exchanged atomically, or not on one replica alone.
async fn check_database(replica: &Replica, database: &str) -> Result<(), RefreshFailure> {
    let query = Query::new("SELECT engine FROM system.databases WHERE name = {database:String}")
        .param("database", database);
    let rows = replica.rows::<DatabaseEngine>(&query).await;
    let rows = rows.map_err(|error| RefreshFailure::for_statement(STEP, &error))?;
    let (reason, what) = match rows.first().map(|row| row.engine.as_str()) {
        Some("Atomic") => return Ok(()),
        None => (
            Reason::MissingTarget,
            "does not exist; dictionary.database has to name one that does".to_owned(),
        ),
        Some(engine) => (
            Reason::WrongSchema,
            format!("is of engine {engine}; dictionary.database has to name one of engine Atomic"),
        ),
    };
    let what = format!("{}: database {database} {what}", replica.address());
    Err(RefreshFailure::quarantine(STEP, reason, what))
}

fn names<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    let names: Vec<_> = columns
        .into_iter()
        .map(|column| quote_identifier(&column.name))
        .collect();
    names.join(", ")
}

fn credentials(settings: &DictionarySettings) -> Result<String, RefreshFailure> {
    if settings.source_user.is_empty() {
        return Ok(String::new());
    }
    let mut text = format!(" USER {}", quote_string(&settings.source_user));
    if let Some(password) = &settings.source_password {
        let password = password
            .reveal()
            .map_err(|e| RefreshFailure::retry(STEP, e))?;
        text.push_str(&format!(" PASSWORD {}", quote_string(&password)));
    }
    Ok(text)
}
