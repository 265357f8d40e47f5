//! `fleet pipeline …`: declares a pipeline in the broker, shows it, waits for it, removes it.

mod change;
mod map;
mod watch;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::builder::PossibleValue;
use pipeline::Role;
use topology::management::{Management, parse_discard};
use topology::{Catalog, Desired, LEDGER, RUNS, Topology, TopologyError, desired};

use crate::commands::block_on;
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;

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
pub enum Action {
    /// Declare a pipeline type in the broker and remove what it does not have
    ///
    /// Done again it changes nothing. A queue that holds messages is never removed: it is named in the
    /// answer, with what its program still needs to finish its work. When something has to go it takes up
    /// to half a minute, because the broker's counts are some seconds old. The broker cannot change the
    /// arguments of a queue (the number of its replicas): then nothing is changed, and the exit code is 6.
    Configure {
        #[command(flatten)]
        file: File,
        /// The pipeline type to declare
        #[arg(long = "type", value_name = "TYPE")]
        pipeline: String,
        #[command(flatten)]
        discard: Discard,
    },
    /// Say what `configure` would change; exit code 6 if anything
    Diff {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        choice: Choice,
    },
    /// Print the map of a type, with the figures of its queues
    Show {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        choice: Choice,
    },
    /// Draw a type: text for Graphviz or Mermaid
    Graph {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        choice: Choice,
        /// What to draw for
        #[arg(long, value_name = "FORMAT", default_value = "dot")]
        format: Format,
    },
    /// List the lengths of the fleet's queues, as the broker last counted them some seconds ago
    Qlen,
    /// Wait until a pipeline is configured; exit code 6 if it is not in time
    Wait {
        #[command(flatten)]
        choice: Choice,
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
    Test {
        #[command(flatten)]
        file: File,
        #[command(flatten)]
        choice: Choice,
    },
}

#[derive(Debug, clap::Args)]
pub struct File {
    /// Read this pipeline file on top of the built-in one [default: pipeline.file]
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Choice {
    /// The pipeline type [default: the one that is configured; for `test`, all]
    #[arg(long = "type", value_name = "TYPE")]
    pipeline: Option<String>,
}

#[derive(Debug, clap::Args)]
pub struct Discard {
    /// Give up the messages of a queue that is to be removed: its name and how many it holds now, so that
    /// none is lost that nobody has seen. May be repeated
    #[arg(long, value_name = "QUEUE=COUNT", value_parser = parse_discard)]
    discard: Vec<(String, u64)>,
}

#[derive(Debug, Clone, Copy)]
pub enum Format {
    Dot,
    Mermaid,
}

impl clap::ValueEnum for Format {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Dot, Self::Mermaid]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Self::Dot => PossibleValue::new("dot").help("Graphviz: … | dot -Tsvg > map.svg"),
            Self::Mermaid => PossibleValue::new("mermaid").help("a flowchart for Markdown"),
        })
    }
}

pub fn run(action: Action, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let pipelines = Pipelines::new(&config);
    block_on(async {
        match action {
            Action::Configure {
                file,
                pipeline,
                discard,
            } => change::configure(&pipelines.with(file), &pipeline, discard, context).await,
            Action::Diff { file, choice } => {
                change::diff(&pipelines.with(file), choice, context).await
            }
            Action::Show { file, choice } => {
                map::show(&pipelines.with(file), choice, context).await
            }
            Action::Graph {
                file,
                choice,
                format,
            } => map::graph(&pipelines.with(file), choice, format, context).await,
            Action::Qlen => watch::qlen(&pipelines.management()?, context).await,
            Action::Wait {
                choice,
                timeout,
                empty,
            } => {
                let goal = watch::Goal::new(choice.pipeline, empty);
                watch::wait(&pipelines.management()?, &goal, timeout, context).await
            }
            Action::Delete { pipeline, discard } => {
                change::delete(&pipelines.management()?, &pipeline, discard, context).await
            }
            Action::Test { file, choice } => map::test(&pipelines.with(file), choice, context),
        }
    })
}

/// The pipeline types and the broker, as the settings have them.
struct Pipelines<'a> {
    config: &'a Config,
    file: Option<PathBuf>,
}

impl<'a> Pipelines<'a> {
    fn new(config: &'a Config) -> Self {
        let file = config.pipeline.file.clone();
        Self { config, file }
    }

    /// With another file than that of the settings.
    fn with(&self, file: File) -> Self {
        Self {
            config: self.config,
            file: file.file.or_else(|| self.file.clone()),
        }
    }

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
    async fn chosen(&self, choice: Choice) -> anyhow::Result<Option<Topology>> {
        if let Some(pipeline) = choice.pipeline {
            return Ok(Some(self.topology(&pipeline)?));
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
        let schedule = self
            .config
            .broker
            .retry_schedule()
            .map_err(anyhow::Error::msg)?;
        Ok(desired(topology, &self.config.pipeline, &schedule))
    }
}

/// Says that there is nothing to show, and how to change that.
fn not_configured(context: &Context, vhost: &str) -> anyhow::Result<Exit> {
    let text = format!(
        "No pipeline is configured in virtual host {vhost:?}: fleet pipeline configure --type TYPE"
    );
    match context.output.is_json() {
        true => context
            .output
            .json(&serde_json::json!({ "virtual_host": vhost, "type": null }))?,
        false => context.output.line(text)?,
    }
    Ok(Exit::Differs)
}
