//! The ClickHouse path against one process that pipes the same rows without a broker.
//!
//! The pipe reads the same ranges with the same settings, as many at a time as a fetcher does, and inserts
//! what comes in groups of the ch-writer's size, as many at a time. It promises nothing: what it has in
//! hand when it dies is lost.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use arrow_schema::{Schema, SchemaRef};
use batch::Task;
use batch::arrow::{self, Frame, Framer, Limits};
use bytes::Bytes;
use ch_writer::ChWriterSettings;
use fetcher::FetcherSettings;
use queuer::{Options, Planner, QueuerSettings};
use stores::clickhouse::{
    Cluster, Query, SourceSettings, TargetSettings, quote_identifier, read,
};
use testkit::{Stack, unique};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::figure::{Figure, median};
use crate::line::{Cycle, Line, cpu_figures};

const ROWS: u64 = 2_000_000;
const ROUNDS: usize = 3;

pub fn run() -> Vec<Figure> {
    let line = Line::create("clickhouse-only", &["fetcher", "ch-writer"], ROWS);
    let mut limits = Vec::new();
    let mut cycles = Vec::new();
    // The first round warms both up and does not count. Then in turn, so that both see the machine in the same state.
    for round in 0..=ROUNDS {
        line.renew_tables();
        let limit = Pipe::lay(&line.stack).run();
        line.renew_tables();
        let cycle = line.cycle();
        if round > 0 {
            limits.push(ROWS as f64 / limit);
            cycles.push(cycle);
        }
    }
    let rates = cycles.iter().map(Cycle::rate).collect();
    let path = Figure::against(
        "clickhouse path",
        "rows/s",
        median(rates),
        median(limits),
        ">=0.6",
    );
    let mut figures = vec![path];
    figures.extend(cpu_figures("clickhouse path", &cycles));
    figures
}

/// Source and target without anything between them.
struct Pipe {
    source: Cluster,
    target: Cluster,
    table: TargetSettings,
    reading: FetcherSettings,
    writing: ChWriterSettings,
}

impl Pipe {
    fn lay(stack: &Stack) -> Arc<Self> {
        let source = source_of(stack);
        let table = TargetSettings {
            cluster: stack.database.cluster(),
            database: stack.database.name().to_owned(),
            ..TargetSettings::default()
        };
        Arc::new(Self {
            source: Cluster::new(&source.connection()).expect("the cluster's addresses"),
            target: Cluster::new(&table.connection()).expect("the cluster's addresses"),
            table,
            reading: FetcherSettings::default(),
            writing: ChWriterSettings::default(),
        })
    }
}
