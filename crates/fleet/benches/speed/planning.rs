//! What planning a large run costs: the queuer reads the primary index, and of the rows nothing.

use std::time::Instant;

use testkit::Stack;

use crate::figure::{Figure, median};
use crate::line::BINARY;

const ROWS: u64 = 2_000_000;
const ROUNDS: usize = 5;

pub fn run() -> Vec<Figure> {
    let stack = Stack::create(BINARY, ROWS, "");
    let mut seconds = Vec::new();
    let mut report = serde_json::Value::Null;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        report = stack.fleet.json(&["run", "queuer", "--dry-run", "--full"]);
        seconds.push(started.elapsed().as_secs_f64());
    }
    let number = |name: &str| {
        let number = report[name].as_f64();
        number.unwrap_or_else(|| panic!("the plan has no {name}: {report:#}"))
    };
    let ranges = number("ranges");
    vec![
        Figure::absolute(
            "planning 2 M rows, the whole program",
            "s",
            median(seconds),
            None,
        ),
        Figure::absolute("planning 2 M rows: ranges", "ranges", ranges, None),
        // A mark of the index stands for 8192 rows.
        Figure::against(
            "planning 2 M rows: rows read",
            "rows",
            number("planning_read_rows"),
            ROWS as f64,
            "<=0.001",
        ),
        Figure::absolute(
            "planning 2 M rows: bytes read",
            "bytes",
            number("planning_read_bytes"),
            None,
        ),
    ]
}
