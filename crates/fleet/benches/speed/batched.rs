//! A pipeline that holds every batch until the run is read whole, against one that lets them by.

use crate::figure::Figure;
use crate::line::{Cycle, Line};

const DIRECT: &[&str] = &["fetcher", "ch-writer", "es-writer"];
const BATCHED: &[&str] = &["fetcher", "persister", "ch-writer", "es-writer"];
const PERSISTER: usize = 1;
const SMALL: u64 = 200_000;
const LARGE: u64 = 2_000_000;

pub fn run() -> Vec<Figure> {
    let direct = cycle("direct", DIRECT, LARGE);
    let small = cycle("batched", BATCHED, SMALL);
    let large = cycle("batched", BATCHED, LARGE);
    let mib = |cycle: &Cycle| cycle.usage[PERSISTER].peak_bytes as f64 / f64::from(1 << 20);
    vec![
        Figure::against(
            "held and released, 2 M rows, against the direct pipeline",
            "rows/s",
            large.rate(),
            direct.rate(),
            ">=0.8",
        ),
        Figure::absolute(
            "peak memory of persister, 2 M rows",
            "MiB",
            mib(&large),
            Some("<=100"),
        ),
        Figure::against(
            "peak memory of persister, 2 M rows against 200 k",
            "MiB",
            mib(&large),
            mib(&small),
            "<=1.1",
        ),
        Figure::absolute(
            "CPU of persister, batched",
            "s/million rows",
            large.usage[PERSISTER].cpu_seconds * 1e6 / large.rows as f64,
            None,
        ),
    ]
}

/// One run into both stores, with default settings.
fn cycle(kind: &str, workers: &'static [&'static str], rows: u64) -> Cycle {
    let line = Line::create(kind, workers, rows);
    line.renew_tables();
    line.renew_indices();
    line.cycle()
}
