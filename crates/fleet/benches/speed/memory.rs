//! Peak memory of each worker in a small and in a large run: it must not grow with the rows.

use crate::figure::Figure;
use crate::line::{Cycle, Line};

const WORKERS: &[&str] = &["fetcher", "ch-writer", "es-writer"];
const SMALL: u64 = 200_000;
const LARGE: u64 = 2_000_000;

pub fn run() -> Vec<Figure> {
    let [small, large] = [SMALL, LARGE].map(cycle);
    let mib = |cycle: &Cycle, n: usize| cycle.usage[n].peak_bytes as f64 / f64::from(1 << 20);
    let figures = WORKERS.iter().enumerate().flat_map(|(n, worker)| {
        let peak = mib(&large, n);
        [
            Figure::absolute(
                format!("peak memory of {worker}, 2 M rows"),
                "MiB",
                peak,
                Some("<=100"),
            ),
            Figure::against(
                format!("peak memory of {worker}, 2 M rows against 200 k"),
                "MiB",
                peak,
                mib(&small, n),
                "<=1.1",
            ),
        ]
    });
    figures.collect()
}

/// One run into both stores, with default settings.
fn cycle(rows: u64) -> Cycle {
    let line = Line::create("direct", WORKERS, rows);
    line.renew_tables();
    line.renew_indices();
    line.cycle()
}
