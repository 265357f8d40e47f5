//! `fleet check`: whether a run could begin, as far as the hub and the stores decide.

use serde_json::json;
use stores::clickhouse::Cluster;
use stores::contract::{self, Comparison};
use topology::management::Management;
use topology::{Catalog, Topology};

use super::block_on;
use super::pipeline::ROLES;
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::targets::targets;

#[derive(Debug, clap::Args)]
pub struct CheckArguments {
    /// Check what this pipeline type writes to [default: the one that is configured, else all stores of the settings]
    #[arg(long = "type", value_name = "TYPE")]
    pipeline: Option<String>,
}

pub fn run(arguments: &CheckArguments, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    block_on(async {
        let topology = topology(arguments, &config).await?;
        let targets = targets(context, topology.as_ref())?;
        let cluster = Cluster::new(&config.source.connection())?;
        let source = queuer::source_columns(&cluster, &config.source).await?;
        let found = contract::survey(&source.hub(&config.source), &targets, &[]).await?;
        answer(&found, context)
    })
}

/// The type that was asked for, or that the broker is configured for, if it can tell.
async fn topology(arguments: &CheckArguments, config: &Config) -> anyhow::Result<Option<Topology>> {
    let configured = match &arguments.pipeline {
        Some(name) => Some(name.clone()),
        None => {
            let management = Management::from_settings(&config.broker)?;
            management.configured().await.unwrap_or_else(|error| {
                tracing::warn!(%error, "checking all stores: which pipeline is configured is not known");
                None
            })
        }
    };
    let Some(name) = configured else {
        return Ok(None);
    };
    let catalog = Catalog::load(config.pipeline.file.as_deref())?;
    Ok(Some(catalog.topology(&name, &ROLES)?))
}

fn answer(found: &Comparison, context: &Context) -> anyhow::Result<Exit> {
    let Comparison {
        differences,
        unreachable,
    } = found;
    let unreachable: Vec<String> = unreachable.iter().map(|t| t.error.to_string()).collect();
    let mut text = match (differences.is_empty(), unreachable.is_empty()) {
        (true, true) => "The stores hold what the hub has: a run can begin.\n".to_owned(),
        (true, false) => String::new(),
        (false, _) => "A run would lose or change values:\n".to_owned(),
    };
    for difference in differences {
        text += &format!("  {difference}\n");
    }
    if !unreachable.is_empty() {
        text += "Not compared:\n";
    }
    for error in &unreachable {
        text += &format!("  {error}\n");
    }
    let answer = json!({ "differences": differences, "not_compared": unreachable });
    context.output.answer(&answer, text)?;
    Ok(if unreachable.is_empty() {
        Exit::differs_if(!differences.is_empty())
    } else {
        Exit::Store
    })
}
