//! `fleet runs …`: shows the runs of the ledger, and publishes what an operator decides on them.

mod decide;
mod describe;
mod watch;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, bail};
use batch::{Decision, RunId, Stage};
use comfy_table::Cell;
use ledger::{Ledger, Progress, RunStatus};
use pipeline::broker::{Broker, BrokerError};
use pipeline::history;
use serde_json::json;

use crate::commands::block_on;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Tone, duration, number, table, time};

#[derive(Debug, clap::Subcommand)]
pub enum RunsCommand {
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
        /// Show it again at each change, until it has ended; exit code 6 if it is not complete then
        #[arg(long)]
        watch: bool,
    },
    /// Follow a run until it is complete; exit code 6 if it was rejected or abandoned, or the time is over
    Watch {
        /// Its name, or `latest`
        run: String,
        /// Give up after this many seconds; without it, never
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
    },
    /// Pass a stage that its gate rejected, or has not decided on, after the cause is repaired
    ///
    /// What builds on the stage is evaluated again: a pipeline that holds batches takes those of the run out of
    /// quarantine and releases them; a store that has passed has its dictionaries refreshed. The decision is on the
    /// ledger with its reason and who made it.
    Approve(DecideArguments),
    /// Reject a stage, whatever its gate decides: nothing that builds on it begins
    Reject(DecideArguments),
    /// Abandon a run, so that the next one can begin; what is on its way still arrives
    Abandon {
        /// Its name
        run: RunId,
        #[command(flatten)]
        attribution: Attribution,
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
    attribution: Attribution,
}

#[derive(Debug, clap::Args)]
pub struct Attribution {
    /// Why, for other readers of the ledger
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// Who decides [default: the user and the machine]
    #[arg(long, value_name = "NAME")]
    who: Option<String>,
}

pub fn run(command: RunsCommand, context: &Context) -> anyhow::Result<Exit> {
    let broker = &context.config()?.try_broker()?;
    let output = context.output;
    block_on(async {
        match command {
            RunsCommand::List { pipeline, limit } => {
                list(broker, pipeline.as_deref(), limit, output).await
            }
            RunsCommand::Show { run, watch: true } => watch::draw(broker, &run, output).await,
            RunsCommand::Show { run, watch: false } => show(broker, &run, output).await,
            RunsCommand::Watch { run, timeout } => {
                watch::watch(broker, &run, timeout, output).await
            }
            RunsCommand::Approve(arguments) => {
                decide::decide(broker, arguments, Decision::Passed, output).await
            }
            RunsCommand::Reject(arguments) => {
                decide::decide(broker, arguments, Decision::Rejected, output).await
            }
            RunsCommand::Abandon { run, attribution } => {
                decide::abandon(broker, run, attribution, output).await
            }
        }
    })
}

async fn read_ledger(broker: &Broker) -> anyhow::Result<Ledger> {
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
    let ledger = read_ledger(broker).await?;
    let is_wanted = |run: &Progress| {
        let started = run.started.as_ref();
        pipeline.is_none_or(|name| started.is_some_and(|s| s.pipeline == name))
    };
    let runs = ledger.all().into_iter().map(Cow::into_owned);
    let mut runs: Vec<Progress> = runs.filter(is_wanted).collect();
    runs.sort_by_key(began_ms);
    let skews = skews(&runs);
    let runs = runs.iter().zip(skews);
    let runs: Vec<_> = runs.rev().take(limit).rev().collect();
    if output.is_json() {
        let runs = runs.iter().map(|(run, skew_ms)| {
            let mut run = serde_json::to_value(run)?;
            run["skew_seconds"] = json!(skew_ms.map(|ms| ms as f64 / 1000.0));
            Ok(run)
        });
        let runs = runs.collect::<serde_json::Result<Vec<_>>>()?;
        output.json(&json!({ "runs": runs }))?;
    } else if runs.is_empty() {
        output.line("The ledger knows no run.")?;
    } else {
        let rows = runs.into_iter().map(|(run, skew_ms)| {
            [
                Cell::new(run.run.as_str()),
                status(run.status, output),
                Cell::new(time(began_ms(run))),
                Cell::new(span(took_ms(run))),
                Cell::new(tasks(run)),
                Cell::new(number(run.rows_fetched)),
                Cell::new(number(rate(run))),
                Cell::new(shares(run)),
                match skew_ms {
                    None => output.cell(Tone::Faint, "–"),
                    Some(0) => output.cell(Tone::Faint, "0"),
                    Some(ms) => output.cell(Tone::Warning, span(ms)),
                },
            ]
        });
        output.text(&table(
            "run | status | began (UTC) | >took | >tasks | >rows read | >rows/s | stores | >skew",
            rows,
        ))?;
    }
    Ok(Exit::Ok)
}

