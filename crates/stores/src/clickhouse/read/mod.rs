//! How the rows of a task are read from the hub: the statement, and whether the plan's columns are still there.

mod predicate;
mod types;

use batch::{Column, Invalid, KeyValue, ReadPlan, Reason, Task, VERSION_COLUMN};

use self::predicate::Predicate;
use self::types::{ChangeColumn, KeyType};
use super::{DataType, Query, quote_identifier, quote_string};

/// The statement that reads the rows of `task`: the key columns, the plan's other columns, and
/// [`VERSION_COLUMN`] (Int64, the change time in milliseconds). Without a FORMAT.
/// Refuses a task whose bounds do not fit its key, or whose columns are of types that no plan has.
pub fn select(task: &Task) -> Result<Query, Invalid> {
    let plan = &task.plan;
    let changed = ChangeColumn::for_column(&plan.changed)?;
    let columns = plan.key.iter().chain(&plan.columns);
    let mut list: Vec<String> = columns.map(|c| quote_identifier(&c.name)).collect();
    list.push(format!("{} AS {VERSION_COLUMN}", changed.version()));
    let query = from_range(&list.join(", "), &changed, task)?;
    Ok(with_dates(query, plan.key.iter().chain(&plan.columns)))
}

/// A Date leaves servers before 26 as the bare number of its day. A Date32 is a date on all of them. The cast stands
/// around the statement, so that its condition is about the columns themselves, as the primary index has them.
fn with_dates<'a>(query: Query, columns: impl Iterator<Item = &'a Column> + Clone) -> Query {
    let date32 = |column: &Column| {
        let data_type: DataType = column.r#type.parse().ok()?;
        let is_date = data_type.contains("Date") && !data_type.contains("AggregateFunction");
        let plain = data_type.without_low_cardinality();
        is_date.then(|| plain.replaced("Date", "Date32").to_string())
    };
    if columns.clone().all(|column| date32(column).is_none()) {
        return query;
    }
    let list = columns.map(|column| {
        let name = quote_identifier(&column.name);
        match date32(column) {
            Some(r#type) => format!("CAST({name}, {}) AS {name}", quote_string(&r#type)),
            None => name,
        }
    });
    let list: Vec<String> = list.chain([VERSION_COLUMN.to_owned()]).collect();
    let sql = format!("SELECT {} FROM ({})", list.join(", "), query.sql());
    let params = query.params;
    let mut query = Query::new(sql);
    query.params = params;
    query
}

/// The statement that counts, as `rows`, the rows that [`select`] reads. It is answered from the key and the change
/// column alone.
pub fn count(task: &Task) -> Result<Query, Invalid> {
    let changed = ChangeColumn::for_column(&task.plan.changed)?;
    from_range("count() AS rows", &changed, task)
}

/// `SELECT … FROM` the rows of the task.
fn from_range(list: &str, changed: &ChangeColumn, task: &Task) -> Result<Query, Invalid> {
    let plan = &task.plan;
    let mut predicate = Predicate::default();
    predicate.range(&plan.key, &task.range)?;
    predicate.changed(changed, plan);
    predicate.sample(plan);
    let mut query = Query::new(format!(
        "SELECT {list} FROM {}.{} WHERE {}",
        quote_identifier(&plan.database),
        quote_identifier(&plan.table),
        predicate.conditions.join(" AND ")
    ));
    query.params = predicate.params;
    Ok(query)
}

/// [`select`] as text: the statement, and a line for each of its parameters.
pub fn select_text(task: &Task) -> Result<String, Invalid> {
    let query = select(task)?;
    let params = query.params.iter();
    let lines = params.map(|param| format!("\n  {} = {}", param.name, quote_string(&param.value)));
    Ok(query.sql().to_owned() + &lines.collect::<String>())
}

/// SQL for a key column's value as a bound has it ([`KeyValue`]): hexadecimal digits for strings,
/// ClickHouse's own text for everything else. Refuses types that cannot bound a range.
pub fn bound_expression(column: &Column) -> Result<String, Invalid> {
    Ok(KeyType::for_column(column)?.expression(&quote_identifier(&column.name)))
}

/// The bound value that [`bound_expression`] gave as `text`.
pub fn bound_value(column: &Column, text: String) -> Result<KeyValue, Invalid> {
    Ok(KeyType::for_column(column)?.value(text))
}

/// Resolution of the change column, in milliseconds. The error of a column that cannot be the change time of a plan
/// says what it must be.
pub fn change_resolution_ms(column: &Column) -> Result<i64, Invalid> {
    Ok(ChangeColumn::for_column(column)?.resolution_ms())
}

/// Whether a shard still has every column of the plan with the type that it had then, if `found` are the columns
/// that it has: names the first that is missing or has another type.
pub fn compare_columns(shard: u32, plan: &ReadPlan, found: &[Column]) -> Result<(), Invalid> {
    let table = format!("{}.{} of shard {shard}", plan.database, plan.table);
    let changed = |what: String| {
        let advice = "plan the run again once all shards have the same columns";
        let detail = format!("{what}; {advice}");
        Err(Invalid::new(Reason::SourceChanged, detail))
    };
    if found.is_empty() {
        return changed(format!("there is no table {table}"));
    }
    for Column { name, r#type } in plan.key.iter().chain(&plan.columns).chain([&plan.changed]) {
        let Some(other) = found.iter().find(|other| other.name == *name) else {
            return changed(format!("column {name} is missing in {table}"));
        };
        if other.r#type != *r#type {
            let there = &other.r#type;
            return changed(format!(
                "column {name} is {there} in {table}, but {type} in the plan"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use batch::{KeyRange, RunMode};

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
    fn a_date_is_cast_around_the_condition() {
        let mut plan = plan();
        plan.columns = vec![
            column("day", "LowCardinality(Nullable(Date))"),
            column("days", "Array(Date)"),
        ];
        let text = text(&[], &[], plan).unwrap();
        let (cast, inner) = text.split_once(" FROM (").unwrap();
        assert_eq!(
            cast,
            "SELECT `country`, `keyword`, CAST(`day`, 'Nullable(Date32)') AS `day`, \
             CAST(`days`, 'Array(Date32)') AS `days`, _version"
        );
        assert!(
            inner.starts_with("SELECT `country`, `keyword`, `day`, `days`, "),
            "{inner}"
        );
        assert!(inner.contains("WHERE `changed_at` < "), "{inner}");
    }

    #[test]
    fn the_rows_of_a_range_are_counted_by_the_condition_that_they_are_read_by() {
        let run = "r-1".parse().unwrap();
        let range = KeyRange {
            lower: Some(vec![hex("61"), hex("62")]),
            upper: None,
        };
        let task = Task::new(&run, 0, range, 1, Arc::new(plan()));
        let (select, count) = (select(&task).unwrap(), count(&task).unwrap());
        let condition = |query: &Query| query.sql().split_once(" FROM ").unwrap().1.to_owned();
        assert_eq!(condition(&count), condition(&select));
        assert_eq!(count.params, select.params);
        assert!(count.sql().starts_with("SELECT count() AS rows FROM "));
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
        let refused = change_resolution_ms(&column("changed_at", "Nullable(DateTime)"));
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
        assert!(
            refused.detail.contains("processed_volume is UInt32"),
            "{refused}"
        );
        columns.remove(2);
        let refused = compare_columns(3, &plan, &columns).unwrap_err();
        assert!(
            refused
                .detail
                .contains("missing in keywords.hub of shard 3"),
            "{refused}"
        );
        let refused = compare_columns(3, &plan, &[]).unwrap_err();
        assert!(
            refused.detail.contains("no table keywords.hub"),
            "{refused}"
        );
    }
}
