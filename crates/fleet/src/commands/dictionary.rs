//! `fleet dictionary …`: which version every replica serves, and the way back to the one before.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use comfy_table::Cell;
use dict_refresher::{
    DictionaryStatus, ReplicaStatus, RollbackError, RollbackStep, plan_rollback, rollback, status,
};
use serde_json::json;
use stores::clickhouse::Cluster;
use topology::management::Management;

use crate::commands::confirmation::{ConfirmationFlags, ConfirmationToken};
use crate::commands::{block_on, serp};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Tone, bytes, number, table};

#[derive(Debug, clap::Subcommand)]
pub enum DictionaryCommand {
    /// Say which version every replica serves, and which was before
    ///
    /// Exit code 6 if a replica cannot be asked or has no dictionary, or if replicas of a shard serve different
    /// versions.
    Status,
    /// Go back to the dictionary that was live before, on every replica
    ///
    /// Without --yes it only says what it would do. The dictionaries are exchanged in one step, as by a refresh:
    /// readers miss nothing. Refused, before anything is changed, where there is no earlier dictionary, or the server has
    /// it no longer in memory, which ends with its process; and while the SERP service is restarted by orders, which
    /// would wait for the later version: `fleet serp pause` comes first. The next run replaces the dictionary as
    /// always.
    Rollback(RollbackArguments),
}

#[derive(Debug, clap::Args)]
pub struct RollbackArguments {
    /// Only this shard, from 0 [default: all]
    #[arg(long, value_name = "N")]
    shard: Option<u32>,
    #[command(flatten)]
    confirmation: ConfirmationFlags,
    /// Do it although restarts of the SERP service are not paused, or the broker cannot say
    #[arg(long, requires = "yes")]
    while_restarting: bool,
}

pub fn run(command: DictionaryCommand, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    block_on(async {
        match command {
            DictionaryCommand::Status => show_status(&config, context.output).await,
            DictionaryCommand::Rollback(arguments) => match arguments.confirmation.confirmed() {
                Some(confirmed) => roll_back(confirmed, &arguments, &config, context.output).await,
                None => show_plan(&arguments, &config, context.output).await,
            },
        }
    })
}

fn cluster(config: &Config) -> anyhow::Result<Cluster> {
    Ok(Cluster::new(&config.clickhouse.connection())?)
}

async fn show_status(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let replicas = status(&cluster(config)?, &config.dictionary).await;
    let text = describe(&replicas, output);
    output.answer(&json!({ "replicas": replicas }), text)?;
    let all_live = replicas.iter().all(|replica| replica.live.is_some());
    Ok(Exit::differs_if(!all_live || !is_one_version(&replicas)))
}

/// Whether the replicas of each shard that have a dictionary serve the same version.
fn is_one_version(replicas: &[ReplicaStatus]) -> bool {
    let mut versions = BTreeMap::new();
    let mut live = replicas
        .iter()
        .filter_map(|r| Some((r.shard, r.live.as_ref()?.version)));
    live.all(|(shard, version)| *versions.entry(shard).or_insert(version) == version)
}

fn describe(replicas: &[ReplicaStatus], output: Output) -> String {
    let rows = replicas.iter().map(|replica| {
        let none = || output.cell(Tone::Faint, "–");
        let mut row = vec![Cell::new(replica.shard), Cell::new(&replica.replica)];
        if let Some(live) = &replica.live {
            row.extend([
                live.version.map_or_else(none, Cell::new),
                live.run.as_ref().map_or_else(none, Cell::new),
                Cell::new(number(live.entries)),
                Cell::new(bytes(live.bytes)),
                state(live, output),
            ]);
        } else {
            row.extend((0..4).map(|_| none()));
            row.push(match &replica.error {
                Some(error) => output.cell(Tone::Bad, error),
                None => output.cell(Tone::Warning, "no dictionary"),
            });
        }
        row.push(next_to_live(replica).map_or_else(none, Cell::new));
        row
    });
    table(
        ">shard | replica | >version | run | >entries | >memory | state | next to it",
        rows,
    )
}

