//! `fleet serp …`: what the SERP service serves, and its restarts by hand.

mod restart;
mod status;

use serde_json::json;
use serp::Pause;
use stores::clickhouse::Cluster;
use topology::management::Management;

use crate::commands::{block_on, user};
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::time;

#[derive(Debug, clap::Subcommand)]
pub enum SerpCommand {
    /// Say what every port of every node serves, and whether restarts are paused; exit code 6 if a port is down
    Status,
    /// Keep serp-restarter from restarting anything
    ///
    /// Every process of it checks before each port: the port that is being restarted comes back, no other is told to
    /// exit. Orders wait, which does not count as a failure. A pause that is in effect stays as it is.
    Pause {
        /// Why, for other operators
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
    /// Let serp-restarter continue
    Resume,
    /// Restart one node, port by port, without an order
    ///
    /// Without --yes it only says what it would do. Neither the pause nor serp.window stops it, and it does not see
    /// whether serp-restarter is restarting the node: pause that first. Interrupted, it waits for the port that it has
    /// told to exit, and restarts no other.
    Restart(restart::RestartArguments),
}

pub fn run(command: SerpCommand, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    block_on(async {
        match command {
            SerpCommand::Status => status::status(&config, context.output).await,
            SerpCommand::Pause { reason } => pause(&config, &reason, context).await,
            SerpCommand::Resume => resume(&config, context).await,
            SerpCommand::Restart(arguments) => {
                restart::restart(&arguments, &config, context.output).await
            }
        }
    })
}

async fn pause(config: &Config, reason: &str, context: &Context) -> anyhow::Result<Exit> {
    let management = Management::from_settings(&config.broker)?;
    let pause = Pause::begin(&management, reason, &user()).await?;
    let text = format!("Restarts are {}.", paused(&pause));
    context.output.answer(&json!({ "paused": pause }), text)?;
    Ok(Exit::Ok)
}

async fn resume(config: &Config, context: &Context) -> anyhow::Result<Exit> {
    let management = Management::from_settings(&config.broker)?;
    let ended = Pause::end(&management).await?;
    let text = match &ended {
        Some(pause) => format!("Restarts continue; they were {}.", paused(pause)),
        None => "Restarts were not paused.".to_owned(),
    };
    let answer = json!({ "paused": null, "ended": ended });
    context.output.answer(&answer, text)?;
    Ok(Exit::Ok)
}

fn paused(pause: &Pause) -> String {
    let Pause {
        reason,
        who,
        since_ms,
    } = pause;
    // An exchange that this command did not declare may be without them.
    let or_unknown = |text: &str| if text.is_empty() { "unknown" } else { text }.to_owned();
    format!(
        "paused since {} (UTC) by {}: {}",
        time(*since_ms),
        or_unknown(who),
        or_unknown(reason)
    )
}

/// A SERP node by its name, and the shard whose dictionary it reads.
pub struct ShardNode {
    pub shard: u32,
    pub node: String,
}

/// The nodes of every shard, by the settings.
pub fn nodes(config: &Config, cluster: &Cluster) -> Vec<ShardNode> {
    let shards = cluster.shards();
    let nodes = shards.flat_map(|shard| {
        let nodes = config.serp.nodes_of(shard.number(), &addresses(shard));
        let shard = shard.number();
        nodes.into_iter().map(move |node| ShardNode { shard, node })
    });
    nodes.collect()
}

/// Refuses a template that gives no node for a replica, which would never be restarted then, or one for two shards.
pub fn check_template(config: &Config, cluster: &Cluster) -> Result<(), String> {
    let replicas: Vec<String> = cluster.shards().flat_map(addresses).collect();
    match config.serp.without_node(&replicas).as_slice() {
        [] => {
            let hosts = |shard: &stores::clickhouse::Shard| (shard.number(), addresses(shard));
            config.serp.check_template(cluster.shards().map(hosts))
        }
        without => Err(format!(
            "serp.node_template: there is no number in the name of {}; name the nodes in serp.nodes",
            without.join(", ")
        )),
    }
}

/// Addresses of a shard's replicas, always in the same order.
fn addresses(shard: &stores::clickhouse::Shard) -> Vec<String> {
    let replicas = shard.replicas().into_iter();
    let mut addresses: Vec<String> = replicas.map(|r| r.address().to_owned()).collect();
    addresses.sort();
    addresses
}
