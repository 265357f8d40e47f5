//! `fleet runs …`: what the ledger says of runs. Reads, and changes nothing.

mod watch;

use anyhow::bail;
use batch::RunId;
use comfy_table::Cell;
use ledger::{Ledger, Progress, RunState, State};
use pipeline::broker::{Broker, RabbitMq};
use pipeline::names;
use serde_json::json;

use crate::commands::block_on;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Tone, bytes, duration, number, table, time};

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// List the runs that the ledger knows, the latest last
    List {
        /// Runs of this pipeline type only
        #[arg(long = "type", value_name = "TYPE")]
        pipeline: Option<String>,
        /// The latest N only
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
    },
    /// Show one run: tasks, rows, what each store has accounted for, and what went wrong
    Show {
        /// Its name, or `latest`
        run: String,
    },
    /// Follow a run until it is complete; exit code 6 if it was given up or the time is over
    Watch {
        /// Its name, or `latest`
        run: String,
        /// Give up after this many seconds; without it, never
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
}

pub fn run(action: Action, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let url = config.broker.url.reveal()?;
    let broker = Broker::RabbitMq(RabbitMq::new(&url)?);
    block_on(async {
        match action {
            Action::List { pipeline, limit } => {
                list(&broker, pipeline.as_deref(), limit, context.output).await
            }
            Action::Show { run } => show(&broker, &run, context.output).await,
            Action::Watch { run, timeout } => {
                watch::watch(&broker, &run, timeout, context.output).await
            }
        }
    })
}

async fn read(broker: &Broker) -> anyhow::Result<Ledger> {
    let mut ledger = Ledger::new();
    let read = broker.read_stream_with(names::LEDGER, |message| {
        if let Err(invalid) = ledger.take(&message) {
            tracing::warn!(error = %invalid, "the ledger holds what is no receipt; passed over");
        }
    });
    read.await?;
    Ok(ledger)
}

async fn list(
    broker: &Broker,
    pipeline: Option<&str>,
    limit: usize,
    output: Output,
) -> anyhow::Result<Exit> {
    let ledger = read(broker).await?;
    let wanted = |progress: &Progress| {
        let of = progress.started.as_ref().map(|s| s.pipeline.as_str());
        pipeline.is_none_or(|name| of == Some(name))
    };
    let mut runs: Vec<Progress> = ledger
        .runs()
        .map(RunState::progress)
        .filter(wanted)
        .collect();
    runs.sort_by_key(begun_ms);
    let runs = runs.split_off(runs.len().saturating_sub(limit));
    if output.is_json() {
        output.json(&json!({ "runs": runs }))?;
    } else if runs.is_empty() {
        output.line("The ledger knows no run.")?;
    } else {
        let headers = [
            "run",
            "state",
            "began (UTC)",
            "took",
            "tasks",
            "rows read",
            "stores",
        ];
        let rows = runs.iter().map(|run| {
            [
                Cell::new(run.run.as_str()),
                state(run.state, output),
                Cell::new(time(begun_ms(run))),
                Cell::new(took(run)),
                Cell::new(tasks(run)),
                Cell::new(number(run.rows_fetched)),
                Cell::new(shares(run)),
            ]
        });
        output.text(&table(&headers, &[3, 4, 5], rows))?;
    }
    Ok(Exit::Ok)
}

async fn show(broker: &Broker, name: &str, output: Output) -> anyhow::Result<Exit> {
    let ledger = read(broker).await?;
    let run = find(&ledger, name)?;
    let progress = run.progress();
    if output.is_json() {
        let mut answer = serde_json::to_value(&progress)?;
        answer["troubles"] = serde_json::to_value(run.troubles())?;
        output.json(&answer)?;
        return Ok(Exit::Ok);
    }
    describe(&progress, output)?;
    for trouble in run.troubles() {
        output.line(format!(
            "task {}: {}",
            trouble.task,
            watch::trouble(&trouble.trouble)
        ))?;
    }
    Ok(Exit::Ok)
}

