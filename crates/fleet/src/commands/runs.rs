//! `fleet runs …`: what the ledger says of runs, and what an operator decides on them.

mod decide;
mod describe;
mod watch;

use std::collections::BTreeMap;

use anyhow::bail;
use batch::{Decision, RunId, Stage};
use comfy_table::Cell;
use ledger::{Ledger, Progress, RunStatus};
use pipeline::broker::{Broker, BrokerError, RabbitMq};
use pipeline::history;
use serde_json::json;

use crate::commands::block_on;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Tone, duration, number, table, time};

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
    /// Show one run: its stages and their decisions, what each store has accounted for, and what went wrong
    Show {
        /// Its name, or `latest`
        run: String,
        /// Draw it anew as it goes on, until it has ended; exit code 6 if it did not end well
        #[arg(long)]
        watch: bool,
    },
    /// Follow a run until it is complete; exit code 6 if it was rejected or given up, or the time is over
    Watch {
        /// Its name, or `latest`
        run: String,
        /// Give up after this many seconds; without it, never
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Close a stage that its gate rejected, or has not judged, after what was wrong is repaired
    ///
    /// What builds on the stage is evaluated again: a pipeline that holds batches takes those of the run out of
    /// quarantine and releases them; a store that is closed has its dictionaries refreshed. The decision is on the
    /// ledger with its reason and who made it.
    Approve(DecideArguments),
    /// End a stage badly, whatever its gate says: nothing that builds on it begins
    Reject(DecideArguments),
    /// Give a run up, so that the next one can begin; what is on its way still arrives
    Abandon {
        /// Its name
        run: RunId,
        #[command(flatten)]
        because: Because,
    },
}

#[derive(Debug, clap::Args)]
pub struct DecideArguments {
    /// Name of the run
    run: RunId,
    /// The stage: plan, fetch, the program of a store such as ch-writer, sync, dictionary or serp
    #[arg(long, value_name = "STAGE")]
    stage: Stage,
    #[command(flatten)]
    because: Because,
}

#[derive(Debug, clap::Args)]
pub struct Because {
    /// Why, for whoever reads the ledger later
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who decides [default: the user and the machine]
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
}

pub fn run(action: Action, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    config.try_broker()?;
    let url = config.broker.url.reveal()?;
    let broker = Broker::RabbitMq(RabbitMq::new(&url)?);
    let output = context.output;
    block_on(async {
        match action {
            Action::List { pipeline, limit } => {
                list(&broker, pipeline.as_deref(), limit, output).await
            }
            Action::Show { run, watch: true } => watch::draw(&broker, &run, output).await,
            Action::Show { run, watch: false } => show(&broker, &run, output).await,
            Action::Watch { run, timeout } => watch::watch(&broker, &run, timeout, output).await,
            Action::Approve(decision) => {
                decide::decide(&broker, decision, Decision::Passed, output).await
            }
            Action::Reject(decision) => {
                decide::decide(&broker, decision, Decision::Rejected, output).await
            }
            Action::Abandon { run, because } => {
                decide::abandon(&broker, run, because, output).await
            }
        }
    })
}

async fn read(broker: &Broker) -> anyhow::Result<Ledger> {
    match history::read(broker, |_| {}).await {
        Err(BrokerError::NotFound { .. }) => {
            bail!(
                "there is no ledger here: no pipeline is configured (fleet pipeline configure --type TYPE)"
            )
        }
        read => Ok(read?),
    }
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
    let runs = ledger.all().into_iter().map(std::borrow::Cow::into_owned);
    let mut runs: Vec<Progress> = runs.filter(wanted).collect();
    runs.sort_by_key(begun_ms);
    let skews = skews(&runs);
    let first = runs.len().saturating_sub(limit);
    let (runs, skews) = (runs.split_off(first), &skews[first..]);
    if output.is_json() {
        let runs: Result<Vec<_>, _> = runs
            .iter()
            .zip(skews)
            .map(|(run, skew)| {
                let mut run = serde_json::to_value(run)?;
                run["skew_seconds"] = json!(skew.map(|ms| ms as f64 / 1000.0));
                Ok::<_, serde_json::Error>(run)
            })
            .collect();
        output.json(&json!({ "runs": runs? }))?;
    } else if runs.is_empty() {
        output.line("The ledger knows no run.")?;
    } else {
        let headers = [
            "run",
            "status",
            "began (UTC)",
            "took",
            "tasks",
            "rows read",
            "rows/s",
            "stores",
            "skew",
        ];
        let rows = runs.iter().zip(skews).map(|(run, skew)| {
            [
                Cell::new(run.run.as_str()),
                status(run.status, output),
                Cell::new(time(begun_ms(run))),
                Cell::new(took(run)),
                Cell::new(tasks(run)),
                Cell::new(number(run.rows_fetched)),
                Cell::new(number(rate(run))),
                Cell::new(shares(run)),
                skewed(*skew, output),
            ]
        });
        output.text(&table(&headers, &[3, 4, 5, 6, 8], rows))?;
    }
    Ok(Exit::Ok)
}

