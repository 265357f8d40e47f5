use std::time::Duration;

use anyhow::Context as _;
use app::App;
use ch_writer::ChWriter;
use clap::Subcommand;
use dict_refresher::DictRefresher;
use es_writer::EsWriter;
use fetcher::Fetcher;
use pipeline::{LoopOptions, Program, RoleKind, run_batch_worker, run_worker};
use queuer::{Published, QueuerExit};
use serde_json::json;
use serp_restarter::SerpRestarter;
use settings::InvalidSettings;
use topology::management::Management;
use topology::{Catalog, Topology};

use super::pipeline::ROLES;
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::number;
use crate::targets::targets;

/// How often the management API is asked whether a pipeline is configured.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The pipeline of a dry run where none is configured.
const NO_PIPELINE: &str = "dry-run";

/// Puts the option of every role behind a role's own in its help.
const AFTER_OWN_OPTIONS: usize = 500;

#[derive(Debug, clap::Args)]
#[command(subcommand_value_name = "ROLE", subcommand_help_heading = "Roles")]
pub struct RunArguments {
    #[command(subcommand)]
    role: RoleCommand,
    /// Name of the process, where it is not its role's: its queues, its stats and its settings in
    /// [processes.PROCESS] have it
    #[arg(
        long,
        global = true,
        value_name = "PROCESS",
        display_order = AFTER_OWN_OPTIONS
    )]
    name: Option<String>,
}

/// A role with the options that only it has.
#[derive(Debug, Subcommand)]
enum RoleCommand {
    /// Plan a run and publish its tasks
    Queuer(queuer::Options),
    /// Read the ranges of the hub that tasks name, and cut them into batches
    Fetcher,
    /// Evaluate the gates of every run, order what follows, and release what is held
    Persister,
    /// Write batches into ClickHouse
    ChWriter,
    /// Write batches into Elasticsearch
    EsWriter,
    /// Sync the replicas of a shard, and exchange its dictionary for a new one
    DictRefresher,
    /// Restart the SERP service, port by port, after its dictionary was refreshed
    SerpRestarter,
}

impl RoleCommand {
    fn name(&self) -> &'static str {
        match self {
            Self::Queuer(_) => queuer::ROLE.name,
            Self::Fetcher => fetcher::ROLE.name,
            Self::Persister => persister::ROLE.name,
            Self::ChWriter => ch_writer::ROLE.name,
            Self::EsWriter => es_writer::ROLE.name,
            Self::DictRefresher => dict_refresher::ROLE.name,
            Self::SerpRestarter => serp_restarter::ROLE.name,
        }
    }
}

/// The names of the roles that can be run.
pub fn roles() -> impl Iterator<Item = &'static str> {
    let programs = ROLES.iter().filter(|role| role.kind != RoleKind::Stream);
    programs.map(|role| role.name)
}

/// Refuses a process whose role, that of `[processes.NAME]` or else its name, is none.
pub fn check_role(config: &Config, name: &str) -> Result<(), InvalidSettings> {
    let role = configured_role(config, name).unwrap_or(name);
    if roles().any(|known| known == role) {
        return Ok(());
    }
    let roles: Vec<&str> = roles().collect();
    Err(InvalidSettings::one(
        format!("processes.{name}.role"),
        format!("must be one of {}, not {role:?}", roles.join(", ")),
    ))
}

fn configured_role<'a>(config: &'a Config, name: &str) -> Option<&'a str> {
    config.processes.get(name)?.role.as_deref()
}

pub fn run(arguments: RunArguments, context: &Context) -> anyhow::Result<Exit> {
    let RunArguments { role, name } = arguments;
    let name = name.unwrap_or_else(|| role.name().to_owned());
    let config = context.load(Some(&name))?.settings;
    if let Some(other) = configured_role(&config, &name).filter(|other| *other != role.name()) {
        let problem = format!(
            "is {other:?}, so that {name} cannot be run as {}",
            role.name()
        );
        return Err(InvalidSettings::one(format!("processes.{name}.role"), problem).into());
    }
    config.try_broker()?;
    super::block_on(async {
        let app = App::start(&name, &config.app())?;
        let ended = run_role(role, &app, &config, context).await;
        let exit = ended.unwrap_or_else(|error| {
            tracing::error!(error = format!("{error:#}"), "ended by an error");
            Exit::from_error(&error)
        });
        app.finish().await;
        Ok(exit)
    })
}

