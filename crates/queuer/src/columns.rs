//! The columns that a run reads: resolved once, from the tables of all shards. No I/O.

use std::collections::BTreeSet;

use batch::{Column, VERSION_COLUMN};
use settings::{matches_pattern, nearest};
use stores::clickhouse::{KeyExpression, SourceSettings, read};
use stores::contract::{HubDescription, HubEngine};

/// The table of one shard, as the shard describes it, and the shard's clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardTable {
    pub shard: u32,
    /// Milliseconds since the epoch.
    pub now_ms: i64,
    pub engine: HubEngine,
    pub sorting_key: KeyExpression,
    pub primary_key: KeyExpression,
    /// Those that can be read.
    pub columns: Vec<Column>,
}

/// What every task of a run reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceColumns {
    /// Columns of the sorting key: the identity of a row.
    pub key: Vec<Column>,
    /// How many of them are in the primary index: ranges are cut over these.
    pub indexed: usize,
    pub columns: Vec<Column>,
    pub changed: Column,
    /// Those of all shards, each once.
    pub engines: Vec<HubEngine>,
}

impl SourceColumns {
    /// The hub as the contract with the stores sees it.
    pub fn hub(&self, settings: &SourceSettings) -> HubDescription {
        HubDescription {
            table: format!("{}.{}", settings.database, settings.table),
            engines: self.engines.clone(),
            key: self.key.clone(),
            columns: self.columns.clone(),
            changed: self.changed.clone(),
        }
    }
}

/// Resolves the columns of the settings in the shards' tables. The error names the column and the shard, and what to do.
pub fn resolve(tables: &[ShardTable], settings: &SourceSettings) -> Result<SourceColumns, String> {
    let name = format!("{}.{}", settings.database, settings.table);
    let Some(first) = tables.first() else {
        return Err("there is no shard to read from".to_owned());
    };
    let key = first.sorting_key.columns();
    let key = key
        .filter(|key| !key.is_empty())
        .ok_or_else(|| unusable_key(first, &name, &first.sorting_key))?;
    let indexed = first.primary_key.columns();
    let indexed = indexed
        .filter(|indexed| !indexed.is_empty() && key.starts_with(indexed))
        .ok_or_else(|| unusable_key(first, &name, &first.primary_key))?
        .len();
    for table in tables {
        let same = table.sorting_key == first.sorting_key && table.primary_key == first.primary_key;
        if !same {
            return Err(format!(
                "{name} is ordered by ({}) on shard {} and by ({}) on shard {}; all shards must have one order",
                first.sorting_key, first.shard, table.sorting_key, table.shard
            ));
        }
    }
    let finder = ColumnFinder {
        tables,
        name: &name,
    };
    let key = finder.all(key)?;
    let changed = finder.find(&settings.changed_column)?;
    read::change_resolution_ms(&changed).map_err(|invalid| invalid.detail)?;
    for column in &key[..indexed] {
        read::bound_expression(column).map_err(|invalid| invalid.detail)?;
    }
    let columns = finder.all(&finder.chosen(settings, &key)?)?;
    let mut engines: Vec<HubEngine> = Vec::new();
    for table in tables {
        if !engines.contains(&table.engine) {
            engines.push(table.engine.clone());
        }
    }
    Ok(SourceColumns {
        engines,
        key,
        indexed,
        columns,
        changed,
    })
}

struct ColumnFinder<'a> {
    tables: &'a [ShardTable],
    name: &'a str,
}

impl ColumnFinder<'_> {
    /// Names of the columns that match the pattern, in the order of the tables, then the extra ones.
    fn chosen(&self, settings: &SourceSettings, key: &[Column]) -> Result<Vec<String>, String> {
        let pattern = &settings.column_pattern;
        let all = self.tables.iter().flat_map(|table| &table.columns);
        let matching = all.filter(|column| matches_pattern(pattern, &column.name));
        let matching: Vec<&String> = matching.map(|column| &column.name).collect();
        if matching.is_empty() {
            return Err(format!(
                "no column of {} matches source.column_pattern {pattern:?}",
                self.name
            ));
        }
        let mut seen: BTreeSet<&String> = key.iter().map(|column| &column.name).collect();
        let chosen = matching.into_iter().chain(&settings.extra_columns);
        let chosen: Vec<String> = chosen.filter(|name| seen.insert(name)).cloned().collect();
        if seen.iter().any(|name| *name == VERSION_COLUMN) {
            return Err(format!(
                "column {VERSION_COLUMN} of {} has the name that a row's version travels under; leave it out of source.column_pattern and source.extra_columns",
                self.name
            ));
        }
        Ok(chosen)
    }

    fn all(&self, names: &[String]) -> Result<Vec<Column>, String> {
        names.iter().map(|name| self.find(name)).collect()
    }

    /// The name most like one that no shard has: a column that another shard has is not misspelt.
    fn did_you_mean(&self, name: &str) -> String {
        let all = self.tables.iter().flat_map(|table| &table.columns);
        let mut names = all.map(|column| column.name.as_str());
        if names.clone().any(|other| other == name) {
            return String::new();
        }
        let near = nearest(name, &mut names);
        near.map(|near| format!("; did you mean {near}?"))
            .unwrap_or_default()
    }

    /// The column, if every shard has it with one type.
    fn find(&self, name: &str) -> Result<Column, String> {
        let (first, table_name) = (&self.tables[0], self.name);
        let mut found: Option<&Column> = None;
        for ShardTable { shard, columns, .. } in self.tables {
            let column = columns.iter().find(|column| column.name == name);
            let column = column.ok_or_else(|| {
                let near = self.did_you_mean(name);
                format!("column {name} is missing in {table_name} of shard {shard}{near}")
            })?;
            let expected = found.get_or_insert(column);
            if column.r#type != expected.r#type {
                return Err(format!(
                    "column {name} of {table_name} is {} on shard {shard}, but {} on shard {}",
                    column.r#type, expected.r#type, first.shard
                ));
            }
        }
        found
            .cloned()
            .ok_or_else(|| format!("column {name} is on no shard"))
    }
}

