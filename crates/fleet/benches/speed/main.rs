//! How fast the fleet is, each figure against a limit measured in the same run: `make bench`,
//! `make bench ONLY=relay`.
//!
//! Figures are printed as a table and written to `target/bench/results.json`. Machines differ and drift,
//! so it is the ratios that count.

mod batched;
mod clickhouse;
mod elasticsearch;
mod figure;
mod gates;
mod ledger_cost;
mod line;
mod memory;
mod planning;
mod relay;

use figure::Figure;

type Benchmark = (&'static str, fn() -> Vec<Figure>);

const BENCHMARKS: [Benchmark; 8] = [
    ("relay", relay::run),
    ("clickhouse", clickhouse::run),
    ("elasticsearch", elasticsearch::run),
    ("memory", memory::run),
    ("planning", planning::run),
    ("ledger", ledger_cost::run),
    ("gates", gates::run),
    ("batched", batched::run),
];

fn main() {
    // Cargo adds options of its own; the rest names the benchmarks that are wanted.
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| !a.starts_with("--"))
        .collect();
    let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = wanted.iter().find(|name| !names.contains(&name.as_str())) {
        eprintln!(
            "there is no benchmark {unknown}; there are: {}",
            names.join(", ")
        );
        std::process::exit(2);
    }
    let mut figures = Vec::new();
    for (name, run) in BENCHMARKS {
        if wanted.is_empty() || wanted.iter().any(|w| w == name) {
            eprintln!("measuring {name}");
            figures.extend(run());
        }
    }
    figure::report(&figures);
}