fn state(dictionary: &DictionaryStatus, output: Output) -> Cell {
    let word = dictionary.status.to_lowercase().replace('_', " ");
    match dictionary.status.as_str() {
        "LOADED" => output.cell(Tone::Good, word),
        // The server loads it when it is read for the first time.
        "NOT_LOADED" => output.cell(Tone::Warning, word),
        _ if dictionary.error.is_empty() => output.cell(Tone::Warning, word),
        _ => output.cell(Tone::Bad, format!("{word}: {}", dictionary.error)),
    }
}

/// What the dictionary next to the live one is.
fn next_to_live(replica: &ReplicaStatus) -> Option<String> {
    let next = replica.next.as_ref()?;
    let live = replica.live.as_ref().and_then(|live| live.version);
    let state = next.status.to_lowercase().replace('_', " ");
    Some(match next.version {
        None => format!("untagged, {state}"),
        Some(version) if Some(version) < live => format!("{version} before it, {state}"),
        Some(version) => format!("{version} after it, {state}"),
    })
}

async fn show_plan(
    arguments: &RollbackArguments,
    config: &Config,
    output: Output,
) -> anyhow::Result<Exit> {
    let cluster = cluster(config)?;
    let steps = plan_rollback(&cluster, &config.dictionary, arguments.shard);
    let steps = steps.await.map_err(cause)?;
    let any = steps.iter().any(|step| !step.already);
    let mut text = describe_steps(&steps, "would go");
    if any {
        text += "Nothing was done; --yes does it.";
    }
    output.answer(&json!({ "dry_run": true, "replicas": steps }), text)?;
    Ok(Exit::differs_if(any))
}

async fn roll_back(
    _: ConfirmationToken,
    arguments: &RollbackArguments,
    config: &Config,
    output: Output,
) -> anyhow::Result<Exit> {
    if !arguments.while_restarting {
        nothing_is_restarted(config).await?;
    }
    let cluster = cluster(config)?;
    let steps = rollback(&cluster, &config.dictionary, arguments.shard);
    let steps = steps.await.map_err(cause)?;
    let rolled: BTreeSet<u32> = steps.iter().map(|step| step.shard).collect();
    let nodes = serp::nodes(config, &cluster).into_iter();
    let nodes = nodes.filter(|node| rolled.contains(&node.shard));
    let nodes: Vec<String> = nodes.map(|node| node.node).collect();
    let mut text = describe_steps(&steps, "went");
    if !nodes.is_empty() {
        text += "The SERP service has what it loaded when it was started. To restart it:\n";
    }
    for node in &nodes {
        text += &format!("  fleet serp restart {node} --yes\n");
    }
    let answer = json!({ "dry_run": false, "replicas": steps, "serp_nodes": nodes });
    output.answer(&answer, text)?;
    Ok(Exit::Ok)
}

/// Refuses while serp-restarter may be at work: an order for the version that is taken away restarts port after port,
/// and finds each behind again.
async fn nothing_is_restarted(config: &Config) -> anyhow::Result<()> {
    if !config.serp.is_enabled() {
        return Ok(());
    }
    let management = Management::from_settings(&config.broker)?;
    let pause = ::serp::Pause::current(&management).await;
    match pause.context("whether restarts of the SERP service are paused is not known")? {
        Some(_) => Ok(()),
        None => bail!(
            "the SERP service is not paused: orders that wait for the later version would restart its ports needlessly. \
             Pause it first (fleet serp pause --reason TEXT), or add --while-restarting; nothing is rolled back"
        ),
    }
}

fn describe_steps(steps: &[RollbackStep], went: &str) -> String {
    let lines = steps.iter().map(|step| {
        let version = format!("{} of run {}", step.to, step.to_run);
        let what = match step.from {
            _ if step.already => format!("is back at version {version} already"),
            Some(from) => format!("{went} from version {from} back to {version}"),
            None => format!("{went} back to version {version}"),
        };
        format!("shard {}: {} {what}\n", step.shard, step.replica)
    });
    lines.collect()
}

/// A server's error decides on the exit code.
fn cause(error: RollbackError) -> anyhow::Error {
    match error {
        RollbackError::ClickHouse(error) => error.into(),
        other => other.into(),
    }
}
