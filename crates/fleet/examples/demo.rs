//! `make demo`: one cycle of the whole fleet on real services, with its proof.
//!
//! `demo FLEET CONFIG`, with the addresses of the services in the environment. Creates the hub table, declares
//! tables, indices and pipeline, starts each worker as its own process, publishes one run, watches it, then
//! counts in the stores and compares with the source. Exit code 0 only if they agree.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use fleet::output::{duration, number, table};
use serde_json::Value;
use testkit::{Fleet, Hub, Process, clickhouse, http, repository};

const ROWS: u64 = 200_000;
const WORKERS: [&str; 3] = ["fetcher", "ch-writer", "es-writer"];
/// Time that a worker has to finish what it has in work.
const GRACE: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(binary), Some(config)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: demo FLEET CONFIG; see `make demo`");
        return ExitCode::from(2);
    };
    let logs = repository().join(".services/log/demo");
    let fleet = Fleet::new(binary, PathBuf::from(config), Vec::new(), &logs);
    let demo = Demo::new(fleet);
    demo.prepare();
    let started = Instant::now();
    let run = demo.cycle();
    let agrees = demo.prove(&run, started.elapsed());
    demo.say_where();
    if agrees {
        return ExitCode::SUCCESS;
    }
    eprintln!(
        "The stores do not agree with the source. The programs' logs are in {}.",
        logs.display()
    );
    ExitCode::FAILURE
}

struct Demo {
    fleet: Fleet,
    hub: Hub,
    elasticsearch: String,
}

impl Demo {
    fn new(fleet: Fleet) -> Self {
        let settings = fleet.json(&["config", "show"]);
        let text = |pointer: &str| {
            let value = settings.pointer(pointer).and_then(Value::as_str);
            value
                .unwrap_or_else(|| panic!("the configuration has no {pointer}"))
                .to_owned()
        };
        let hub = Hub {
            shards: text("/source/cluster")
                .split(',')
                .map(str::to_owned)
                .collect(),
            database: text("/source/database"),
            table: text("/source/table"),
            rows: ROWS,
        };
        Self {
            fleet,
            hub,
            elasticsearch: text("/elasticsearch/urls/0"),
        }
    }

    fn prepare(&self) {
        if self.hub.is_filled() {
            say("The hub table is there from an earlier time.");
        } else {
            say(&format!(
                "Filling the hub table with {} rows over {} shards.",
                number(ROWS),
                self.hub.shards.len()
            ));
            self.hub.create();
        }
        for command in [
            ["clickhouse", "configure"].as_slice(),
            &["elasticsearch", "configure"],
            &["pipeline", "configure", "--type", "direct"],
        ] {
            say(&format!("fleet {}", command.join(" ")));
            self.fleet.run(command);
        }
    }

    /// Publishes a run and sees it to its end; answers with what the ledger says of it.
    fn cycle(&self) -> Value {
        say(&format!("Starting {}.", WORKERS.join(", ")));
        let mut workers: Vec<Process> = WORKERS.iter().map(|role| self.fleet.start(role)).collect();
        let mut publish = vec!["run", "queuer"];
        let before = self.latest();
        if let Some(run) = before.as_ref().filter(|run| is_unfinished(run)) {
            let name = name_of(run);
            if run["state"] == "planning" {
                // Its queuer was killed: the rest of its tasks will never come.
                publish.extend(["--force", name]);
            } else {
                say(&format!(
                    "Run {name} was interrupted; seeing it to its end first."
                ));
                self.watch(name);
            }
        }
        say(&format!("fleet {}", publish.join(" ")));
        self.fleet.run(&publish);
        let run = self.latest().expect("the queuer has just published a run");
        let name = name_of(&run);
        self.watch(name);
        for worker in &mut workers {
            if worker.terminate(GRACE).is_none() {
                say(&format!(
                    "A worker does not stop; see {}.",
                    worker.log_file().display()
                ));
            }
        }
        self.fleet.json(&["runs", "show", name])
    }

    fn watch(&self, name: &str) {
        let mut watch = self.fleet.command(&["runs", "watch", name]);
        let watched = watch.stdout(Stdio::inherit()).status();
        if !watched.is_ok_and(|status| status.success()) {
            say(&format!(
                "fleet runs watch {name} did not see the run to its end."
            ));
        }
    }

    /// The latest run on the ledger.
    fn latest(&self) -> Option<Value> {
        let runs = self.fleet.json(&["runs", "list"]);
        runs["runs"].as_array()?.last().cloned()
    }

