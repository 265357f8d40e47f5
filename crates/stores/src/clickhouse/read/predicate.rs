//! The range of a task is written out column by column, `k1 >= a AND (k1 > a OR k2 >= b)`, and not as
//! `(k1, k2) >= (a, b)`: the server compares tuples row by row but does not look them up in the primary index.

use batch::{Column, Invalid, KeyRange, KeyValue, ReadPlan, Reason, RunMode};

use super::types::{ChangeColumn, KeyType};
use crate::clickhouse::query::QueryParam;
use crate::clickhouse::quote_identifier;

/// Conditions of a WHERE, all of which must hold, with the values that they name.
#[derive(Debug, Default)]
pub(super) struct Predicate {
    pub conditions: Vec<String>,
    pub params: Vec<QueryParam>,
}

/// One column of a bound: the column's quoted name, and SQL for the value that it is compared with.
struct BoundStep {
    column: String,
    literal: String,
}

impl Predicate {
    pub fn range(&mut self, key: &[Column], range: &KeyRange) -> Result<(), Invalid> {
        let lower = self.bound(key, range.lower.as_deref(), 'l')?;
        let upper = self.bound(key, range.upper.as_deref(), 'u')?;
        let mut start = 0;
        if let (Some(a), Some(b)) = (&range.lower, &range.upper) {
            // The values that both bounds begin with stand once. The last value of a bound stays: it
            // tells what is above from what is below.
            let most = a.len().min(b.len()) - 1;
            let pairs = a.iter().zip(b).take(most);
            start = pairs.take_while(|(a, b)| a == b).count();
            let same = lower.iter().take(start);
            self.conditions
                .extend(same.map(|step| format!("{} = {}", step.column, step.literal)));
        }
        for (bound, beyond, inclusive) in [(&lower, ">", ">="), (&upper, "<", "<")] {
            if let Some((first, rest)) = bound.get(start..).and_then(<[_]>::split_first) {
                self.conditions
                    .push(compare(first, rest, beyond, inclusive));
            }
        }
        Ok(())
    }

    /// The steps of a bound; their values become parameters named by `prefix`.
    fn bound(
        &mut self,
        key: &[Column],
        bound: Option<&[KeyValue]>,
        prefix: char,
    ) -> Result<Vec<BoundStep>, Invalid> {
        let invalid = |what: String| {
            Invalid::new(
                Reason::NotReadable,
                format!("a bound of the task has {what}"),
            )
        };
        let Some(bound) = bound else {
            return Ok(Vec::new());
        };
        if bound.is_empty() || bound.len() > key.len() {
            let (values, columns) = (bound.len(), key.len());
            return Err(invalid(format!(
                "{values} values for a key of {columns} columns"
            )));
        }
        let steps = (0..).zip(key).zip(bound).map(|((n, column), value)| {
            let param = format!("{prefix}{n}");
            let literal = KeyType::for_column(column)?.literal(&param, value);
            let literal = literal.ok_or_else(|| {
                let Column { name, r#type } = column;
                invalid(format!("{value:?} for key column {name} of type {type}"))
            })?;
            let (KeyValue::Hex(text) | KeyValue::Text(text)) = value;
            self.param(&param, text.clone());
            Ok(BoundStep {
                column: quote_identifier(&column.name),
                literal,
            })
        });
        steps.collect()
    }

    pub fn changed(&mut self, changed: &ChangeColumn, plan: &ReadPlan) {
        let mut compare = |operator: &str, param: &str, ms: i64| {
            let (name, literal) = (changed.name(), changed.literal(param));
            self.conditions.push(format!("{name} {operator} {literal}"));
            self.param(param, changed.value(ms));
        };
        if let RunMode::Since { since_ms } = plan.mode {
            compare(">=", "since", since_ms);
        }
        compare("<", "until", plan.until_ms);
    }

    pub fn sample(&mut self, plan: &ReadPlan) {
        if plan.sample > 1 {
            let key: Vec<String> = plan.key.iter().map(|c| quote_identifier(&c.name)).collect();
            let hash = format!("cityHash64({})", key.join(", "));
            self.conditions
                .push(format!("{hash} % {{sample:UInt32}} = 0"));
            self.param("sample", plan.sample.to_string());
        }
    }

    fn param(&mut self, name: &str, value: String) {
        let name = name.to_owned();
        self.params.push(QueryParam { name, value });
    }
}

/// `k1 >= a AND (k1 > a OR (k2 >= b AND (k2 > b OR k3 >= c)))`. The outer `k1 >= a` follows from the
/// rest, and lets the server cut on the first column without reading the others.
fn compare(
    BoundStep { column, literal }: &BoundStep,
    rest: &[BoundStep],
    beyond: &str,
    last: &str,
) -> String {
    let Some((next, rest)) = rest.split_first() else {
        return format!("{column} {last} {literal}");
    };
    let rest = compare(next, rest, beyond, last);
    format!("{column} {beyond}= {literal} AND ({column} {beyond} {literal} OR ({rest}))")
}
