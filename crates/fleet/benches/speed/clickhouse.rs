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
use ch_writer::ChWriterSettings;
use fetcher::FetcherSettings;
use queuer::{Options, Planner, QueuerSettings};
use stores::clickhouse::{Cluster, Query, SourceSettings, TargetSettings, quote_identifier, read};
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
    // In turn, so that both see the machine in the same state. The first round warms both up and does not count.
    for round in 0..=ROUNDS {
        line.renew_tables();
        let limit = pipe(&line.stack);
        line.renew_tables();
        let cycle = line.cycle();
        if round > 0 {
            limits.push(limit);
            cycles.push(cycle);
        }
    }
    let rates = cycles.iter().map(Cycle::rate).collect();
    let path = "clickhouse path";
    let mut figures = vec![Figure::against(
        path,
        "rows/s",
        median(rates),
        median(limits),
        ">=0.6",
    )];
    figures.extend(cpu_figures(path, &cycles));
    figures
}

/// Rows a second from the source to the target with nothing in between.
fn pipe(stack: &Stack) -> f64 {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
    runtime.block_on(async {
        let source = SourceSettings {
            cluster: stack.database.cluster(),
            database: stack.database.name().to_owned(),
            ..SourceSettings::default()
        };
        let target = TargetSettings {
            cluster: source.cluster.clone(),
            database: source.database.clone(),
            ..TargetSettings::default()
        };
        let pipe = Arc::new(Pipe::lay(&source, target));
        let tasks = pipe.plan(&source).await;
        let started = Instant::now();
        let rows = pipe.run(tasks).await;
        assert_eq!(rows, ROWS, "the pipe has lost rows");
        rows as f64 / started.elapsed().as_secs_f64()
    })
}

struct Pipe {
    source: Cluster,
    target: Cluster,
    table: TargetSettings,
    reading: FetcherSettings,
    writing: ChWriterSettings,
    /// What came from each shard and waits for a full group.
    groups: Vec<Mutex<Vec<Frame>>>,
    inserts: Arc<Semaphore>,
}

impl Pipe {
    fn lay(source: &SourceSettings, table: TargetSettings) -> Self {
        let writing = ChWriterSettings::default();
        let source = Cluster::new(&source.connection()).expect("the cluster's addresses");
        Self {
            groups: source.shards().map(|_| Mutex::default()).collect(),
            target: Cluster::new(&table.connection()).expect("the cluster's addresses"),
            source,
            table,
            reading: FetcherSettings::default(),
            inserts: Arc::new(Semaphore::new(writing.options.concurrency)),
            writing,
        }
    }

    /// The tasks of a full run.
    async fn plan(&self, source: &SourceSettings) -> Vec<Task> {
        let options = Options {
            full: true,
            ..Options::default()
        };
        let planner = Planner {
            cluster: &self.source,
            source,
            settings: &QueuerSettings::default(),
            options: &options,
        };
        let plan = planner.plan("pipe", None).await;
        plan.expect("the source can be planned").tasks().collect()
    }

    /// Reads all tasks, as many at a time as a fetcher; answers with the rows inserted.
    async fn run(self: &Arc<Self>, tasks: Vec<Task>) -> u64 {
        let tasks = Arc::new(Mutex::new(tasks.into_iter()));
        let mut readers = JoinSet::new();
        for _ in 0..self.reading.options.concurrency {
            let (pipe, tasks) = (self.clone(), tasks.clone());
            readers.spawn(async move {
                let next = || tasks.lock().expect("no reader panics").next();
                let mut inserts = JoinSet::new();
                let mut schema = None;
                while let Some(task) = next() {
                    schema = Some(pipe.read(&task, &mut inserts).await);
                }
                (schema, inserts.join_all().await.into_iter().sum::<u64>())
            });
        }
        let (schemas, rows): (Vec<_>, Vec<u64>) = readers.join_all().await.into_iter().unzip();
        let schema = schemas
            .into_iter()
            .flatten()
            .next()
            .expect("there are tasks");
        let mut all = rows.into_iter().sum();
        for (shard, group) in self.groups.iter().enumerate() {
            let rest = std::mem::take(&mut *group.lock().expect("no reader panics"));
            all += self.insert(shard as u32, &schema, rest).await;
        }
        all
    }

