//! The commands. Each is a module with its arguments and one `run(arguments, &Context)`.

pub mod check;
pub mod completions;
pub mod config;
mod configure;
mod confirmation;
pub mod dictionary;
pub mod pipeline;
pub mod quarantine;
pub mod run;
pub mod runs;
pub mod serp;

use app::LogSettings;
use configure::{ClickHouseCommand, ElasticsearchCommand, Store};

use crate::context::Context;
use crate::exit::Exit;

/// A new command is a line here and one in [`run`].
#[derive(Debug, clap::Subcommand)]
pub enum FleetCommand {
    /// Run one of the fleet's programs, until it is stopped
    Run(run::RunArguments),
    /// Check, show and explain the settings
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Declare, check, show and remove pipelines
    #[command(subcommand)]
    Pipeline(pipeline::PipelineCommand),
    /// Create the ClickHouse tables that rows go to
    #[command(subcommand)]
    Clickhouse(ClickHouseCommand),
    /// Compare the hub with all stores, as the queuer does before a run; exit code 6 if a run would not begin
    ///
    /// The tables of every replica, every index and its followers, and the dictionaries. Changes nothing. What differs is
    /// named with both sides and what to type. A target that cannot be asked is exit code 5.
    Check(check::CheckArguments),
    /// List, show and watch the runs of the ledger, and decide on them
    #[command(subcommand)]
    Runs(runs::RunsCommand),
    /// Configure the indices of Elasticsearch
    #[command(subcommand)]
    Elasticsearch(ElasticsearchCommand),
    /// Inspect what the programs could not process
    #[command(subcommand)]
    Quarantine(quarantine::QuarantineCommand),
    /// Show the dictionaries, go back to the ones before
    #[command(subcommand)]
    Dictionary(dictionary::DictionaryCommand),
    /// Show the SERP service, pause and resume its restarts, restart a node
    #[command(subcommand)]
    Serp(serp::SerpCommand),
    /// Print the completions for a shell
    Completions(completions::CompletionsArguments),
}

/// Runs a command. The caller prints an error.
pub fn run(command: FleetCommand, context: &Context) -> anyhow::Result<Exit> {
    // A program of the fleet logs what its settings want; an operator's command, whose answer has the rest, logs what
    // is wrong.
    if !matches!(command, FleetCommand::Run(_)) {
        app::start_logs(&LogSettings {
            level: "warn".to_owned(),
            ..LogSettings::default()
        })?;
    }
    match command {
        FleetCommand::Run(arguments) => run::run(arguments, context),
        FleetCommand::Config(command) => config::run(command, context),
        FleetCommand::Pipeline(command) => pipeline::run(command, context),
        FleetCommand::Clickhouse(ClickHouseCommand::Configure(dry_run)) => {
            configure::run(Store::ClickHouse, &dry_run, context)
        }
        FleetCommand::Check(arguments) => check::run(&arguments, context),
        FleetCommand::Runs(command) => runs::run(command, context),
        FleetCommand::Elasticsearch(ElasticsearchCommand::Configure(dry_run)) => {
            configure::run(Store::Elasticsearch, &dry_run, context)
        }
        FleetCommand::Quarantine(command) => quarantine::run(command, context),
        FleetCommand::Dictionary(command) => dictionary::run(command, context),
        FleetCommand::Serp(command) => serp::run(command, context),
        FleetCommand::Completions(arguments) => completions::run(&arguments, context),
    }
}

/// Runs the future of a command. Commands that connect to nothing need no runtime.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(future)
}

/// The user who calls, also with sudo.
fn user() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"].map(std::env::var);
    let mut names = names.into_iter().flatten().filter(|name| !name.is_empty());
    names.next().unwrap_or_else(|| "unknown".to_owned())
}
