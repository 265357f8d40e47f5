//! `make demo`: one cycle of the whole fleet on real services, with its proof.
//!
//! `demo FLEET CONFIG`, with the addresses of the services in the environment. Creates the hub table, declares
//! tables, indices and pipeline, starts a SERP service and each program as its own process, publishes one run and
//! watches it to the last restarted port; then counts in the stores, asks the SERP service, and compares with
//! the source. Exit code 0 only if all agree, and the SERP service answered all the time.

mod proof;
mod serp;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use fleet::output::number;
use serde_json::Value;
use testkit::{Fleet, FleetProcess, Hub, repository};

use serp::Service;

const ROWS: u64 = 200_000;
const WORKERS: [&str; 6] = [
    "fetcher",
    "persister",
    "ch-writer",
    "es-writer",
    "dict-refresher",
    "serp-restarter",
];
/// Time that a worker has to finish what it has in flight.
const GRACE: Duration = Duration::from_secs(40);

fn main() -> ExitCode {
    if testkit::serp::is_process() {
        testkit::serp::main();
        return ExitCode::SUCCESS;
    }
    let mut arguments = std::env::args().skip(1);
    let (Some(binary), Some(config)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: demo FLEET CONFIG; see `make demo`");
        return ExitCode::from(2);
    };
    let logs = repository().join(".services/log/demo");
    let fleet = Fleet::new(binary, PathBuf::from(config), Vec::new(), &logs);
    let demo = Demo::new(fleet);
    demo.prepare();
    announce(
        "Starting a SERP service of two nodes, and a prober that reads from each all the time.",
    );
    let service = Service::start(&demo.settings, &demo.hub);
    let started = Instant::now();
    let run = demo.cycle();
    let agrees = demo.prove(&run, started.elapsed(), service);
    demo.announce_addresses();
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
    settings: Value,
    elasticsearch: String,
}

impl Demo {
    fn new(fleet: Fleet) -> Self {
        let settings = fleet.json(&["config", "show"]);
        let text = |pointer: &str| text(&settings, pointer);
        let hub = Hub {
            shards: text("/source/cluster")
                .split(',')
                .map(str::to_owned)
                .collect(),
            database: text("/source/database"),
            table: text("/source/table"),
            rows: ROWS,
        };
        let elasticsearch = text("/elasticsearch/urls/0");
        Self {
            fleet,
            hub,
            settings,
            elasticsearch,
        }
    }

    fn prepare(&self) {
        if self.hub.is_filled() {
            announce("The hub table is there from an earlier time.");
        } else {
            announce(&format!(
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
            announce(&format!("fleet {}", command.join(" ")));
            self.fleet.run(command);
        }
    }

    /// Publishes a run and sees it to its end; returns what the ledger knows of it.
    fn cycle(&self) -> Value {
        announce(&format!("Starting {}.", WORKERS.join(", ")));
        let mut workers: Vec<FleetProcess> =
            WORKERS.iter().map(|role| self.fleet.start(role)).collect();
        let mut publish = vec!["run", "queuer"];
        let before = self.latest();
        if let Some(run) = before.as_ref().filter(|run| is_unfinished(run)) {
            let name = name_of(run);
            if run["status"] == "planning" {
                // Its queuer was killed: the rest of its tasks will never come.
                publish.extend(["--abandon", name]);
            } else {
                announce(&format!(
                    "Run {name} was interrupted; seeing it to its end first."
                ));
                self.watch(name);
            }
        }
        announce(&format!("fleet {}", publish.join(" ")));
        self.fleet.run(&publish);
        let run = self.latest().expect("the queuer has just published a run");
        let name = name_of(&run);
        self.watch(name);
        for worker in &mut workers {
            if worker.terminate(GRACE).is_none() {
                announce(&format!(
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
            announce(&format!(
                "fleet runs watch {name} did not see the run to its end."
            ));
        }
    }

    /// The latest run on the ledger.
    fn latest(&self) -> Option<Value> {
        let runs = self.fleet.json(&["runs", "list"]);
        runs["runs"].as_array()?.last().cloned()
    }

    fn announce_addresses(&self) {
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

fn text(settings: &Value, pointer: &str) -> String {
    let value = settings.pointer(pointer).and_then(Value::as_str);
    value
        .unwrap_or_else(|| panic!("the configuration has no {pointer}"))
        .to_owned()
}

fn name_of(run: &Value) -> &str {
    run["run"].as_str().expect("a run has a name")
}

fn is_unfinished(run: &Value) -> bool {
    ["planning", "running", "restarting"]
        .iter()
        .any(|state| run["status"] == *state)
}

fn announce(text: &str) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if std::io::stdout().is_terminal() && !plain {
        println!("\x1b[1m{text}\x1b[0m");
    } else {
        println!("{text}");
    }
}