    /// Reads one range; each group that this fills is inserted on the side.
    async fn read(self: &Arc<Self>, task: &Task, inserts: &mut JoinSet<u64>) -> SchemaRef {
        let shard = self.source.shard(task.shard).expect("it was planned");
        let query = self.tuned(read::select(task).expect("a task of this release"));
        let replica = shard.replicas()[0];
        let mut stream = replica.stream(&query).await.expect("the source answers");
        let mut framer = Framer::new(Limits::default());
        loop {
            while let Some(frame) = framer.next_frame().expect("an Arrow stream") {
                let Some(group) = self.gather(task.shard, frame) else {
                    continue;
                };
                // Waits here, so that reading is held back by writing as prefetch holds the fleet back.
                let turn = self.inserts.clone().acquire_owned().await;
                let (pipe, shard) = (self.clone(), task.shard);
                let schema = framer.schema().expect("frames follow a schema").clone();
                inserts.spawn(async move {
                    let rows = pipe.insert(shard, &schema, group).await;
                    drop(turn);
                    rows
                });
            }
            match stream.try_next().await {
                Ok(Some(piece)) => framer.push(piece),
                Ok(None) => return framer.finish().expect("a complete stream").schema,
                Err(error) => panic!("the source breaks off: {error}"),
            }
        }
    }

    /// The settings that a fetcher reads with.
    fn tuned(&self, select: Query) -> Query {
        select
            .setting("output_format_arrow_string_as_string", 1)
            .setting("output_format_arrow_low_cardinality_as_dictionary", 0)
            .setting("output_format_arrow_compression_method", "lz4_frame")
            .setting("max_block_size", self.reading.scroll_rows)
            .setting("preferred_block_size_bytes", 0)
            .setting("max_threads", self.reading.max_threads)
            .setting("output_format_parallel_formatting", 0)
            .setting("use_query_condition_cache", 0)
    }

    /// The frames of a full group, if this frame fills it.
    fn gather(&self, shard: u32, frame: Frame) -> Option<Vec<Frame>> {
        let mut group = self.groups[shard as usize]
            .lock()
            .expect("no reader panics");
        group.push(frame);
        let rows: u64 = group.iter().map(|frame| frame.rows).sum();
        (rows >= self.writing.group_rows).then(|| std::mem::take(&mut *group))
    }

    /// Inserts a group as a ch-writer does; answers with its rows.
    async fn insert(&self, shard: u32, source: &Schema, group: Vec<Frame>) -> u64 {
        let rows: u64 = group.iter().map(|frame| frame.rows).sum();
        if rows == 0 {
            return 0;
        }
        let names = source.fields().iter().map(|field| field.name().as_str());
        let names = self.table.mapping().target_names(names);
        let names = names.expect("the target's names");
        let fields = source.fields().iter().zip(&names);
        let fields = fields.map(|(field, name)| field.as_ref().clone().with_name(name));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        let columns: Vec<_> = names.iter().map(|name| quote_identifier(name)).collect();
        let (database, table) = (&self.table.database, &self.table.table);
        let columns = columns.join(", ");
        let statement = format!("INSERT INTO {database}.{table} ({columns}) FORMAT ArrowStream");
        let query = Query::new(statement)
            .deduplication_token(unique("pipe"))
            .setting("async_insert", 0)
            .setting("input_format_null_as_default", 0)
            .setting("max_insert_threads", 1);
        let schema = arrow::schema_bytes(&schema).expect("a schema can be written");
        let shard = self.target.shard(shard).expect("it is the source's");
        let inserted = shard.insert(&query, arrow::join(&schema, &group)).await;
        let inserted = inserted.expect("the target takes the rows");
        assert_eq!(inserted.written_rows, rows, "an insert wrote other rows");
        rows
    }
}
