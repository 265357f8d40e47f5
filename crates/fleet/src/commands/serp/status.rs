use std::time::SystemTime;

use comfy_table::Cell;
use futures_util::future::join_all;
use serde_json::{Value, json};
use serp::{Pause, PortFailure, ServedVersion};
use serp_restarter::{PortCheck, Restarter};
use stores::clickhouse::Cluster;
use topology::management::{Management, ManagementError};

use super::{ShardNode, nodes, paused};
use crate::config::Config;
use crate::exit::Exit;
use crate::output::{Output, Tone, duration, table};

/// A port, and what it serves.
struct PortStatus {
    shard: u32,
    node: String,
    port: u16,
    served: Result<ServedVersion, PortFailure>,
}

pub async fn status(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let ports = ports(config).await?;
    let pause = pause(config).await;
    let text = describe(config, &pause, &ports, output);
    output.answer(&as_json(config, &pause, &ports), text)?;
    let all_up = ports.iter().all(|port| port.served.is_ok());
    Ok(Exit::differs_if(!all_up || pause.is_err()))
}

/// An error is part of the status: what is served is of interest without a broker too.
async fn pause(config: &Config) -> Result<Option<Pause>, ManagementError> {
    Pause::current(&Management::from_settings(&config.broker)?).await
}

async fn ports(config: &Config) -> anyhow::Result<Vec<PortStatus>> {
    let restarter = Restarter::new(&config.serp)?;
    let check = async |ShardNode { shard, node }| {
        let node = config.serp.node(&node).map_err(anyhow::Error::msg)?;
        let checks = restarter.check_ports(&node).await;
        let port = |PortCheck { port, served }| PortStatus {
            shard,
            node: node.name.clone(),
            port,
            served,
        };
        anyhow::Ok(checks.into_iter().map(port).collect::<Vec<_>>())
    };
    let cluster = Cluster::new(&config.clickhouse.connection())?;
    let all = join_all(nodes(config, &cluster).into_iter().map(check)).await;
    let all: Result<Vec<_>, _> = all.into_iter().collect();
    Ok(all?.into_iter().flatten().collect())
}

fn describe(
    config: &Config,
    pause: &Result<Option<Pause>, ManagementError>,
    ports: &[PortStatus],
    output: Output,
) -> String {
    let restarts = match pause {
        Ok(None) => "not paused".to_owned(),
        Ok(Some(pause)) => output.paint(Tone::Warning, paused(pause)),
        Err(error) => output.paint(Tone::Bad, format!("not known to be paused or not: {error}")),
    };
    let window = match config.serp.window() {
        None => "always".to_owned(),
        Some(window) => match window.opens_in(SystemTime::now()) {
            None => format!("{} UTC, open", config.serp.window),
            Some(wait) => format!("{} UTC, opens in {}", config.serp.window, duration(wait)),
        },
    };
    let head = format!("restarts  {restarts}\nwindow    {window}\n");
    if !config.serp.is_enabled() {
        return head + "There is no SERP service: serp.nodes and serp.node_template are empty.";
    }
    let rows = ports.iter().map(|port| {
        let none = || output.cell(Tone::Faint, "–");
        let (state, version, run) = match &port.served {
            Ok(served) => (
                output.cell(Tone::Good, "up"),
                served.version.map_or_else(none, Cell::new),
                served.run.as_ref().map_or_else(none, Cell::new),
            ),
            Err(failure) => (
                output.cell(Tone::Bad, format!("down: {failure}")),
                none(),
                none(),
            ),
        };
        let (shard, number) = (Cell::new(port.shard), Cell::new(port.port));
        [shard, Cell::new(&port.node), number, state, version, run]
    });
    head + &table(">shard | node | >port | state | >version | run", rows)
}

fn as_json(
    config: &Config,
    pause: &Result<Option<Pause>, ManagementError>,
    ports: &[PortStatus],
) -> Value {
    let port = |port: &PortStatus| {
        let served = port.served.as_ref().ok();
        json!({
            "shard": port.shard,
            "node": port.node,
            "port": port.port,
            "up": served.is_some(),
            "version": served.and_then(|served| served.version),
            "run": served.and_then(|served| served.run.as_ref()),
            "failure": port.served.as_ref().err().map(ToString::to_string),
        })
    };
    let window = config.serp.window();
    let opens_in = window.and_then(|window| window.opens_in(SystemTime::now()));
    json!({
        "paused": pause.as_ref().ok().and_then(Option::as_ref),
        "pause_unknown": pause.as_ref().err().map(ToString::to_string),
        "window": config.serp.window,
        "window_opens_in_seconds": opens_in.map(|wait| wait.as_secs()),
        "ports": ports.iter().map(port).collect::<Vec<_>>(),
    })
}
