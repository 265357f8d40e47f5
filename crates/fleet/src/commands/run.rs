use std::ffi::OsStr;
use std::time::Duration;

use anyhow::Context as _;
use app::App;
use ch_writer::ChWriter;
use clap::Subcommand;
use dict_refresher::DictRefresher;
use es_writer::EsWriter;
use fetcher::Fetcher;
use pipeline::{LoopOptions, Program, run_batch_worker, run_worker};
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
use crate::output::{Output, number};

/// How often a queuer looks whether a pipeline is configured by now.
const LOOK: Duration = Duration::from_secs(1);

/// The pipeline of a dry run where none is configured.
const NO_PIPELINE: &str = "dry-run";

/// In a role's help, the place of what every role has.
const AFTER_OWN_OPTIONS: usize = 500;

#[derive(Debug, clap::Args)]
#[command(subcommand_value_name = "ROLE", subcommand_help_heading = "Roles")]
pub struct Arguments {
    #[command(subcommand)]
    role: Role,
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
enum Role {
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
    /// Sync the replicas of a shard, load its new dictionary and put it in place
    DictRefresher,
    /// Restart the SERP service, port by port, after its dictionary was refreshed
    SerpRestarter,
}

impl Role {
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
pub fn roles() -> Vec<String> {
    let roles = Role::augment_subcommands(clap::Command::new("run"));
    roles
        .get_subcommands()
        .map(|role| role.get_name().to_owned())
        .collect()
}

pub fn is_role(name: &OsStr) -> bool {
    roles().iter().any(|role| name == role.as_str())
}

/// The role that the process `name` runs, as `[processes.NAME]` says or by its own name.
pub fn role_of(config: &Config, name: &str) -> Result<String, InvalidSettings> {
    let role = config.processes.get(name);
    let role = role.and_then(|own| own.role.as_deref()).unwrap_or(name);
    let roles = roles();
    if roles.iter().any(|known| known == role) {
        return Ok(role.to_owned());
    }
    Err(InvalidSettings::one(
        format!("processes.{name}.role"),
        format!("must be one of {}, not {role:?}", roles.join(", ")),
    ))
}

pub fn run(arguments: Arguments, context: &Context) -> anyhow::Result<Exit> {
    let Arguments { role, name } = arguments;
    let name = name.unwrap_or_else(|| role.name().to_owned());
    let config = context.load(Some(&name))?.settings;
    same_role(&config, &name, role.name())?;
    config.try_broker()?;
    super::block_on(async {
        let app = App::start(&name, &config.app())?;
        let ended = run_role(role, &app, &config, context.output).await;
        let exit = ended.unwrap_or_else(|error| {
            tracing::error!(error = format!("{error:#}"), "ended by an error");
            Exit::of(&error)
        });
        app.finish().await;
        Ok(exit)
    })
}

/// Refuses to run a process as another role than it is configured for.
fn same_role(config: &Config, name: &str, role: &str) -> Result<(), InvalidSettings> {
    let configured = config
        .processes
        .get(name)
        .and_then(|own| own.role.as_deref());
    match configured {
        Some(other) if other != role => Err(InvalidSettings::one(
            format!("processes.{name}.role"),
            format!("is {other:?}, so that {name} cannot be run as {role}"),
        )),
        _ => Ok(()),
    }
}

async fn run_role(role: Role, app: &App, config: &Config, output: Output) -> anyhow::Result<Exit> {
    let program = |options: &LoopOptions| Program::new(app, &config.broker, options);
    match role {
        Role::Queuer(options) => return run_queuer(&options, app, config, output).await,
        Role::Fetcher => {
            let fetcher = Fetcher::new(app, &config.source, &config.fetcher)?;
            run_worker(&program(&config.fetcher.options)?, fetcher).await?;
        }
        Role::Persister => {
            let Some(topology) = topology_of(app, config).await? else {
                return Ok(Exit::Ok);
            };
            let inputs = persister::PersisterInputs::new(&topology, &app.name);
            let program = program(&config.persister.options)?;
            persister::run(&program, &inputs, &config.gates, &config.persister).await?;
        }
        Role::ChWriter => {
            let writer = ChWriter::new(app, &config.clickhouse, &config.ch_writer)?;
            run_batch_worker(&program(&config.ch_writer.options)?, writer).await?;
        }
        Role::EsWriter => {
            let writer = EsWriter::new(app, &config.elasticsearch, &config.es_writer)?;
            run_batch_worker(&program(&config.es_writer.options)?, writer).await?;
        }
        Role::DictRefresher => {
            let settings = &config.dict_refresher;
            let (target, dictionary) = (&config.clickhouse, &config.dictionary);
            let refresher = DictRefresher::new(app, target, dictionary, &config.serp, settings)?;
            run_worker(&program(&settings.loop_options())?, refresher).await?;
        }
        Role::SerpRestarter => {
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
    output: Output,
) -> anyhow::Result<Exit> {
    let Some(pipeline) = pipeline_of(app, config, options.dry_run).await? else {
        return Ok(Exit::Ok);
    };
    let program = Program::new(app, &config.broker, &LoopOptions::default())?;
    let finished = queuer::run(&program, &pipeline, &config.source, &config.queuer, options);
    match finished.await? {
        QueuerExit::Published(published) => say_published(&published, output)?,
        QueuerExit::Planned(report) if output.is_json() => output.json(&report)?,
        QueuerExit::Planned(report) => output.line(report.to_string().trim_end())?,
        // A loop only ends so; a single run is not published then.
        QueuerExit::Stopped if options.every_seconds.is_none() => return Ok(Exit::Differs),
        QueuerExit::Stopped => {}
    }
    Ok(Exit::Ok)
}

fn say_published(published: &Published, output: Output) -> anyhow::Result<()> {
    let Published {
        run,
        tasks,
        estimated_rows,
    } = published;
    if output.is_json() {
        let answer = json!({ "run": run, "tasks": tasks, "estimated_rows": estimated_rows });
        return Ok(output.json(&answer)?);
    }
    output.line(format!(
        "Run {run}: {} tasks are published, about {} rows. Follow it: fleet runs watch {run}",
        number(*tasks),
        number(*estimated_rows),
    ))?;
    Ok(())
}

/// What the queuer must know of the pipeline that is configured, waited for; `None` when told to stop. A dry run does
/// without one.
async fn pipeline_of(
    app: &App,
    config: &Config,
    dry_run: bool,
) -> anyhow::Result<Option<queuer::Downstream>> {
    if dry_run {
        let management = Management::from_settings(&config.broker)?;
        let missing = match management.configured().await {
            Ok(Some(pipeline)) => return fed_by(app, &topology(config, &pipeline)?).map(Some),
            Ok(None) => NOT_CONFIGURED.to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error = missing, "planning for no pipeline in particular");
        return Ok(Some(queuer::Downstream {
            pipeline: NO_PIPELINE.to_owned(),
            stores: Vec::new(),
            task_queues: Vec::new(),
            batch_queues: Vec::new(),
            run_plan: None,
        }));
    }
    let topology = topology_of(app, config).await?;
    topology.map(|topology| fed_by(app, &topology)).transpose()
}

const NOT_CONFIGURED: &str = "no pipeline is configured yet: fleet pipeline configure --type TYPE";

/// The type that is configured, waited for; `None` when told to stop.
async fn topology_of(app: &App, config: &Config) -> anyhow::Result<Option<Topology>> {
    let management = Management::from_settings(&config.broker)?;
    let mut said = false;
    loop {
        let missing = match management.configured().await {
            Ok(Some(pipeline)) => return topology(config, &pipeline).map(Some),
            Ok(None) => NOT_CONFIGURED.to_owned(),
            Err(error) if error.may_pass() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if !said {
            tracing::info!(error = missing, "waiting for the pipeline");
            said = true;
        }
        tokio::select! {
            () = app.shutdown.triggered() => return Ok(None),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

fn topology(config: &Config, pipeline: &str) -> anyhow::Result<Topology> {
    Catalog::load(config.pipeline.file.as_deref())?
        .topology(pipeline, &ROLES)
        .with_context(|| format!("the broker is configured for pipeline type {pipeline}"))
}

fn fed_by(app: &App, topology: &Topology) -> anyhow::Result<queuer::Downstream> {
    let fed = queuer::Downstream::from_topology(topology, &app.name);
    if fed.task_queues.is_empty() {
        let (pipeline, name) = (&topology.name, &app.name);
        let problem = format!("nothing in pipeline type {pipeline} reads what {name} sends");
        return Err(InvalidSettings::one("", problem).into());
    }
    Ok(fed)
}

#[cfg(test)]
mod tests {
    use pipeline::RoleKind;

    use super::*;

    #[test]
    fn the_roles_that_can_be_run_are_those_of_the_topology() {
        let programs = ROLES.iter().filter(|role| role.kind != RoleKind::Stream);
        let known: Vec<_> = programs.map(|role| role.name).collect();
        assert_eq!(roles(), known);
    }
}