    /// Counts in the stores, compares with the source, and prints the table.
    fn prove(&self, run: &Value, elapsed: Duration) -> bool {
        let read = run["rows_fetched"].as_u64().unwrap_or(0);
        let source = self.source();
        let mut lines = Vec::new();
        for (n, (address, keys)) in self
            .hub
            .shards
            .iter()
            .zip(&source.keys_by_shard)
            .enumerate()
        {
            let target = format!("{}.keywords_metrics_local", self.hub.database);
            let stored = count(address, &format!("SELECT count() FROM {target} FINAL"));
            lines.push(Line::new(format!("ClickHouse, shard {n}"), stored, *keys));
        }
        for (index, expected) in [
            ("keywords-all-20220613", source.keys() - source.refused),
            ("keywords-lite-20241025", source.lite),
        ] {
            lines.push(Line::new(
                format!("Elasticsearch, {index}"),
                self.documents(index),
                expected,
            ));
        }
        let (quarantined, reasons) = self.quarantined();
        lines.push(Line::new(
            format!("quarantined{reasons}"),
            quarantined,
            source.refused,
        ));

        println!();
        let already = match read {
            0 => ": nothing changed since the last run, its rows were already there",
            _ => "",
        };
        println!(
            "rows in the source   {} ({} keys; {} rows are older versions)",
            number(source.rows),
            number(source.keys()),
            number(source.rows - source.keys())
        );
        println!("rows read            {}{already}", number(read));
        for store in run["stores"].as_array().into_iter().flatten() {
            let rows = |what: &str| number(store["rows"][what].as_u64().unwrap_or(0));
            println!(
                "{:<21}{} stored, {} already there, {} quarantined",
                store["store"].as_str().unwrap_or_default(),
                rows("stored"),
                rows("unchanged"),
                rows("quarantined")
            );
        }
        println!(
            "state of the run     {}",
            run["state"].as_str().unwrap_or("unknown")
        );
        println!("time                 {}", duration(elapsed));
        println!();
        let cells = lines.iter().map(|line| {
            let agrees = if line.agrees() { "yes" } else { "NO" };
            [
                line.what.clone(),
                number(line.found),
                number(line.expected),
                agrees.to_owned(),
            ]
        });
        println!(
            "{}",
            table(
                &["where", "rows found", "by the source", "agree"],
                &[1, 2],
                cells
            )
        );
        let complete = run["state"]
            .as_str()
            .is_some_and(|state| state.starts_with("complete"));
        complete && lines.iter().all(Line::agrees)
    }

    /// What the stores should hold, by the source's own rows: the latest version of each key.
    fn source(&self) -> Source {
        let table = format!("{}.{}", self.hub.database, self.hub.table);
        let latest = format!(
            "(SELECT argMax(processed_volume, changed_at) AS volume FROM {table} GROUP BY country, keyword)"
        );
        let sum = |sql: &str| {
            self.hub
                .shards
                .iter()
                .map(|address| count(address, sql))
                .sum()
        };
        let keys = format!("SELECT count() FROM {latest}");
        Source {
            rows: sum(&format!("SELECT count() FROM {table}")),
            keys_by_shard: self
                .hub
                .shards
                .iter()
                .map(|address| count(address, &keys))
                .collect(),
            refused: sum(&format!(
                "SELECT countIf(volume > 9223372036854775807) FROM {latest}"
            )),
            lite: sum(&format!(
                "SELECT countIf(volume BETWEEN 100 AND 9223372036854775807) FROM {latest}"
            )),
        }
    }

    fn documents(&self, index: &str) -> u64 {
        http(
            "POST",
            &format!("{}/{index}/_refresh", self.elasticsearch),
            "",
        );
        let (_, answer) = http("GET", &format!("{}/{index}/_count", self.elasticsearch), "");
        serde_json::from_str::<Value>(&answer)
            .ok()
            .and_then(|v| v["count"].as_u64())
            .unwrap_or(0)
    }

    /// Rows in quarantine and why, of the latest run that has any there: a run of all rows refuses the same again.
    fn quarantined(&self) -> (u64, String) {
        let listed = self.fleet.json(&["quarantine", "list"]);
        let groups = listed["groups"].as_array().cloned().unwrap_or_default();
        let latest = groups
            .iter()
            .filter_map(|group| group["run"].as_str())
            .max();
        let of_latest = || {
            groups
                .iter()
                .filter(|group| group["run"].as_str() == latest)
        };
        let rows = of_latest().filter_map(|group| group["rows"].as_u64()).sum();
        let mut reasons: Vec<&str> = of_latest()
            .filter_map(|group| group["reason"].as_str())
            .collect();
        reasons.sort_unstable();
        reasons.dedup();
        let reasons = match reasons.is_empty() {
            true => String::new(),
            false => format!(": {}", reasons.join(", ")),
        };
        (rows, reasons)
    }

    fn say_where(&self) {
        println!();
        println!("The services stay up (make down stops them):");
        let status = std::process::Command::new(repository().join("deploy/local/services"))
            .arg("status")
            .status();
        if status.is_err() {
            println!("deploy/local/services status tells their addresses");
        }
        println!(
            "Look around: eval \"$(deploy/local/services env)\"; target/release/fleet --config deploy/demo.toml quarantine list"
        );
    }
}

struct Source {
    rows: u64,
    keys_by_shard: Vec<u64>,
    /// Keys whose volume Elasticsearch cannot hold.
    refused: u64,
    /// Keys of the volume that the lite index starts from.
    lite: u64,
}

impl Source {
    fn keys(&self) -> u64 {
        self.keys_by_shard.iter().sum()
    }
}

struct Line {
    what: String,
    found: u64,
    expected: u64,
}

impl Line {
    fn new(what: String, found: u64, expected: u64) -> Self {
        Self {
            what,
            found,
            expected,
        }
    }

    fn agrees(&self) -> bool {
        self.found == self.expected
    }
}

fn name_of(run: &Value) -> &str {
    run["run"].as_str().expect("a run has a name")
}

fn is_unfinished(run: &Value) -> bool {
    run["state"] == "planning" || run["state"] == "running"
}

fn count(address: &str, sql: &str) -> u64 {
    let (ok, answer) = clickhouse::query(address, sql);
    assert!(ok, "{address} refuses {sql}: {answer}");
    answer
        .trim()
        .parse()
        .unwrap_or_else(|_| panic!("{sql} answers {answer}"))
}

fn say(text: &str) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stdout().is_terminal() && !plain {
        println!("\x1b[1m{text}\x1b[0m");
    } else {
        println!("{text}");
    }
}
