//! `fleet dictionary …`: which version every replica serves, and the way back to the one before.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use comfy_table::Cell;
use dict_refresher::{
    DictionaryStatus, ReplicaStatus, RollbackError, RollbackStep, plan_rollback, rollback, status,
};
use serde_json::json;
use serp::Pause;
use stores::clickhouse::Cluster;
use topology::management::Management;

use crate::commands::block_on;
use crate::commands::confirmation::{ConfirmationFlags, ConfirmationToken};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Tone, bytes, number, table};

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Say which version every replica serves, and which was before
    ///
    /// Exit code 6 if a replica cannot be asked or has no dictionary, or if replicas of a shard serve different versions.
    Status,
    /// Put the dictionary back in place that was before, on every replica
    ///
    /// Without --yes it only says what it would do. The dictionaries are exchanged in one step, as by a refresh: readers
    /// miss nothing. Refused, before anything is changed, where there is no earlier dictionary, or the server has
    /// it no longer in memory, which ends with its process; and while the SERP service is restarted by orders, which
    /// would wait for the later version: `fleet serp pause` comes first. The next run replaces what is in place as
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

pub fn run(action: Action, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    block_on(async {
        match action {
            Action::Status => say_status(&config, context.output).await,
            Action::Rollback(arguments) => match arguments.confirmation.confirmed() {
                Some(confirmed) => roll_back(confirmed, &arguments, &config, context.output).await,
                None => only_say(&arguments, &config, context.output).await,
            },
        }
    })
}

fn cluster(config: &Config) -> anyhow::Result<Cluster> {
    Ok(Cluster::new(&config.clickhouse.connection())?)
}

async fn say_status(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let replicas = status(&cluster(config)?, &config.dictionary).await;
    match output.is_json() {
        true => output.json(&json!({ "replicas": replicas }))?,
        false => output.text(&describe(&replicas, output))?,
    }
    Ok(
        match replicas.iter().all(is_well) && is_one_version(&replicas) {
            true => Exit::Ok,
            false => Exit::Differs,
        },
    )
}

fn is_well(replica: &ReplicaStatus) -> bool {
    replica.live.is_some()
}

fn is_one_version(replicas: &[ReplicaStatus]) -> bool {
    let versions = replicas
        .iter()
        .filter_map(|replica| Some((replica.shard, replica.live.as_ref()?.version)));
    let versions: BTreeSet<_> = versions.collect();
    let shards: BTreeSet<_> = versions.iter().map(|(shard, _)| shard).collect();
    versions.len() == shards.len()
}

fn describe(replicas: &[ReplicaStatus], output: Output) -> String {
    let headers = [
        "shard",
        "replica",
        "version",
        "run",
        "entries",
        "memory",
        "state",
        "beside it",
    ];
    let rows = replicas.iter().map(|replica| {
        let none = || output.cell(Tone::Faint, "–");
        let mut row = vec![Cell::new(replica.shard), Cell::new(&replica.replica)];
        match (&replica.live, &replica.error) {
            (Some(live), _) => row.extend([
                live.version.map_or_else(none, Cell::new),
                live.run.as_ref().map_or_else(none, Cell::new),
                Cell::new(number(live.entries)),
                Cell::new(bytes(live.bytes)),
                state(live, output),
            ]),
            (None, Some(error)) => {
                row.extend((0..4).map(|_| none()));
                row.push(output.cell(Tone::Bad, error));
            }
            (None, None) => {
                row.extend((0..4).map(|_| none()));
                row.push(output.cell(Tone::Warning, "no dictionary"));
            }
        }
        row.push(beside(replica).map_or_else(none, Cell::new));
        row
    });
    table(&headers, &[0, 2, 4, 5], rows)
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

/// What the dictionary beside the live one is.
fn beside(replica: &ReplicaStatus) -> Option<String> {
    let next = replica.next.as_ref()?;
    let live = replica.live.as_ref().and_then(|live| live.version);
    let state = next.status.to_lowercase().replace('_', " ");
    Some(match next.version {
        None => format!("of somebody else, {state}"),
        Some(version) if Some(version) < live => format!("{version} before it, {state}"),
        Some(version) => format!("{version} after it, {state}"),
    })
}

async fn only_say(
    arguments: &RollbackArguments,
    config: &Config,
    output: Output,
) -> anyhow::Result<Exit> {
    let cluster = cluster(config)?;
    let steps = plan_rollback(&cluster, &config.dictionary, arguments.shard);
    let steps = steps.await.map_err(cause)?;
    let any = steps.iter().any(|step| !step.already);
    if output.is_json() {
        output.json(&json!({ "dry_run": true, "replicas": steps }))?;
    } else {
        say_steps(&steps, "would go", output)?;
        if any {
            output.line("Nothing was done; --yes does it.")?;
        }
    }
    Ok(if any { Exit::Differs } else { Exit::Ok })
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
    let nodes = nodes(config, &cluster, &steps);
    if output.is_json() {
        output.json(&json!({ "dry_run": false, "replicas": steps, "serp_nodes": nodes }))?;
        return Ok(Exit::Ok);
    }
    say_steps(&steps, "went", output)?;
    if !nodes.is_empty() {
        output.line("The SERP service has what it loaded when it was started. To restart it:")?;
    }
    for node in nodes {
        output.line(format!("  fleet serp restart {node} --yes"))?;
    }
    Ok(Exit::Ok)
}

/// Refuses while serp-restarter may be at work: an order for the version that is taken away restarts port after port,
/// and finds each behind again.
async fn nothing_is_restarted(config: &Config) -> anyhow::Result<()> {
    if !config.serp.is_enabled() {
        return Ok(());
    }
    let management = Management::from_settings(&config.broker)?;
    let pause = Pause::current(&management).await;
    match pause.context("whether restarts of the SERP service are paused is not known")? {
        Some(_) => Ok(()),
        None => bail!(
            "the SERP service is not paused: orders that wait for the later version would restart its ports in vain. \
             Pause it first (fleet serp pause --reason TEXT), or add --while-restarting; nothing is rolled back"
        ),
    }
}

/// The SERP nodes that read what was rolled back.
fn nodes(config: &Config, cluster: &Cluster, steps: &[RollbackStep]) -> Vec<String> {
    let rolled: BTreeSet<u32> = steps.iter().map(|step| step.shard).collect();
    let shards = cluster.shards().filter(|s| rolled.contains(&s.number()));
    let of_shard = |shard: &stores::clickhouse::Shard| {
        let replicas = shard.replicas().into_iter();
        let mut addresses: Vec<String> = replicas.map(|r| r.address().to_owned()).collect();
        addresses.sort();
        config.serp.nodes_of(shard.number(), &addresses)
    };
    shards.flat_map(of_shard).collect()
}

fn say_steps(steps: &[RollbackStep], went: &str, output: Output) -> anyhow::Result<()> {
    for step in steps {
        let RollbackStep {
            shard,
            replica,
            from,
            to,
            to_run,
            already,
        } = step;
        let place = format!("shard {shard}: {replica}");
        output.line(match (already, from) {
            (true, _) => format!("{place} is back at version {to} of run {to_run} already"),
            (false, Some(from)) => {
                format!("{place} {went} from version {from} back to {to} of run {to_run}")
            }
            (false, None) => format!("{place} {went} back to version {to} of run {to_run}"),
        })?;
    }
    Ok(())
}

/// A server's error decides on the exit code.
fn cause(error: RollbackError) -> anyhow::Error {
    match error {
        RollbackError::ClickHouse(error) => error.into(),
        other => other.into(),
    }
}