async fn run_role(
    role: RoleCommand,
    app: &App,
    config: &Config,
    context: &Context,
) -> anyhow::Result<Exit> {
    let program = |options: &LoopOptions| Program::new(app, &config.broker, options);
    match role {
        RoleCommand::Queuer(options) => return run_queuer(&options, app, config, context).await,
        RoleCommand::Fetcher => {
            let fetcher = Fetcher::new(app, &config.source, &config.fetcher)?;
            run_worker(&program(&config.fetcher.options)?, fetcher).await?;
        }
        RoleCommand::Persister => {
            let Some(topology) = configured_topology(app, config).await? else {
                return Ok(Exit::Ok);
            };
            let inputs = persister::PersisterInputs::new(&topology, &app.name);
            let program = program(&config.persister.options)?;
            persister::run(&program, &inputs, &config.gates, &config.persister).await?;
        }
        RoleCommand::ChWriter => {
            let writer = ChWriter::new(app, &config.clickhouse, &config.ch_writer)?;
            run_batch_worker(&program(&config.ch_writer.options)?, writer).await?;
        }
        RoleCommand::EsWriter => {
            let writer = EsWriter::new(app, &config.elasticsearch, &config.es_writer)?;
            run_batch_worker(&program(&config.es_writer.options)?, writer).await?;
        }
        RoleCommand::DictRefresher => {
            let settings = &config.dict_refresher;
            let (target, dictionary) = (&config.clickhouse, &config.dictionary);
            let refresher = DictRefresher::new(app, target, dictionary, &config.serp, settings)?;
            run_worker(&program(&settings.loop_options())?, refresher).await?;
        }
        RoleCommand::SerpRestarter => {
            let (serp, settings) = (&config.serp, &config.serp_restarter);
            let program = program(&settings.loop_options(serp))?;
            let restarter = SerpRestarter::new(app, program.broker.clone(), serp, settings)?;
            run_worker(&program, restarter).await?;
        }
    }
    Ok(Exit::Ok)
}

async fn run_queuer(
    options: &queuer::Options,
    app: &App,
    config: &Config,
    context: &Context,
) -> anyhow::Result<Exit> {
    let output = context.output;
    let pipeline = if options.dry_run {
        dry_run_pipeline(app, config, context).await?
    } else {
        match configured_topology(app, config).await? {
            Some(topology) => downstream(app, &topology, context)?,
            None => return Ok(Exit::Ok),
        }
    };
    let program = Program::new(app, &config.broker, &LoopOptions::default())?;
    let finished = queuer::run(&program, &pipeline, &config.source, &config.queuer, options);
    match finished.await? {
        QueuerExit::Published(Published {
            run,
            tasks,
            estimated_rows,
        }) => {
            let answer = json!({ "run": run, "tasks": tasks, "estimated_rows": estimated_rows });
            let (tasks, rows) = (number(tasks), number(estimated_rows));
            let text = format!(
                "Run {run}: {tasks} tasks are published, about {rows} rows. Follow it: fleet runs watch {run}"
            );
            output.answer(&answer, text)?;
        }
        QueuerExit::Planned(report) => {
            output.answer(&report, report.to_string())?;
            return Ok(Exit::differs_if(!report.differences.is_empty()));
        }
        // A loop always ends so; a single run is not published then.
        QueuerExit::Stopped if options.every_seconds.is_none() => return Ok(Exit::Differs),
        QueuerExit::Stopped => {}
    }
    Ok(Exit::Ok)
}

const NOT_CONFIGURED: &str = "no pipeline is configured yet: fleet pipeline configure --type TYPE";

/// What the queuer sends to in the pipeline that is configured; in none in particular if none is.
async fn dry_run_pipeline(
    app: &App,
    config: &Config,
    context: &Context,
) -> anyhow::Result<queuer::Downstream> {
    let management = Management::from_settings(&config.broker)?;
    let missing = match management.configured().await {
        Ok(Some(pipeline)) => return downstream(app, &topology(config, &pipeline)?, context),
        Ok(None) => NOT_CONFIGURED.to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(error = missing, "planning for no pipeline in particular");
    Ok(queuer::Downstream {
        pipeline: NO_PIPELINE.to_owned(),
        stores: Vec::new(),
        targets: Vec::new(),
        task_queues: Vec::new(),
        batch_queues: Vec::new(),
        run_plan: None,
    })
}

/// Waits for the type that is configured, which the broker tells by its management API alone; `None` when stopped.
async fn configured_topology(app: &App, config: &Config) -> anyhow::Result<Option<Topology>> {
    let management = Management::from_settings(&config.broker)?;
    let mut logged = false;
    loop {
        let missing = match management.configured().await {
            Ok(Some(pipeline)) => return topology(config, &pipeline).map(Some),
            Ok(None) => NOT_CONFIGURED.to_owned(),
            Err(error) if error.may_pass() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if !std::mem::replace(&mut logged, true) {
            tracing::info!(error = missing, "waiting for the pipeline");
        }
        tokio::select! {
            () = app.shutdown.triggered() => return Ok(None),
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
    }
}

fn topology(config: &Config, pipeline: &str) -> anyhow::Result<Topology> {
    Catalog::load(config.pipeline.file.as_deref())?
        .topology(pipeline, &ROLES)
        .with_context(|| format!("the broker is configured for pipeline type {pipeline}"))
}

fn downstream(
    app: &App,
    topology: &Topology,
    context: &Context,
) -> anyhow::Result<queuer::Downstream> {
    let mut downstream = queuer::Downstream::from_topology(topology, &app.name);
    downstream.targets = targets(context, Some(topology))?;
    if downstream.task_queues.is_empty() {
        let (pipeline, name) = (&topology.name, &app.name);
        let problem = format!("nothing in pipeline type {pipeline} reads what {name} sends");
        return Err(InvalidSettings::one("", problem).into());
    }
    Ok(downstream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_roles_that_can_be_run_are_those_of_the_topology() {
        let commands = RoleCommand::augment_subcommands(clap::Command::new("run"));
        let commands: Vec<_> = commands.get_subcommands().map(|c| c.get_name()).collect();
        assert_eq!(roles().collect::<Vec<_>>(), commands);
    }
}