/// For each run, in the order of their beginnings, by how much the stores of its pipeline differed after it, in
/// milliseconds: the ends of the latest runs that passed in each. `None` while one of them has none.
fn skews(runs: &[Progress]) -> Vec<Option<i64>> {
    let mut watermarks: BTreeMap<&str, BTreeMap<&str, i64>> = BTreeMap::new();
    let after = |run| {
        let run: &Progress = run;
        let started = run.started.as_ref()?;
        let watermarks = watermarks.entry(&started.pipeline).or_default();
        if !started.partial {
            let complete = run.stores.iter().filter(|store| store.complete);
            watermarks.extend(complete.map(|store| (store.store.as_str(), started.until_ms)));
        }
        let ends: Option<Vec<i64>> = (started.stores.iter())
            .map(|store| watermarks.get(store.as_str()).copied())
            .collect();
        let ends = ends?;
        Some(ends.iter().max()? - ends.iter().min()?)
    };
    runs.iter().map(after).collect()
}

fn skewed(skew: Option<i64>, output: Output) -> Cell {
    match skew {
        None => output.cell(Tone::Faint, "–"),
        Some(0) => output.cell(Tone::Faint, "0"),
        Some(ms) => output.cell(Tone::Warning, span(ms)),
    }
}

async fn show(broker: &Broker, name: &str, output: Output) -> anyhow::Result<Exit> {
    let ledger = read(broker).await?;
    let progress = find(&ledger, name)?;
    // Of a run that has ended well the tasks are no longer told one by one.
    let problems = ledger.run(&progress.run).map(|run| run.problems());
    let problems = problems.unwrap_or_default();
    if output.is_json() {
        let mut answer = serde_json::to_value(&progress)?;
        answer["problems"] = serde_json::to_value(problems)?;
        output.json(&answer)?;
        return Ok(Exit::Ok);
    }
    output.text(&describe::describe(&progress, output))?;
    for problem in problems {
        output.line(format!(
            "task {}: {}",
            problem.task,
            watch::problem(&problem.problem)
        ))?;
    }
    Ok(Exit::Ok)
}

/// The run of that name, or the latest.
fn find(ledger: &Ledger, name: &str) -> anyhow::Result<Progress> {
    let found = match name {
        "latest" => ledger.all().into_iter().max_by_key(|run| begun_ms(run)),
        name => ledger.progress(&name.parse::<RunId>()?),
    };
    match found {
        Some(run) => Ok(run.into_owned()),
        None if name == "latest" => bail!("the ledger knows no run"),
        None => bail!("the ledger knows no run {name}; fleet runs list names those that it knows"),
    }
}

fn begun_ms(run: &Progress) -> i64 {
    run.started_ms.unwrap_or(run.latest_ms)
}

/// Milliseconds from the first receipt to the latest.
fn took_ms(run: &Progress) -> i64 {
    run.latest_ms.saturating_sub(begun_ms(run))
}

fn took(run: &Progress) -> String {
    span(took_ms(run))
}

/// Rows that every store has accounted for, a second.
fn rate(run: &Progress) -> u64 {
    let rows = run.rows_fetched.saturating_sub(run.rows_outstanding());
    let seconds = took_ms(run).max(1) as f64 / 1000.0;
    (rows as f64 / seconds) as u64
}

fn span(ms: i64) -> String {
    let ms = u64::try_from(ms).unwrap_or(0);
    duration(std::time::Duration::from_millis(ms))
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
        if run.rows_fetched == 0 {
            return format!("{} –", store.store);
        }
        let percent = store.rows_accounted as f64 * 100.0 / run.rows_fetched as f64;
        let refused = match store.rows.quarantined {
            0 => String::new(),
            n => format!(" ({} quarantined)", number(n)),
        };
        format!("{} {percent:.0} %{refused}", store.store)
    };
    run.stores.iter().map(share).collect::<Vec<_>>().join(", ")
}

fn status(status: RunStatus, output: Output) -> Cell {
    let tone = match status {
        RunStatus::Complete => Tone::Good,
        RunStatus::CompleteWithQuarantine | RunStatus::Abandoned => Tone::Warning,
        RunStatus::Rejected => Tone::Bad,
        RunStatus::Planning | RunStatus::Running | RunStatus::Restarting => {
            return Cell::new(status.to_string());
        }
    };
    output.cell(tone, status.to_string())
}
