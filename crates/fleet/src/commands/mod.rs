//! The commands. Each is a module with its arguments and one `run(arguments, &Context)`.

pub mod clickhouse;
pub mod completions;
pub mod config;
mod confirmation;
pub mod dictionary;
pub mod elasticsearch;
pub mod pipeline;
pub mod quarantine;
pub mod run;
pub mod runs;
pub mod serp;

use app::LogSettings;
use serde_json::json;
use stores::Change;

use crate::context::Context;
use crate::exit::Exit;

/// A new command is a line here and one in [`run`].
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run one of the fleet's programs, until it is told to stop
    Run(run::Arguments),
    /// Check, show and explain the settings
    #[command(subcommand)]
    Config(config::Action),
    /// Declare, check, show and remove pipelines
    #[command(subcommand)]
    Pipeline(pipeline::Action),
    /// Create the ClickHouse tables that rows go to
    #[command(subcommand)]
    Clickhouse(clickhouse::Action),
    /// What the ledger says of runs: list, show, watch; and what an operator decides on them
    #[command(subcommand)]
    Runs(runs::Action),
    /// Configure the indices of Elasticsearch
    #[command(subcommand)]
    Elasticsearch(elasticsearch::Action),
    /// Look at what the programs could not process
    #[command(subcommand)]
    Quarantine(quarantine::Action),
    /// Look at the dictionaries, go back to the ones before
    #[command(subcommand)]
    Dictionary(dictionary::Action),
    /// Look at the SERP service, pause and resume its restarts, restart a node
    #[command(subcommand)]
    Serp(serp::Action),
    /// Print the completions for a shell
    Completions(completions::Arguments),
}

/// Carries out a command. An error is printed by the caller.
pub fn run(command: Command, context: &Context) -> anyhow::Result<Exit> {
    match command {
        Command::Run(arguments) => run::run(arguments, context),
        Command::Config(action) => as_operator(|| config::run(action, context)),
        Command::Pipeline(action) => as_operator(|| pipeline::run(action, context)),
        Command::Clickhouse(action) => as_operator(|| clickhouse::run(action, context)),
        Command::Runs(action) => as_operator(|| runs::run(action, context)),
        Command::Elasticsearch(action) => as_operator(|| elasticsearch::run(action, context)),
        Command::Quarantine(action) => as_operator(|| quarantine::run(action, context)),
        Command::Dictionary(action) => as_operator(|| dictionary::run(action, context)),
        Command::Serp(action) => as_operator(|| serp::run(action, context)),
        Command::Completions(arguments) => completions::run(&arguments, context),
    }
}

/// A command that is not a program of the fleet logs only what is wrong: its answer says the rest.
fn as_operator(command: impl FnOnce() -> anyhow::Result<Exit>) -> anyhow::Result<Exit> {
    app::start_logs(&LogSettings {
        level: "warn".to_owned(),
        ..LogSettings::default()
    })?;
    command()
}

/// Runs the future of a command. Not every command needs a runtime; those that print help do not.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(future)
}

/// The user who calls, also behind sudo.
fn user() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"].map(std::env::var);
    let mut names = names.into_iter().flatten().filter(|name| !name.is_empty());
    names.next().unwrap_or_else(|| "unknown".to_owned())
}

/// Says what configuring a store changed, or would change; nothing is `all_well`.
fn report_changes(
    all_well: &str,
    changes: &[Change],
    dry_run: bool,
    context: &Context,
) -> anyhow::Result<Exit> {
    if context.output.is_json() {
        let list = changes
            .iter()
            .map(|change| json!({ "place": change.place, "what": change.what }));
        let list: Vec<_> = list.collect();
        context
            .output
            .json(&json!({ "dry_run": dry_run, "changes": list }))?;
    } else {
        let title = match (changes.is_empty(), dry_run) {
            (true, _) => all_well,
            (false, true) => "To be changed:",
            (false, false) => "Changed:",
        };
        context.output.line(title)?;
        for change in changes {
            context.output.line(format!("  {change}"))?;
        }
    }
    Ok(match dry_run && !changes.is_empty() {
        true => Exit::Differs,
        false => Exit::Ok,
    })
}
