//! `fleet pipeline …`: declares a pipeline in the broker, shows it, waits for it, removes it.

mod change;
mod map;
mod watch;

use std::path::PathBuf;

use anyhow::Context as _;
use pipeline::Role;
use topology::management::{Management, parse_discard};
use topology::{Catalog, Desired, LEDGER, RUNS, Topology, TopologyError, desired};

use crate::commands::block_on;
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::number;

/// Every role that a pipeline type can be made of.
pub const ROLES: [Role; 9] = [
    queuer::ROLE,
    fetcher::ROLE,
    persister::ROLE,
    ch_writer::ROLE,
    es_writer::ROLE,
    dict_refresher::ROLE,
    serp_restarter::ROLE,
    LEDGER,
    RUNS,
];

#[derive(Debug, clap::Subcommand)]
pub enum PipelineCommand {
    /// Declare a pipeline type in the broker and remove what it does not have
    ///
    /// Done again it changes nothing. A queue that holds messages is never removed: it is named in the
    /// answer, with what its program still needs to finish its work. When something has to go it takes up
    /// to half a minute, because the broker's counts are some seconds old. The broker cannot change the
    /// arguments of a queue (the number of its replicas): then nothing is changed, and the exit code is 6.
    Configure {
        /// Read this pipeline file on top of the built-in one [default: pipeline.file]
        #[arg(long, value_name = "FILE")]
        file: Option<PathBuf>,
        /// The pipeline type to declare
        #[arg(long = "type", value_name = "TYPE")]
        pipeline: String,
        #[command(flatten)]
        discard: Discard,
    },
    /// Say what `configure` would change; exit code 6 if anything
    Diff(Selection),
    /// Print the map of a type, with the figures of its queues
    Show(Selection),
    /// Draw a type: text for Graphviz or Mermaid
    Graph {
        #[command(flatten)]
        selection: Selection,
        /// What to draw for
        #[arg(long, value_name = "FORMAT", default_value = "dot")]
        format: Format,
    },
    /// List the lengths of the fleet's queues, as the broker last counted them some seconds ago
    Qlen,
    /// Wait until a pipeline is configured; exit code 6 if it is not in time
    Wait {
        /// The pipeline type [default: the one that is configured]
        #[arg(long = "type", value_name = "TYPE")]
        pipeline: Option<String>,
        /// Give up after this many seconds; without it, never
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
        /// Wait also until every worker and delay queue is empty. An empty queue does not prove that a run is
        /// complete: a message may be on its way, or not sent yet. `fleet runs` tells what is complete
        #[arg(long)]
        empty: bool,
    },
    /// Remove a pipeline from the broker; exit code 6 if something has to stay
    ///
    /// A queue that holds messages is not removed, as with `configure`.
    Delete {
        /// The pipeline type that is configured
        #[arg(long = "type", value_name = "TYPE")]
        pipeline: String,
        #[command(flatten)]
        discard: Discard,
    },
    /// Check a type, or all, without a broker
    ///
    /// Every output of every program has a reader, every program that reads has a writer, every role is
    /// known, no declared program is left over. Exit code 3 if not.
    Test(Selection),
}

#[derive(Debug, clap::Args)]
pub struct Selection {
    /// Read this pipeline file on top of the built-in one [default: pipeline.file]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The pipeline type [default: the one that is configured; for `test`, all]
    #[arg(long = "type", value_name = "TYPE")]
    pipeline: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Discard {
    /// Discard the messages of a queue that is to be removed: its name, and how many messages it holds now, so that a
    /// message that arrived later is not lost unseen. May be repeated
    #[arg(long, value_name = "QUEUE=COUNT", value_parser = parse_discard)]
    discard: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub enum Format {
    /// Graphviz: … | dot -Tsvg > map.svg
    Dot,
    /// a flowchart for Markdown
    Mermaid,
}

pub fn run(command: PipelineCommand, context: &Context) -> anyhow::Result<Exit> {
    let config = &context.config()?;
    let management = || Management::from_settings(&config.broker);
    let pipelines = |file: Option<PathBuf>, selected| Pipelines {
        config,
        file: file.or_else(|| config.pipeline.file.clone()),
        selected,
    };
    let selected = |Selection { file, pipeline }| pipelines(file, pipeline);
    block_on(async {
        match command {
            PipelineCommand::Configure {
                file,
                pipeline,
                discard,
            } => change::configure(&pipelines(file, None), &pipeline, discard, context).await,
            PipelineCommand::Diff(selection) => change::diff(&selected(selection), context).await,
            PipelineCommand::Show(selection) => map::show(&selected(selection), context).await,
            PipelineCommand::Graph { selection, format } => {
                map::graph(&selected(selection), format, context).await
            }
            PipelineCommand::Qlen => watch::qlen(&management()?, context).await,
            PipelineCommand::Wait {
                pipeline,
                timeout,
                empty,
            } => watch::wait(&management()?, pipeline, empty, timeout, context).await,
            PipelineCommand::Delete { pipeline, discard } => {
                change::delete(&management()?, &pipeline, discard, context).await
            }
            PipelineCommand::Test(selection) => map::test(&selected(selection), context),
        }
    })
}

/// The pipeline types of the settings or of another file, and the type that was asked for.
struct Pipelines<'a> {
    config: &'a Config,
    file: Option<PathBuf>,
    selected: Option<String>,
}

impl Pipelines<'_> {
    fn management(&self) -> anyhow::Result<Management> {
        Ok(Management::from_settings(&self.config.broker)?)
    }

    fn catalog(&self) -> Result<Catalog, TopologyError> {
        Catalog::load(self.file.as_deref())
    }

    /// A type that is complete.
    fn topology(&self, pipeline: &str) -> Result<Topology, TopologyError> {
        let topology = self.catalog()?.topology(pipeline, &ROLES)?;
        match topology.check() {
            problems if problems.is_empty() => Ok(topology),
            problems => Err(TopologyError::Invalid(problems)),
        }
    }

    /// The type that was asked for, else the one that is configured; none if there is none.
    async fn selected(&self) -> anyhow::Result<Option<Topology>> {
        if let Some(pipeline) = &self.selected {
            return Ok(Some(self.topology(pipeline)?));
        }
        let management = self.management()?;
        let Some(pipeline) = management.configured().await? else {
            return Ok(None);
        };
        let topology = self.topology(&pipeline).with_context(|| {
            let vhost = management.vhost();
            format!("virtual host {vhost:?} has the pipeline {pipeline:?}")
        })?;
        Ok(Some(topology))
    }

    fn desired(&self, topology: &Topology) -> anyhow::Result<Desired> {
        let schedule = self.config.broker.retry_schedule();
        let schedule = schedule.map_err(anyhow::Error::msg)?;
        Ok(desired(topology, &self.config.pipeline, &schedule))
    }
}

/// A figure that the broker does not give: it has not counted yet, or does not count at all.
const UNKNOWN: &str = "unknown";

fn count(n: Option<u64>) -> String {
    n.map_or(UNKNOWN.to_owned(), number)
}

/// Says that there is nothing to show, and how to change that.
fn not_configured(context: &Context, vhost: &str) -> anyhow::Result<Exit> {
    let text = format!(
        "No pipeline is configured in virtual host {vhost:?}: fleet pipeline configure --type TYPE"
    );
    let answer = serde_json::json!({ "virtual_host": vhost, "type": null });
    context.output.answer(&answer, text)?;
    Ok(Exit::Differs)
}
