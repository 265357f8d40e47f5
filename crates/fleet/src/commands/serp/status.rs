use std::time::SystemTime;

use comfy_table::Cell;
use futures_util::future::join_all;
use serde_json::{Value, json};
use serp::{Pause, PortFailure, ServedVersion};
use serp_restarter::{PortCheck, Restarter};
use topology::management::{Management, ManagementError};

use super::{nodes, paused};
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
    if output.is_json() {
        output.json(&as_json(config, &pause, &ports))?;
    } else {
        describe(config, &pause, &ports, output)?;
    }
    let all_up = ports.iter().all(|port| port.served.is_ok());
    Ok(if all_up && pause.is_ok() {
        Exit::Ok
    } else {
        Exit::Differs
    })
}

/// An error is part of the status: what is served is of interest without a broker too.
async fn pause(config: &Config) -> Result<Option<Pause>, ManagementError> {
    Pause::current(&Management::from_settings(&config.broker)?).await
}

async fn ports(config: &Config) -> anyhow::Result<Vec<PortStatus>> {
    let restarter = Restarter::new(&config.serp)?;
    let check = async |(shard, name): (u32, String)| {
        let node = config.serp.node(&name).map_err(anyhow::Error::msg)?;
        let checks = restarter.check_ports(&node).await;
        let port = |PortCheck { port, served }| PortStatus {
            shard,
            node: node.name.clone(),
            port,
            served,
        };
        anyhow::Ok(checks.into_iter().map(port).collect::<Vec<_>>())
    };
    let all = join_all(nodes(config)?.into_iter().map(check)).await;
    let all: Result<Vec<_>, _> = all.into_iter().collect();
    Ok(all?.into_iter().flatten().collect())
}

fn describe(
    config: &Config,
    pause: &Result<Option<Pause>, ManagementError>,
    ports: &[PortStatus],
    output: Output,
) -> anyhow::Result<()> {
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
    output.line(format!("restarts  {restarts}"))?;
    output.line(format!("window    {window}"))?;
    if !config.serp.is_enabled() {
        output.line("There is no SERP service: serp.nodes and serp.node_template are empty.")?;
        return Ok(());
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
    output.text(&table(
        ">shard | node | >port | state | >version | run",
        rows,
    ))?;
    Ok(())
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