/// The run of that name, or the latest.
fn find<'a>(ledger: &'a Ledger, name: &str) -> anyhow::Result<&'a RunState> {
    let found = match name {
        "latest" => ledger.runs().max_by_key(|run| begun_ms(&run.progress())),
        name => ledger.run(&name.parse::<RunId>()?),
    };
    match found {
        Some(run) => Ok(run),
        None if name == "latest" => bail!("the ledger knows no run"),
        None => bail!("the ledger knows no run {name}; fleet runs list names those that it knows"),
    }
}

fn describe(run: &Progress, output: Output) -> anyhow::Result<()> {
    let mode = run.started.as_ref().map(|started| {
        let partial = if started.partial {
            ", some shards or a sample only"
        } else {
            ""
        };
        format!(
            "{} until {}{partial}",
            watch::mode(started.mode),
            time(started.until_ms)
        )
    });
    let lines = [
        ("run", run.run.to_string()),
        ("state", run.state.to_string()),
        (
            "carries",
            mode.unwrap_or_else(|| "unknown: its beginning is no longer on the ledger".into()),
        ),
        ("began (UTC)", time(begun_ms(run))),
        ("took", took(run)),
        ("tasks", tasks(run)),
        (
            "rows read",
            format!(
                "{} in {} batches, {}",
                number(run.rows_fetched),
                number(run.batches_fetched),
                bytes(run.bytes_fetched)
            ),
        ),
    ];
    for (name, value) in lines {
        output.line(format!("{name:<13}{value}"))?;
    }
    let headers = [
        "store",
        "accounted",
        "stored",
        "unchanged",
        "skipped",
        "quarantined",
        "why",
    ];
    let row = |name: String, rows: &batch::Rows, why: String| {
        [
            name,
            number(rows.total()),
            number(rows.stored),
            number(rows.unchanged),
            number(rows.skipped),
            number(rows.quarantined),
            why,
        ]
    };
    let rows = run.stores.iter().flat_map(|store| {
        let reasons = store.reasons.iter();
        let why: Vec<String> = reasons
            .map(|(reason, n)| format!("{reason}: {}", number(*n)))
            .collect();
        let whole = row(store.store.clone(), &store.rows, why.join(", "));
        let targets = store.targets.iter();
        let targets = targets.map(|(name, rows)| row(format!("  {name}"), rows, String::new()));
        std::iter::once(whole).chain(targets)
    });
    output.text(&table(&headers, &[1, 2, 3, 4, 5], rows))?;
    Ok(())
}

fn begun_ms(run: &Progress) -> i64 {
    run.started
        .as_ref()
        .map_or(run.latest_ms, |started| started.at_ms)
}

/// From the first receipt to the latest.
fn took(run: &Progress) -> String {
    let ms = run.latest_ms.saturating_sub(begun_ms(run));
    duration(std::time::Duration::from_millis(
        u64::try_from(ms).unwrap_or(0),
    ))
}

fn tasks(run: &Progress) -> String {
    let planned = run.tasks_planned.map_or_else(|| "?".to_owned(), number);
    let mut text = format!("{} of {planned}", number(run.tasks_fetched));
    if run.tasks_failed > 0 {
        text.push_str(&format!(", {} failed and waiting", run.tasks_failed));
    }
    if run.tasks_quarantined > 0 {
        text.push_str(&format!(", {} in quarantine", run.tasks_quarantined));
    }
    text
}

/// What each store has accounted for, of the rows read.
fn shares(run: &Progress) -> String {
    let share = |store: &ledger::StoreProgress| {
        let percent = match run.rows_fetched {
            0 => 100.0,
            read => store.rows_accounted as f64 * 100.0 / read as f64,
        };
        let refused = match store.rows.quarantined {
            0 => String::new(),
            n => format!(" ({} quarantined)", number(n)),
        };
        format!("{} {percent:.0} %{refused}", store.store)
    };
    run.stores.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn state(state: State, output: Output) -> Cell {
    let tone = match state {
        State::Complete => Tone::Good,
        State::CompleteWithQuarantine | State::Abandoned => Tone::Warning,
        State::Planning | State::Running => return Cell::new(state.to_string()),
    };
    output.cell(tone, state.to_string())
}