/// For each run, in the order of their beginnings, by how much the stores of its pipeline differed after it, in
/// milliseconds: the ends of the latest runs that passed in each. `None` while one of them has none.
fn skews<'r>(runs: &'r [Progress]) -> Vec<Option<i64>> {
    let mut watermarks: BTreeMap<&str, BTreeMap<&str, i64>> = BTreeMap::new();
    let skew_after = |run: &'r Progress| {
        let started = run.started.as_ref()?;
        let watermarks = watermarks.entry(&started.pipeline).or_default();
        if !started.partial {
            let complete = run.stores.iter().filter(|store| store.complete);
            watermarks.extend(complete.map(|store| (store.store.as_str(), started.until_ms)));
        }
        let ends = started.stores.iter();
        let ends: Vec<i64> = ends
            .map(|store| watermarks.get(store.as_str()).copied())
            .collect::<Option<_>>()?;
        Some(ends.iter().max()? - ends.iter().min()?)
    };
    runs.iter().map(skew_after).collect()
}

async fn show(broker: &Broker, name: &str, output: Output) -> anyhow::Result<Exit> {
    let ledger = read_ledger(broker).await?;
    let progress = find(&ledger, name)?;
    // The ledger does not keep the tasks of a complete run.
    let problems = ledger.run(&progress.run).map(|run| run.problems());
    let problems = problems.unwrap_or_default();
    let mut answer = serde_json::to_value(&progress)?;
    answer["problems"] = serde_json::to_value(&problems)?;
    let mut text = describe::describe(&progress, output);
    for problem in problems {
        let (task, problem) = (problem.task, describe::problem(&problem.problem));
        text += &format!("task {task}: {problem}\n");
    }
    output.answer(&answer, text)?;
    Ok(Exit::Ok)
}

/// The run of that name, or the latest.
fn find(ledger: &Ledger, name: &str) -> anyhow::Result<Progress> {
    if name != "latest" {
        return find_run(ledger, &name.parse()?);
    }
    let latest = ledger.all().into_iter().max_by_key(|run| began_ms(run));
    Ok(latest.context("the ledger knows no run")?.into_owned())
}

fn find_run(ledger: &Ledger, run: &RunId) -> anyhow::Result<Progress> {
    let progress = ledger.progress(run).with_context(|| {
        format!("the ledger knows no run {run}; fleet runs list names those that it knows")
    })?;
    Ok(progress.into_owned())
}

fn began_ms(run: &Progress) -> i64 {
    run.started_ms.unwrap_or(run.latest_ms)
}

/// Milliseconds from the first receipt to the latest.
fn took_ms(run: &Progress) -> i64 {
    run.latest_ms.saturating_sub(began_ms(run))
}

/// Rows that every store has accounted for, a second.
fn rate(run: &Progress) -> u64 {
    let rows = run.rows_fetched.saturating_sub(run.rows_outstanding());
    let seconds = took_ms(run).max(1) as f64 / 1000.0;
    (rows as f64 / seconds) as u64
}

fn span(ms: i64) -> String {
    duration(Duration::from_millis(ms.max(0) as u64))
}

fn tasks(run: &Progress) -> String {
    let planned = run.tasks_planned.map_or_else(|| "?".to_owned(), number);
    let mut text = format!("{} of {planned}", number(run.tasks_fetched));
    if run.tasks_failed > 0 {
        text += &format!(", {} failed and waiting", run.tasks_failed);
    }
    if run.tasks_quarantined > 0 {
        text += &format!(", {} in quarantine", run.tasks_quarantined);
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
