//! The range of a task is written out column by column, `k1 >= a AND (k1 > a OR k2 >= b)`, and not as
//! `(k1, k2) >= (a, b)`: the server compares tuples row by row but does not look them up in the primary index.

use batch::{Column, Invalid, KeyRange, KeyValue, ReadPlan, Reason, RunMode};

use super::types::{ChangeColumn, KeyType};
use crate::clickhouse::quote_identifier;

/// Conditions of a WHERE, all of which must hold, with the values that they name.
#[derive(Debug, Default)]
pub(super) struct Predicate {
    pub conditions: Vec<String>,
    pub params: Vec<QueryParam>,
}

/// A parameter of a statement and its value.
#[derive(Debug)]
pub(super) struct QueryParam {
    pub name: String,
    pub value: String,
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
            start = a
                .iter()
                .zip(b)
                .take(most)
                .take_while(|(a, b)| a == b)
                .count();
            let same = lower.iter().take(start);
            self.conditions
                .extend(same.map(|step| format!("{} = {}", step.column, step.literal)));
        }
        for (bound, beyond, inclusive) in [(&lower, ">", ">="), (&upper, "<", "<")] {
            if let Some(bound) = bound.get(start..).filter(|bound| !bound.is_empty()) {
                self.conditions.push(compare(bound, beyond, inclusive));
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
            let literal = KeyType::for_column(column)?
                .literal(&param, value)
                .ok_or_else(|| {
                    Invalid::new(
                        Reason::NotReadable,
                        format!(
                            "a bound of the task has {value:?} for key column {} of type {}",
                            column.name, column.r#type
                        ),
                    )
                })?;
            let (KeyValue::Hex(text) | KeyValue::Text(text)) = value;
            self.params.push(QueryParam {
                name: param,
                value: text.clone(),
            });
            steps.push(BoundStep {
                column: quote_identifier(&column.name),
                literal,
            });
        }
        Ok(steps)
    }

    pub fn changed(&mut self, changed: &ChangeColumn, plan: &ReadPlan) {
        let mut compare = |operator: &str, param: &str, ms: i64| {
            let (name, literal) = (changed.name(), changed.literal(param));
            self.conditions.push(format!("{name} {operator} {literal}"));
            self.params.push(QueryParam {
                name: param.to_owned(),
                value: changed.value(ms),
            });
        };
        if let RunMode::Since { since_ms } = plan.mode {
            compare(">=", "since", since_ms);
        }
        compare("<", "until", plan.until_ms);
    }

    pub fn sample(&mut self, plan: &ReadPlan) {
        let key: Vec<String> = plan.key.iter().map(|c| quote_identifier(&c.name)).collect();
        let hash = format!("cityHash64({})", key.join(", "));
        self.conditions
            .push(format!("{hash} % {{sample:UInt32}} = 0"));
        self.params.push(QueryParam {
            name: "sample".to_owned(),
            value: plan.sample.to_string(),
        });
    }
}

/// `k1 >= a AND (k1 > a OR (k2 >= b AND (k2 > b OR k3 >= c)))`. The outer `k1 >= a` follows from the
/// rest, and lets the server cut on the first column without looking at the others.
fn compare(bound: &[BoundStep], beyond: &str, last: &str) -> String {
    let Some((BoundStep { column, literal }, rest)) = bound.split_first() else {
        return "1".to_owned();
    };
    if rest.is_empty() {
        return format!("{column} {last} {literal}");
    }
    format!(
        "{column} {beyond}= {literal} AND ({column} {beyond} {literal} OR ({}))",
        compare(rest, beyond, last)
    )
}