fn unusable_key(table: &ShardTable, name: &str, key: &KeyExpression) -> String {
    format!(
        "{name} of shard {} is ordered by ({key}): rows can be identified and cut into ranges only where the sorting key and the primary key are plain columns, in ascending order",
        table.shard
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, r#type: &str) -> Column {
        Column {
            name: name.into(),
            r#type: r#type.into(),
        }
    }

    fn table(shard: u32) -> ShardTable {
        ShardTable {
            shard,
            now_ms: 0,
            engine: HubEngine {
                name: "MergeTree".to_owned(),
                arguments: Vec::new(),
            },
            sorting_key: KeyExpression::new("country, keyword"),
            primary_key: KeyExpression::new("country, keyword"),
            columns: vec![
                column("country", "LowCardinality(String)"),
                column("keyword", "String"),
                column("raw_volume", "UInt64"),
                column("processed_volume", "UInt64"),
                column("processed_clicks", "Nullable(Float64)"),
                column("changed_at", "DateTime64(3)"),
            ],
        }
    }

    fn names(columns: &[Column]) -> Vec<&str> {
        columns.iter().map(|column| column.name.as_str()).collect()
    }

    fn refused(change: impl FnOnce(&mut [ShardTable; 2], &mut SourceSettings)) -> String {
        let mut tables = [table(0), table(1)];
        let mut settings = SourceSettings::default();
        change(&mut tables, &mut settings);
        resolve(&tables, &settings).unwrap_err()
    }

    #[test]
    fn key_pattern_and_extra_columns_are_read_once_each() {
        let settings = SourceSettings {
            extra_columns: vec![
                "raw_volume".into(),
                "processed_clicks".into(),
                "keyword".into(),
            ],
            ..SourceSettings::default()
        };
        let resolved = resolve(&[table(0), table(1)], &settings).unwrap();
        assert_eq!(names(&resolved.key), ["country", "keyword"]);
        assert_eq!(
            names(&resolved.columns),
            ["processed_volume", "processed_clicks", "raw_volume"]
        );
        assert_eq!(
            (resolved.indexed, resolved.changed.name.as_str()),
            (2, "changed_at")
        );
    }

    #[test]
    fn a_primary_key_can_be_the_beginning_of_the_sorting_key() {
        let mut table = table(0);
        table.primary_key = KeyExpression::new("country");
        let resolved = resolve(&[table], &SourceSettings::default()).unwrap();
        assert_eq!((resolved.key.len(), resolved.indexed), (2, 1));
    }

    #[test]
    fn a_column_that_a_shard_lacks_is_named_with_the_shard() {
        let error = refused(|tables, _| {
            tables[1].columns.remove(3);
        });
        assert!(error.contains("processed_volume is missing"), "{error}");
        assert!(error.ends_with("of shard 1"), "{error}");
        let error = refused(|tables, _| {
            tables[0].columns.remove(3);
        });
        assert!(error.ends_with("of shard 0"), "{error}");
    }

    #[test]
    fn a_column_of_another_type_is_named_with_both_types() {
        let error = refused(|tables, _| tables[1].columns[3].r#type = "UInt32".into());
        let both = "is UInt32 on shard 1, but UInt64 on shard 0";
        assert!(
            error.contains("processed_volume") && error.contains(both),
            "{error}"
        );
    }

    #[test]
    fn keys_that_cannot_be_cut_are_refused() {
        for key in [
            "",
            "cityHash64(keyword)",
            "country, keyword DESC",
            "country, -changed_at",
        ] {
            let error = refused(|tables, _| tables[0].sorting_key = KeyExpression::new(key));
            assert!(error.contains("plain columns"), "{key}: {error}");
        }
        let error = refused(|tables, _| {
            for table in tables {
                table.columns[1].r#type = "Nullable(String)".into();
            }
        });
        assert!(error.contains("keyword is Nullable(String)"), "{error}");
        let error = refused(|tables, _| tables[1].primary_key = KeyExpression::new("country"));
        assert!(error.contains("one order"), "{error}");
    }

    #[test]
    fn a_change_column_that_holds_no_time_is_refused() {
        let error = refused(|_, settings| settings.changed_column = "processed_clicks".into());
        assert!(error.contains("Nullable(Float64)"), "{error}");
        let error = refused(|_, settings| settings.changed_column = "modified".into());
        assert!(error.contains("modified is missing"), "{error}");
    }

    #[test]
    fn a_pattern_without_columns_and_a_column_named_as_the_version_are_refused() {
        let error = refused(|_, settings| settings.column_pattern = "ready_*".into());
        assert!(error.contains("ready_*"), "{error}");
        let error = refused(|tables, settings| {
            for table in tables {
                table.columns.push(column("_version", "UInt64"));
            }
            settings.extra_columns = vec!["_version".into()];
        });
        assert!(error.contains("leave it out"), "{error}");
    }
}
