use std::ffi::OsStr;
use std::time::Duration;

use anyhow::Context as _;
use app::App;
use app::config::Problems;
use ch_writer::ChWriter;
use clap::Subcommand;
use es_writer::EsWriter;
use fetcher::Fetcher;
use pipeline::management::Management;
use pipeline::topology::Catalog;
use pipeline::{LoopOptions, Program, run_batch_worker, run_worker};
use queuer::{Finished, Published};
use serde_json::json;

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
    /// Write batches into ClickHouse
    ChWriter,
    /// Write batches into Elasticsearch
    EsWriter,
}

impl Role {
    fn name(&self) -> &'static str {
        match self {
            Self::Queuer(_) => queuer::ROLE.name,
            Self::Fetcher => fetcher::ROLE.name,
            Self::ChWriter => ch_writer::ROLE.name,
            Self::EsWriter => es_writer::ROLE.name,
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
pub fn role_of(config: &Config, name: &str) -> Result<String, Problems> {
    let role = config.processes.get(name);
    let role = role.and_then(|own| own.role.as_deref()).unwrap_or(name);
    let roles = roles();
    if roles.iter().any(|known| known == role) {
        return Ok(role.to_owned());
    }
    Err(Problems::one(
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
fn same_role(config: &Config, name: &str, role: &str) -> Result<(), Problems> {
    let configured = config
        .processes
        .get(name)
        .and_then(|own| own.role.as_deref());
    match configured {
        Some(other) if other != role => Err(Problems::one(
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
        Role::ChWriter => {
            let writer = ChWriter::new(app, &config.clickhouse, &config.ch_writer)?;
            run_batch_worker(&program(&config.ch_writer.options)?, writer).await?;
        }
        Role::EsWriter => {
            let writer = EsWriter::new(app, &config.elasticsearch, &config.es_writer)?;
            run_batch_worker(&program(&config.es_writer.options)?, writer).await?;
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
        Finished::Published(published) => say_published(&published, output)?,
        Finished::Planned(report) if output.is_json() => output.json(&report)?,
        Finished::Planned(report) => output.line(report.to_string().trim_end())?,
        // A loop only ends so; a single run is not published then.
        Finished::Stopped if options.every_seconds.is_none() => return Ok(Exit::Differs),
        Finished::Stopped => {}
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

/// The pipeline that is configured, waited for; `None` when told to stop. A dry run does without one.
async fn pipeline_of(
    app: &App,
    config: &Config,
    dry_run: bool,
) -> anyhow::Result<Option<queuer::Pipeline>> {
    let management = Management::from_settings(&config.broker)?;
    let mut said = false;
    loop {
        let missing = match management.configured().await {
            Ok(Some(pipeline)) => return fed_by(app, config, &pipeline).map(Some),
            Ok(None) => {
                "no pipeline is configured yet: fleet pipeline configure --type TYPE".to_owned()
            }
            Err(error) if error.may_pass() || dry_run => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        if dry_run {
            tracing::warn!(error = missing, "planning for no pipeline in particular");
            return Ok(Some(queuer::Pipeline {
                name: NO_PIPELINE.to_owned(),
                stores: Vec::new(),
                task_queues: Vec::new(),
                batch_queues: Vec::new(),
            }));
        }
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

/// What the queuer must know of the pipeline type.
fn fed_by(app: &App, config: &Config, pipeline: &str) -> anyhow::Result<queuer::Pipeline> {
    let topology = Catalog::load(config.pipeline.file.as_deref())?
        .topology(pipeline, &ROLES)
        .with_context(|| format!("the broker is configured for pipeline type {pipeline}"))?;
    let fed = queuer::Pipeline::of(&topology, &app.name);
    if fed.task_queues.is_empty() {
        return Err(Problems::one(
            "",
            format!(
                "nothing in pipeline type {pipeline} reads what {} sends",
                app.name
            ),
        )
        .into());
    }
    Ok(fed)
}

#[cfg(test)]
mod tests {
    use pipeline::topology::LEDGER;

    use super::*;

    #[test]
    fn the_roles_that_can_be_run_are_those_of_the_topology() {
        let known = ROLES.iter().map(|role| role.name);
        let known: Vec<_> = known.filter(|name| *name != LEDGER.name).collect();
        assert_eq!(roles(), known);
    }
}
