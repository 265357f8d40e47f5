//! How the rows of a task are read from the hub: the statement, and whether the plan's columns are still there.
//!
//! The range of a task is written out column by column, `k1 >= a AND (k1 > a OR k2 >= b)`, and not as
//! `(k1, k2) >= (a, b)`: the server compares tuples row by row but does not look them up in the primary index.

use batch::{Column, Invalid, KeyRange, KeyValue, ReadPlan, Reason, RunMode, Task, VERSION_COLUMN};
use serde::Deserialize;

use super::{Error, Query, Shard, quote_identifier, quote_string};

/// The columns of a plan cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The source is not what it was when the run was planned.
    #[error(transparent)]
    Changed(#[from] Invalid),
    #[error(transparent)]
    Store(#[from] Error),
}

/// The statement that reads the rows of `task`: the key columns, the plan's other columns, and
/// [`VERSION_COLUMN`] (Int64, the change time in milliseconds). Without a FORMAT.
/// Refuses a task whose bounds do not fit its key, or whose columns are of types that no plan has.
pub fn select(task: &Task) -> Result<Query, Invalid> {
    let (sql, params) = statement(task)?;
    let with_param = |query: Query, (name, value): (String, String)| query.param(&name, value);
    Ok(params.into_iter().fold(Query::new(sql), with_param))
}

/// [`select`] for a person: the statement, and a line for each of its parameters.
pub fn select_text(task: &Task) -> Result<String, Invalid> {
    let (sql, params) = statement(task)?;
    let line = |(name, value): (String, String)| format!("\n  {name} = {}", quote_string(&value));
    Ok(sql + &params.into_iter().map(line).collect::<String>())
}

fn statement(task: &Task) -> Result<(String, Vec<(String, String)>), Invalid> {
    let plan = &task.plan;
    let changed = Changed::of(&plan.changed)?;
    let columns = plan.key.iter().chain(&plan.columns);
    let mut list: Vec<String> = columns.map(|c| quote_identifier(&c.name)).collect();
    list.push(format!("{} AS {VERSION_COLUMN}", changed.version()));

    let mut predicate = Predicate::default();
    predicate.range(&plan.key, &task.range)?;
    predicate.changed(&changed, plan);
    if plan.sample > 1 {
        predicate.sample(plan);
    }
    let sql = format!(
        "SELECT {} FROM {}.{} WHERE {}",
        list.join(", "),
        quote_identifier(&plan.database),
        quote_identifier(&plan.table),
        predicate.conditions.join(" AND ")
    );
    Ok((sql, predicate.params))
}

/// SQL for a key column's value as a bound holds it ([`KeyValue`]): hexadecimal digits for strings,
/// ClickHouse's own text for everything else. Refuses types that cannot bound a range.
pub fn bound_expression(column: &Column) -> Result<String, Invalid> {
    let name = quote_identifier(&column.name);
    Ok(match KeyType::of(column)? {
        KeyType::Bytes { .. } => format!("hex({name})"),
        KeyType::Time { .. } => format!("toString(toTimeZone({name}, 'UTC'))"),
        KeyType::Plain(_) => format!("toString({name})"),
    })
}

/// The bound value that [`bound_expression`] gave as `text`.
pub fn bound_value(column: &Column, text: String) -> Result<KeyValue, Invalid> {
    Ok(match KeyType::of(column)? {
        KeyType::Bytes { .. } => KeyValue::Hex(text),
        KeyType::Time { .. } | KeyType::Plain(_) => KeyValue::Text(text),
    })
}

/// Whether the column can be the change time of a plan; the error says what it must be.
pub fn check_change_column(column: &Column) -> Result<(), Invalid> {
    Changed::of(column).map(|_| ())
}

/// Milliseconds that the change column tells apart.
pub fn change_resolution_ms(column: &Column) -> Result<i64, Invalid> {
    Ok(match Changed::of(column)?.kind {
        ChangedKind::Seconds => 1_000,
        ChangedKind::Ticks { precision } => 10_i64.pow(3 - precision.min(3)),
        ChangedKind::Milliseconds => 1,
    })
}

/// The columns of a table that can be read, in its order.
pub async fn columns(shard: &Shard, database: &str, table: &str) -> Result<Vec<Column>, Error> {
    #[derive(Deserialize)]
    struct Row {
        name: String,
        r#type: String,
    }
    // An ephemeral column exists in inserts alone.
    let query = Query::new(
        "SELECT name, type FROM system.columns \
         WHERE database = {database:String} AND table = {table:String} AND default_kind != 'EPHEMERAL' \
         ORDER BY position",
    )
    .param("database", database)
    .param("table", table);
    let rows: Vec<Row> = shard.rows(&query).await?;
    let column = |row: Row| Column {
        name: row.name,
        r#type: row.r#type,
    };
    Ok(rows.into_iter().map(column).collect())
}

/// Whether the shard still has every column of the plan with the type that it had then.
pub async fn check_columns(shard: &Shard, plan: &ReadPlan) -> Result<(), ReadError> {
    let found = columns(shard, &plan.database, &plan.table).await?;
    Ok(compare_columns(shard.number(), plan, &found)?)
}

/// [`check_columns`] for columns that are known: names the first that is missing or has another type.
pub fn compare_columns(shard: u32, plan: &ReadPlan, found: &[Column]) -> Result<(), Invalid> {
    let table = format!("{}.{} of shard {shard}", plan.database, plan.table);
    let changed = |what: String| {
        let advice = "plan the run again once all shards have the same columns";
        Err(Invalid::new(
            Reason::SourceChanged,
            format!("{what}; {advice}"),
        ))
    };
    if found.is_empty() {
        return changed(format!("there is no table {table}"));
    }
    let wanted = plan.key.iter().chain(&plan.columns).chain([&plan.changed]);
    for column in wanted {
        match found.iter().find(|other| other.name == column.name) {
            None => return changed(format!("column {} is missing in {table}", column.name)),
            Some(other) if other.r#type != column.r#type => {
                return changed(format!(
                    "column {} is {} in {table}, but {} in the plan",
                    column.name, other.r#type, column.r#type
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Conditions of a WHERE, all of which must hold, with the values that they name.
#[derive(Debug, Default)]
struct Predicate {
    conditions: Vec<String>,
    params: Vec<(String, String)>,
}

impl Predicate {
    fn range(&mut self, key: &[Column], range: &KeyRange) -> Result<(), Invalid> {
        let lower = self.bound(key, range.lower.as_deref(), 'l')?;
        let upper = self.bound(key, range.upper.as_deref(), 'u')?;
        let mut start = 0;
        if let (Some(a), Some(b)) = (&range.lower, &range.upper) {
            // The values that both bounds begin with stand once. The last value of a bound stays: it
            // tells what is above from what is below.
            let most = a.len().min(b.len()) - 1;
            start = a
                .iter()
                .zip(b)
                .take(most)
                .take_while(|(a, b)| a == b)
                .count();
            let same = lower.iter().take(start);
            self.conditions
                .extend(same.map(|(column, value)| format!("{column} = {value}")));
        }
        for (bound, beyond, inclusive) in [(&lower, ">", ">="), (&upper, "<", "<")] {
            if let Some(bound) = bound.get(start..).filter(|bound| !bound.is_empty()) {
                self.conditions.push(compare(bound, beyond, inclusive));
            }
        }
        Ok(())
    }

    /// Column and value of each step of a bound; the values become parameters named by `prefix`.
    fn bound(
        &mut self,
        key: &[Column],
        bound: Option<&[KeyValue]>,
        prefix: char,
    ) -> Result<Vec<(String, String)>, Invalid> {
        let Some(bound) = bound else {
            return Ok(Vec::new());
        };
        if bound.is_empty() || bound.len() > key.len() {
            return Err(Invalid::new(
                Reason::NotReadable,
                format!(
                    "a bound of the task has {} values for a key of {} columns",
                    bound.len(),
                    key.len()
                ),
            ));
        }
        let mut steps = Vec::with_capacity(bound.len());
        for (n, (column, value)) in key.iter().zip(bound).enumerate() {
            let param = format!("{prefix}{n}");
            let literal = KeyType::of(column)?.literal(&param, value).ok_or_else(|| {
                Invalid::new(
                    Reason::NotReadable,
                    format!(
                        "a bound of the task has {value:?} for key column {} of type {}",
                        column.name, column.r#type
                    ),
                )
            })?;
            let (KeyValue::Hex(text) | KeyValue::Text(text)) = value;
            self.params.push((param, text.clone()));
            steps.push((quote_identifier(&column.name), literal));
        }
        Ok(steps)
    }

    fn changed(&mut self, changed: &Changed, plan: &ReadPlan) {
        let mut compare = |operator: &str, param: &str, ms: i64| {
            let (name, literal) = (&changed.name, changed.literal(param));
            self.conditions.push(format!("{name} {operator} {literal}"));
            self.params.push((param.to_owned(), changed.value(ms)));
        };
        if let RunMode::Since { since_ms } = plan.mode {
            compare(">=", "since", since_ms);
        }
        compare("<", "until", plan.until_ms);
    }

    fn sample(&mut self, plan: &ReadPlan) {
        let key: Vec<String> = plan.key.iter().map(|c| quote_identifier(&c.name)).collect();
        let hash = format!("cityHash64({})", key.join(", "));
        self.conditions
            .push(format!("{hash} % {{sample:UInt32}} = 0"));
        self.params
            .push(("sample".to_owned(), plan.sample.to_string()));
    }
}

/// `k1 >= a AND (k1 > a OR (k2 >= b AND (k2 > b OR k3 >= c)))`. The outer `k1 >= a` follows from the
/// rest, and lets the server cut on the first column without looking at the others.
fn compare(bound: &[(String, String)], beyond: &str, last: &str) -> String {
    match bound {
        [] => "1".to_owned(),
        [(column, value)] => format!("{column} {last} {value}"),
        [(column, value), rest @ ..] => format!(
            "{column} {beyond}= {value} AND ({column} {beyond} {value} OR ({}))",
            compare(rest, beyond, last)
        ),
    }
}

/// How values of a key column are written. Types whose values do not all compare (a NULL or a NaN is
/// neither below nor above a bound) are refused: their rows would be in no range.
#[derive(Debug, PartialEq, Eq)]
enum KeyType {
    Bytes {
        fixed: Option<String>,
    },
    /// Written in UTC: local times repeat when the clock is set back.
    Time {
        utc: String,
    },
    Plain(String),
}

impl KeyType {
    fn of(column: &Column) -> Result<Self, Invalid> {
        let plain = column
            .r#type
            .strip_prefix("LowCardinality(")
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap_or(&column.r#type);
        let (word, arguments) = match plain.split_once('(') {
            Some((word, rest)) => (word, rest.strip_suffix(')').unwrap_or(rest)),
            None => (plain, ""),
        };
        let plain = plain.to_owned();
        Ok(match word {
            "String" => Self::Bytes { fixed: None },
            "FixedString" => Self::Bytes { fixed: Some(plain) },
            "DateTime" => Self::Time {
                utc: "DateTime('UTC')".to_owned(),
            },
            "DateTime64" => {
                let precision = arguments.split(',').next().unwrap_or("3").trim();
                Self::Time {
                    utc: format!("DateTime64({precision}, 'UTC')"),
                }
            }
            "Int8" | "Int16" | "Int32" | "Int64" | "Int128" | "Int256" | "UInt8" | "UInt16"
            | "UInt32" | "UInt64" | "UInt128" | "UInt256" | "Bool" | "Date" | "Date32"
            | "Decimal" | "Enum8" | "Enum16" | "UUID" | "IPv4" | "IPv6" => Self::Plain(plain),
            _ => {
                return Err(Invalid::new(
                    Reason::SourceChanged,
                    format!(
                        "key column {} is {}: ranges can be cut over strings, integers, decimals, dates, times, enums, UUIDs and IP addresses that are not Nullable",
                        column.name, column.r#type
                    ),
                ));
            }
        })
    }

    /// SQL for the value that the parameter holds; `None` when it cannot be of this type.
    fn literal(&self, param: &str, value: &KeyValue) -> Option<String> {
        let (text, r#type) = match (self, value) {
            (Self::Bytes { fixed }, KeyValue::Hex(digits)) => {
                let digits = digits.as_bytes();
                if digits.len() % 2 == 1 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                (format!("unhex({{{param}:String}})"), fixed.as_ref())
            }
            (Self::Time { utc: r#type } | Self::Plain(r#type), KeyValue::Text(_)) => {
                (format!("{{{param}:String}}"), Some(r#type))
            }
            _ => return None,
        };
        Some(match r#type {
            Some(r#type) => format!("CAST({text}, {})", quote_string(r#type)),
            None => text,
        })
    }
}

/// The change column: how its values become versions, and times become its values.
#[derive(Debug)]
struct Changed {
    /// Quoted.
    name: String,
    kind: ChangedKind,
}

#[derive(Debug, Clone, Copy)]
enum ChangedKind {
    /// DateTime.
    Seconds,
    /// DateTime64: ticks of 10⁻ᵖ seconds.
    Ticks { precision: u32 },
    /// Int64 or UInt64.
    Milliseconds,
}

impl Changed {
    fn of(column: &Column) -> Result<Self, Invalid> {
        let (word, arguments) = column
            .r#type
            .split_once('(')
            .unwrap_or((&column.r#type, ""));
        let precision = || arguments.split([',', ')']).next()?.trim().parse().ok();
        let kind = match word {
            "DateTime" => Some(ChangedKind::Seconds),
            "DateTime64" => precision().map(|precision| ChangedKind::Ticks { precision }),
            "Int64" | "UInt64" => Some(ChangedKind::Milliseconds),
            _ => None,
        };
        let kind = kind.ok_or_else(|| {
            Invalid::new(
                Reason::SourceChanged,
                format!(
                    "change column {} is {}; it must be DateTime, DateTime64, or Int64 or UInt64 of milliseconds, and not Nullable",
                    column.name, column.r#type
                ),
            )
        })?;
        Ok(Self {
            name: quote_identifier(&column.name),
            kind,
        })
    }

    /// SQL for a row's version.
    fn version(&self) -> String {
        let name = &self.name;
        match self.kind {
            ChangedKind::Seconds => format!("toInt64(toUnixTimestamp({name})) * 1000"),
            ChangedKind::Ticks { .. } => format!("toUnixTimestamp64Milli({name})"),
            ChangedKind::Milliseconds => format!("toInt64({name})"),
        }
    }

    /// SQL for a time that the column is compared with: of its own type, so that indexes over the
    /// column can be used.
    fn literal(&self, param: &str) -> String {
        match self.kind {
            ChangedKind::Seconds => format!("toDateTime({{{param}:UInt32}})"),
            ChangedKind::Ticks { .. } => format!("fromUnixTimestamp64Milli({{{param}:Int64}})"),
            ChangedKind::Milliseconds => format!("{{{param}:Int64}}"),
        }
    }

    /// The value of that parameter. A second is at or after a time of milliseconds if and only if it
    /// is at or after that time rounded up.
    fn value(&self, ms: i64) -> String {
        match self.kind {
            ChangedKind::Seconds => {
                let seconds = ms.div_euclid(1000) + i64::from(ms.rem_euclid(1000) > 0);
                seconds.clamp(0, u32::MAX.into()).to_string()
            }
            ChangedKind::Ticks { .. } | ChangedKind::Milliseconds => ms.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn column(name: &str, r#type: &str) -> Column {
        Column {
            name: name.into(),
            r#type: r#type.into(),
        }
    }

    fn plan() -> ReadPlan {
        ReadPlan {
            database: "keywords".into(),
            table: "hub".into(),
            key: vec![
                column("country", "LowCardinality(String)"),
                column("keyword", "String"),
            ],
            columns: vec![column("processed_volume", "UInt64")],
            changed: column("changed_at", "DateTime64(3)"),
            mode: RunMode::Full,
            until_ms: 2_500,
            sample: 1,
        }
    }

    fn hex(digits: &str) -> KeyValue {
        KeyValue::Hex(digits.into())
    }

    fn text(lower: &[KeyValue], upper: &[KeyValue], plan: ReadPlan) -> Result<String, Invalid> {
        let bound = |values: &[KeyValue]| Some(values.to_vec()).filter(|values| !values.is_empty());
        let range = KeyRange {
            lower: bound(lower),
            upper: bound(upper),
        };
        let run = "r-1".parse().unwrap();
        select_text(&Task::new(&run, 0, range, 1, Arc::new(plan)))
    }

    #[test]
    fn a_range_is_written_so_that_the_primary_index_is_used() {
        let text = text(&[hex("61"), hex("62")], &[hex("7A"), hex("00")], plan()).unwrap();
        let wanted = "SELECT `country`, `keyword`, `processed_volume`, \
            toUnixTimestamp64Milli(`changed_at`) AS _version FROM `keywords`.`hub` WHERE \
            `country` >= unhex({l0:String}) AND (`country` > unhex({l0:String}) OR (`keyword` >= unhex({l1:String}))) AND \
            `country` <= unhex({u0:String}) AND (`country` < unhex({u0:String}) OR (`keyword` < unhex({u1:String}))) AND \
            `changed_at` < fromUnixTimestamp64Milli({until:Int64})\
            \n  l0 = '61'\n  l1 = '62'\n  u0 = '7A'\n  u1 = '00'\n  until = '2500'";
        assert_eq!(text, wanted);
    }

    #[test]
    fn what_both_bounds_begin_with_stands_once() {
        let text = text(&[hex("61"), hex("62")], &[hex("61"), hex("63")], plan()).unwrap();
        let wanted = "WHERE `country` = unhex({l0:String}) AND `keyword` >= unhex({l1:String}) AND `keyword` < unhex({u1:String}) AND";
        assert!(text.contains(wanted), "{text}");
    }

    #[test]
    fn an_open_range_is_bound_by_time_alone() {
        let mut plan = plan();
        plan.mode = RunMode::Since { since_ms: 1_001 };
        plan.changed = column("changed_at", "DateTime");
        plan.sample = 10;
        let text = text(&[], &[], plan).unwrap();
        let wanted = "WHERE `changed_at` >= toDateTime({since:UInt32}) AND `changed_at` < toDateTime({until:UInt32}) \
            AND cityHash64(`country`, `keyword`) % {sample:UInt32} = 0\
            \n  since = '2'\n  until = '3'\n  sample = '10'";
        assert!(text.ends_with(wanted), "{text}");
    }

    #[test]
    fn bounds_that_do_not_fit_the_key_are_refused() {
        let plain = KeyValue::Text("a".into());
        for lower in [
            vec![hex("6")],
            vec![hex("6g")],
            vec![plain],
            vec![hex("61"), hex("62"), hex("63")],
        ] {
            let refused = text(&lower, &[], plan()).unwrap_err();
            assert_eq!(refused.reason, Reason::NotReadable, "{lower:?}");
        }
        let mut task_of_no_values = plan();
        task_of_no_values.key.clear();
        assert!(text(&[hex("61")], &[], task_of_no_values).is_err());
    }

    #[test]
    fn types_that_cannot_bound_a_range_are_refused_by_column() {
        for r#type in [
            "Nullable(String)",
            "LowCardinality(Nullable(String))",
            "Float64",
            "Array(String)",
        ] {
            let refused = bound_expression(&column("keyword", r#type)).unwrap_err();
            assert!(refused.detail.contains("keyword"), "{refused}");
        }
    }

    #[test]
    fn a_change_column_tells_apart_what_its_type_does() {
        for (r#type, ms) in [
            ("DateTime", 1_000),
            ("DateTime('Europe/Berlin')", 1_000),
            ("DateTime64(0)", 1_000),
            ("DateTime64(2, 'UTC')", 10),
            ("DateTime64(3)", 1),
            ("DateTime64(9)", 1),
            ("UInt64", 1),
        ] {
            let resolution = change_resolution_ms(&column("changed_at", r#type));
            assert_eq!(resolution, Ok(ms), "{}", r#type);
        }
        let refused = check_change_column(&column("changed_at", "Nullable(DateTime)"));
        assert!(refused.unwrap_err().detail.contains("not Nullable"));
    }

    #[test]
    fn a_missing_and_a_changed_column_are_named_with_the_shard() {
        let plan = plan();
        let all = || {
            let columns = plan.key.iter().chain(&plan.columns).chain([&plan.changed]);
            columns.cloned().collect::<Vec<_>>()
        };
        assert_eq!(compare_columns(3, &plan, &all()), Ok(()));
        let mut columns = all();
        columns[2].r#type = "UInt32".into();
        let refused = compare_columns(3, &plan, &columns).unwrap_err();
        assert_eq!(refused.reason, Reason::SourceChanged);
        assert!(refused.detail.contains("processed_volume is UInt32"), "{refused}");
        columns.remove(2);
        let refused = compare_columns(3, &plan, &columns).unwrap_err();
        assert!(refused.detail.contains("missing in keywords.hub of shard 3"), "{refused}");
        let refused = compare_columns(3, &plan, &[]).unwrap_err();
        assert!(refused.detail.contains("no table keywords.hub"), "{refused}");
    }
}
