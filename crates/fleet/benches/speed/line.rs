//! A pipeline on real services, every program a process of its own, timed by the ledger.

use std::time::{Duration, Instant};

use batch::Receipt;
use ledger::Progress;
use pipeline::broker::{Broker, RabbitMq, StreamMessage};
use pipeline::history;
use testkit::{FleetProcess, Stack};

use crate::figure::{Figure, median};

/// The program under measurement, as it is released.
pub const BINARY: &str = env!("CARGO_BIN_EXE_fleet");
/// For a run of seconds, on a machine that has other work as well.
const RUN_TIMEOUT: Duration = Duration::from_secs(600);
const GRACE: Duration = Duration::from_secs(40);

/// One pipeline type with its hub table and its stores.
pub struct Line {
    pub stack: Stack,
    workers: &'static [&'static str],
}

/// What one run took.
pub struct Cycle {
    pub rows: u64,
    /// From the first receipt, when the plan is made and nothing is published, to the last one.
    pub seconds: f64,
    /// The workers in their order, then the queuer.
    pub usage: Vec<Usage>,
}

pub struct Usage {
    pub program: &'static str,
    pub cpu_seconds: f64,
    /// Of a worker that was started for this run.
    pub peak_bytes: u64,
}

impl Cycle {
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

impl Line {
    /// `kind`: the pipeline type, whose workers are `workers`.
    pub fn create(kind: &str, workers: &'static [&'static str], rows: u64) -> Self {
        let line = Self {
            stack: Stack::create(BINARY, rows, ""),
            workers,
        };
        let fleet = &line.stack.fleet;
        fleet.run(&["pipeline", "configure", "--type", kind]);
        line
    }

    /// Replaces the target tables by empty ones.
    pub fn renew_tables(&self) {
        for shard in 0..self.stack.database.shards().len() {
            let sql = "DROP TABLE IF EXISTS {db}.keywords_metrics_local SYNC";
            self.stack.database.run(shard, sql);
        }
        self.stack.fleet.run(&["clickhouse", "configure"]);
    }

    /// Replaces the indices by empty ones that are never refreshed.
    pub fn renew_indices(&self) {
        let indices = &self.stack.indices;
        for index in self.stack.index_names() {
            indices.api("DELETE", &format!("{index}?ignore_unavailable=true"), "");
        }
        self.stack.fleet.run(&["elasticsearch", "configure"]);
        for index in self.stack.index_names() {
            let off = r#"{"index":{"refresh_interval":"-1"}}"#;
            indices.api("PUT", &format!("{index}/_settings"), off);
        }
    }

    /// One full run, by workers started for it.
    pub fn cycle(&self) -> Cycle {
        let mut workers: Vec<FleetProcess> = self.workers.iter().map(|w| self.start(w)).collect();
        let before: Vec<f64> = workers.iter().map(|w| usage(w).0).collect();
        let reaped = reaped_cpu();
        self.stack.fleet.run(&["run", "queuer", "--full"]);
        let queuer = reaped_cpu() - reaped;
        let runtime = tokio::runtime::Runtime::new().expect("a runtime can be made");
        let run = runtime.block_on(self.complete());
        let after = workers.iter().map(usage);
        let usage_of = |((program, before), (cpu, peak_bytes))| Usage {
            program,
            cpu_seconds: cpu - before,
            peak_bytes,
        };
        let names = self.workers.iter().copied();
        let mut usage: Vec<Usage> = names.zip(before).zip(after).map(usage_of).collect();
        usage.push(Usage {
            program: "queuer",
            cpu_seconds: queuer,
            peak_bytes: 0,
        });
        for worker in &mut workers {
            worker.terminate(GRACE);
        }
        assert_eq!(run.rows_fetched, self.stack.hub.rows, "{}", run.summary());
        if run.status.is_unfinished() {
            // No persister runs here, and the next run would wait for a decision.
            let over = ["runs", "abandon", run.run.as_str(), "--reason", "measured"];
            self.stack.fleet.run(&over);
        }
        let started_ms = run.started_ms.expect("a complete run has started");
        Cycle {
            rows: run.rows_fetched,
            seconds: (run.latest_ms - started_ms) as f64 / 1000.0,
            usage,
        }
    }

    /// Starts a worker and waits until it takes messages.
    fn start(&self, role: &str) -> FleetProcess {
        let consuming = |worker: &FleetProcess| worker.log().matches(": consuming").count();
        let worker = self.stack.fleet.start(role);
        // The log of an earlier process is in the same file.
        let earlier = consuming(&worker);
        let deadline = Instant::now() + GRACE;
        while consuming(&worker) == earlier {
            assert!(Instant::now() < deadline, "{role}: {}", worker.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        worker
    }

    /// Follows the ledger until the latest run is complete. Each receipt is read once: reading the
    /// whole ledger every time costs the broker as much as the run itself.
    async fn complete(&self) -> Progress {
        let broker = RabbitMq::new(self.stack.host.url()).expect("an AMQP address");
        let following = history::follow(&Broker::RabbitMq(broker)).await;
        let (mut ledger, mut consumer) = following.expect("the ledger can be read");
        let latest = ledger.runs().max_by_key(|run| run.started_ms());
        let name = latest.expect("a run was published").run().clone();
        let deadline = tokio::time::Instant::now() + RUN_TIMEOUT;
        loop {
            let run = ledger.run(&name).expect("it is known");
            if run.is_complete() {
                return Progress::new(run);
            }
            let next = tokio::time::timeout_at(deadline, consumer.next()).await;
            let next = next.unwrap_or_else(|_| panic!("{}", Progress::new(run).summary()));
            let StreamMessage { offset, message } = next.expect("the ledger can be followed");
            let receipt = Receipt::from_message(&message).expect("a receipt of this release");
            ledger.apply_at(offset, &receipt);
        }
    }
}

/// CPU seconds of each program for a million rows: the middle one of some cycles.
pub fn cpu_figures(path: &str, cycles: &[Cycle]) -> Vec<Figure> {
    let programs = cycles[0].usage.iter().map(|usage| usage.program);
    let figure = |(n, program): (usize, &str)| {
        let cost = |cycle: &Cycle| cycle.usage[n].cpu_seconds * 1e6 / cycle.rows as f64;
        Figure::absolute(
            format!("{path}: CPU of {program}"),
            "s/million rows",
            median(cycles.iter().map(cost).collect()),
            None,
        )
    };
    programs.enumerate().map(figure).collect()
}

fn usage(worker: &FleetProcess) -> (f64, u64) {
    let usage = worker.usage();
    usage.unwrap_or_else(|| panic!("a worker has ended: {}", worker.log()))
}

/// CPU seconds of all child processes that have ended and were waited for.
fn reaped_cpu() -> f64 {
    /// Clock ticks a second: fixed at 100 for user space on every Linux.
    const TICKS: f64 = 100.0;
    let stat = std::fs::read_to_string("/proc/self/stat").expect("this is Linux");
    // The name in parentheses may hold anything; `cutime` and `cstime` are the 14th and 15th field after it.
    let (_, fields) = stat.rsplit_once(')').expect("a name in parentheses");
    let fields = fields.split_whitespace().skip(13).take(2);
    fields
        .map(|ticks| ticks.parse::<f64>().expect("a number") / TICKS)
        .sum()
}
