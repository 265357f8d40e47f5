//! The wanted dictionary: its columns, and the statements that create it and compare it with its table.

use batch::{Column, Reason, VERSION_COLUMN};
use serde::Deserialize;
use stores::clickhouse::{
    Query, Replica, TableDescription, TargetSettings, quote_identifier, quote_string,
};

use crate::DictionarySettings;
use crate::failure::{RefreshFailure, RefreshStep};
use crate::state::{DictionaryTag, next_name, qualified};
use crate::types::in_dictionary;

const STEP: RefreshStep = RefreshStep::ConfineShard;

/// A dictionary over the rows of one shard's table, with the types that the columns have in it.
#[derive(Debug, Clone)]
pub(crate) struct DictionarySpec {
    /// Qualified and quoted, as all names here that are ready for a statement.
    pub live: String,
    pub next: String,
    /// The same as text, for functions that take the name so.
    next_text: String,
    table: String,
    key: Vec<Column>,
    attributes: Vec<Column>,
    /// Name of the table's version column.
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
        atomic(replica, &settings.database).await?;
        let table = describe(replica, target).await?;
        let endpoint = format!(
            "{}: {}.{}",
            replica.address(),
            target.database,
            target.table
        );
        let Chosen { key, attributes } = choose(&table, &settings.attributes).map_err(|what| {
            RefreshFailure::quarantine(STEP, Reason::WrongSchema, format!("{endpoint}: {what}"))
        })?;
        let next = next_name(settings);
        let own_rows = (!settings.shard_expression.trim().is_empty())
            .then(|| format!("modulo({}, {shards}) = {shard}", settings.shard_expression));
        Ok(Self {
            live: qualified(settings, &settings.name),
            next: qualified(settings, &next),
            // `dictGet` takes no quotes in it: the settings let no name pass that needs them.
            next_text: quote_string(&format!("{}.{next}", settings.database)),
            table: format!(
                "{}.{}",
                quote_identifier(&target.database),
                quote_identifier(&target.table)
            ),
            key,
            attributes,
            version: target.mapping().target_name(VERSION_COLUMN),
            own_rows,
            layout: settings.layout.sql(),
            credentials: credentials(settings)?,
        })
    }

    /// Creates the next dictionary, without loading it.
    pub fn create(&self, tag: &DictionaryTag) -> Query {
        let columns = self.key.iter().chain(&self.attributes);
        let declared: Vec<String> = columns
            .clone()
            .map(|c| format!("    {} {}", quote_identifier(&c.name), c.r#type))
            .collect();
        // Of each key the row of the highest version alone, whatever is merged already.
        let source = format!(
            "SELECT {} FROM {} FINAL{}",
            names(columns),
            self.table,
            self.filter(&[])
        );
        let comment = serde_json::to_string(tag).expect("a tag is plain data");
        Query::new(format!(
            "CREATE DICTIONARY {}\n(\n{}\n)\nPRIMARY KEY {}\nSOURCE(CLICKHOUSE(QUERY {}{}))\n\
             LAYOUT({})\nLIFETIME(0)\nCOMMENT {}",
            self.next,
            declared.join(",\n"),
            names(&self.key),
            quote_string(&source),
            self.credentials,
            self.layout,
            quote_string(&comment)
        ))
    }

    /// Counts the keys of the shard's own rows as `keys`. The dictionary's key is the table's whole sorting key,
    /// so that with FINAL there is one row for each.
    pub fn count_keys(&self) -> Query {
        Query::new(format!(
            "SELECT count() AS keys FROM {} FINAL{}",
            self.table,
            self.filter(&[])
        ))
    }

    /// Compares the newest `limit` keys of versions up to `version` with the next dictionary. Answers with `key` and
    /// `attribute`, as texts, for each difference. A row that changed again since is of a later run, and left out.
    pub fn probe(&self, version: i64, limit: u32) -> Query {
        let version_column = quote_identifier(&self.version);
        let up_to = format!("{version_column} <= {version}");
        let key = tuple_of(&self.key);
        let checks: Vec<String> = self
            .attributes
            .iter()
            .map(|attribute| {
                let name = quote_identifier(&attribute.name);
                let label = quote_string(&attribute.name);
                // As texts of tuples: equal for NULL and NULL, for NaN and NaN, and whatever stores texts by number.
                format!(
                    "if(toString(tuple(dictGet({}, {label}, {key}))) = toString(tuple({name})), '', {label})",
                    self.next_text
                )
            })
            .collect();
        Query::new(format!(
            "SELECT toString({key}) AS key, arrayJoin(arrayFilter(x -> x != '', \
             arrayConcat(if(dictHas({dictionary}, {key}), [], ['(key)']), [{checks}]))) AS attribute \
             FROM {table} FINAL{own} AND {key} IN (SELECT {key} FROM {table}{own} ORDER BY {version_column} DESC \
             LIMIT {limit}) LIMIT 10",
            dictionary = self.next_text,
            checks = checks.join(", "),
            table = self.table,
            own = self.filter(&[&up_to]),
        ))
    }

    fn filter(&self, more: &[&str]) -> String {
        let conditions = self.own_rows.iter().map(String::as_str);
        let conditions: Vec<&str> = conditions.chain(more.iter().copied()).collect();
        match conditions.as_slice() {
            [] => String::new(),
            conditions => format!(" WHERE {}", conditions.join(" AND ")),
        }
    }
}

/// Refuses a database in which dictionaries cannot be exchanged atomically, or not on one replica alone.
async fn atomic(replica: &Replica, database: &str) -> Result<(), RefreshFailure> {
    #[derive(Deserialize)]
    struct DatabaseEngine {
        engine: String,
    }
    let query = Query::new("SELECT engine FROM system.databases WHERE name = {database:String}")
        .param("database", database);
    let rows: Vec<DatabaseEngine> = replica
        .rows(&query)
        .await
        .map_err(|e| RefreshFailure::for_statement(STEP, &e))?;
    let endpoint = format!("{}: database {database}", replica.address());
    match rows.first().map(|row| row.engine.as_str()) {
        Some("Atomic") => Ok(()),
        None => Err(RefreshFailure::quarantine(
            STEP,
            Reason::MissingTarget,
            format!("{endpoint} does not exist; dictionary.database has to name one that does"),
        )),
        Some(engine) => Err(RefreshFailure::quarantine(
            STEP,
            Reason::WrongSchema,
            format!(
                "{endpoint} is of engine {engine}; dictionary.database has to name one of engine Atomic"
            ),
        )),
    }
}

async fn describe(
    replica: &Replica,
    target: &TargetSettings,
) -> Result<TableDescription, RefreshFailure> {
    let found = replica.describe(&target.database, &target.table).await;
    let found = found.map_err(|error| RefreshFailure::for_statement(STEP, &error))?;
    found.ok_or_else(|| {
        RefreshFailure::quarantine(
            STEP,
            Reason::MissingTarget,
            format!(
                "{}: {}.{} does not exist",
                replica.address(),
                target.database,
                target.table
            ),
        )
    })
}

/// The key of a dictionary is a tuple, also if it is of one column.
fn tuple_of(key: &[Column]) -> String {
    format!("tuple({})", names(key))
}

fn names<'a>(columns: impl IntoIterator<Item = &'a Column>) -> String {
    let names: Vec<_> = columns
        .into_iter()
        .map(|column| quote_identifier(&column.name))
        .collect();
    names.join(", ")
}

