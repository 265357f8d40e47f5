//! Which columns a run reads: resolved once, from what all shards have. Pure.

use std::collections::BTreeSet;

use batch::{Column, VERSION_COLUMN};
use settings::matches_pattern;
use stores::clickhouse::{SourceSettings, read};

/// The table of one shard, as the shard describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub shard: u32,
    /// `ORDER BY` and `PRIMARY KEY`, as the server writes them.
    pub sorting_key: String,
    pub primary_key: String,
    pub columns: Vec<Column>,
}

/// What every task of a run reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Columns of the sorting key: the identity of a row.
    pub key: Vec<Column>,
    /// How many of them are in the primary index: ranges are cut over these.
    pub indexed: usize,
    pub columns: Vec<Column>,
    pub changed: Column,
}

/// Resolves the columns of the settings in the shards' tables. The error names the column and the
/// shard, and says what to do.
pub fn resolve(tables: &[Table], settings: &SourceSettings) -> Result<Resolved, String> {
    let name = format!("{}.{}", settings.database, settings.table);
    let Some(first) = tables.first() else {
        return Err("there is no shard to read from".to_owned());
    };
    let key = key_of(first, &name)?;
    let indexed = identifiers(&first.primary_key)
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
    let finder = Finder {
        tables,
        name: &name,
    };
    let key = finder.all(&key)?;
    let changed = finder.find(&settings.changed_column)?;
    read::check_change_column(&changed).map_err(|invalid| invalid.detail)?;
    for column in &key[..indexed] {
        read::bound_expression(column).map_err(|invalid| invalid.detail)?;
    }
    let columns = finder.all(&finder.chosen(settings, &key)?)?;
    Ok(Resolved {
        key,
        indexed,
        columns,
        changed,
    })
}

struct Finder<'a> {
    tables: &'a [Table],
    name: &'a str,
}

impl Finder<'_> {
    /// Names of the pattern's columns, in the order of the tables, then the extra ones.
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

    /// The column, if every shard has it with one type.
    fn find(&self, name: &str) -> Result<Column, String> {
        let mut found: Option<(&Column, u32)> = None;
        for table in self.tables {
            let Some(column) = table.columns.iter().find(|column| column.name == name) else {
                return Err(format!(
                    "column {name} is missing in {} of shard {}",
                    self.name, table.shard
                ));
            };
            match found {
                Some((first, shard)) if first.r#type != column.r#type => {
                    return Err(format!(
                        "column {name} of {} is {} on shard {}, but {} on shard {shard}",
                        self.name, column.r#type, table.shard, first.r#type
                    ));
                }
                Some(_) => {}
                None => found = Some((column, table.shard)),
            }
        }
        let (column, _) = found.ok_or_else(|| format!("column {name} is on no shard"))?;
        Ok(column.clone())
    }
}

fn key_of(table: &Table, name: &str) -> Result<Vec<String>, String> {
    identifiers(&table.sorting_key)
        .filter(|key| !key.is_empty())
        .ok_or_else(|| unusable_key(table, name, &table.sorting_key))
}

fn unusable_key(table: &Table, name: &str, key: &str) -> String {
    format!(
        "{name} of shard {} is ordered by ({key}): rows can be told apart and cut into ranges only where the sorting key and the primary key are plain columns, in ascending order",
        table.shard
    )
}

/// Takes `a, b` apart, as the server writes a key; a name that is no plain word stands in backquotes.
/// `None` for expressions.
fn identifiers(list: &str) -> Option<Vec<String>> {
    let mut names = Vec::new();
    let mut rest = list.trim_start();
    while !rest.is_empty() {
        let (name, after) = match rest.strip_prefix('`') {
            Some(quoted) => quoted_identifier(quoted)?,
            None => {
                let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
                let end = rest.find(|c| !word(c)).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        if name.is_empty() {
            return None;
        }
        names.push(name);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(names)
}

/// The name up to its closing backquote, and what follows.
fn quoted_identifier(text: &str) -> Option<(String, &str)> {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '`' => return Some((name, &text[at + 1..])),
            '\\' => name.push(chars.next()?.1),
            c => name.push(c),
        }
    }
    None
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

    fn table(shard: u32) -> Table {
        Table {
            shard,
            sorting_key: "country, keyword".into(),
            primary_key: "country, keyword".into(),
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

    fn refused(change: impl FnOnce(&mut [Table; 2], &mut SourceSettings)) -> String {
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
        table.primary_key = "country".into();
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
            let error = refused(|tables, _| tables[0].sorting_key = key.into());
            assert!(error.contains("plain columns"), "{key}: {error}");
        }
        let error = refused(|tables, _| {
            for table in tables {
                table.columns[1].r#type = "Nullable(String)".into();
            }
        });
        assert!(error.contains("keyword is Nullable(String)"), "{error}");
        let error = refused(|tables, _| tables[1].primary_key = "country".into());
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

    #[test]
    fn keys_are_read_as_the_server_writes_them() {
        let names = |key| identifiers(key);
        assert_eq!(names("a, b_1"), Some(vec!["a".into(), "b_1".into()]));
        assert_eq!(
            names(r"`a b`, `c\`d, e`"),
            Some(vec!["a b".into(), "c`d, e".into()])
        );
        assert_eq!(names(""), Some(vec![]));
        for expression in ["f(a)", "a, b DESC", "a b", "`a", "tuple()", "a,,b", "-a"] {
            assert_eq!(names(expression), None, "{expression}");
        }
    }
}