/// The columns that a dictionary has, with their types in it.
struct Chosen {
    /// In the order of the table's sorting key.
    key: Vec<Column>,
    attributes: Vec<Column>,
}

fn choose(table: &TableDescription, wanted: &[String]) -> Result<Chosen, String> {
    let columns = table.readable_columns();
    let find = |name: &str| columns.iter().find(|column| column.name == name);
    let no_column = |name: &dyn std::fmt::Display| {
        format!("it is ordered by {name}, which is no column: a dictionary has columns as its key")
    };
    let names = table.sorting_key.columns();
    let names = names.ok_or_else(|| no_column(&table.sorting_key))?;
    let key = names
        .iter()
        .map(|name| find(name).ok_or_else(|| no_column(name)));
    let key: Vec<&Column> = key.collect::<Result<_, _>>()?;
    if key.is_empty() {
        return Err(
            "it is not ordered by any column, so that the dictionary has no key".to_owned(),
        );
    }
    let is_key = |name: &str| key.iter().any(|column| column.name == name);
    let attributes: Vec<&Column> = if wanted.is_empty() {
        columns.iter().filter(|c| !is_key(&c.name)).collect()
    } else {
        let named = wanted.iter().map(|name| match find(name) {
            Some(_) if is_key(name) => Err(format!(
                "{name:?} of dictionary.attributes is a column of the key, which every dictionary has"
            )),
            Some(column) => Ok(column),
            None => Err(format!("it has no column {name:?} of dictionary.attributes")),
        });
        named.collect::<Result<_, _>>()?
    };
    if attributes.is_empty() {
        return Err("it has no columns besides its key: a dictionary needs one".to_owned());
    }
    Ok(Chosen {
        key: typed_all(key)?,
        attributes: typed_all(attributes)?,
    })
}

fn typed_all(columns: Vec<&Column>) -> Result<Vec<Column>, String> {
    columns.into_iter().map(holdable).collect()
}

fn holdable(column: &Column) -> Result<Column, String> {
    let r#type = in_dictionary(&column.r#type).ok_or_else(|| {
        format!(
            "column {:?} is {}, which a dictionary cannot hold; name the others in dictionary.attributes, or make it \
             a String or a number with ALTER TABLE … MODIFY COLUMN",
            column.name, column.r#type
        )
    })?;
    Ok(Column {
        name: column.name.clone(),
        r#type,
    })
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
