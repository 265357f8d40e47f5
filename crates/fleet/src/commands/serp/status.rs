use std::time::SystemTime;

use comfy_table::Cell;
use futures_util::future::join_all;
use serde_json::{Value, json};
use serp::{Serving, Trouble};
use serp_restarter::Roller;
use topology::management::{Management, ManagementError, Pause};

use super::{nodes, paused};
use crate::config::Config;
use crate::exit::Exit;
use crate::output::{Output, Tone, duration, table};

/// A port, and what it serves.
struct Port {
    shard: u32,
    node: String,
    port: u16,
    look: Result<Serving, Trouble>,
}

pub async fn status(config: &Config, output: Output) -> anyhow::Result<Exit> {
    let ports = ports(config).await?;
    let pause = pause(config).await;
    match output.is_json() {
        true => output.json(&as_json(config, &pause, &ports))?,
        false => describe(config, &pause, &ports, output)?,
    }
    let all_up = ports.iter().all(|port| port.look.is_ok());
    Ok(match all_up && pause.is_ok() {
        true => Exit::Ok,
        false => Exit::Differs,
    })
}

/// What is served is of interest without a broker too.
async fn pause(config: &Config) -> Result<Option<Pause>, ManagementError> {
    Management::from_settings(&config.broker)?
        .serp_pause()
        .await
}

async fn ports(config: &Config) -> anyhow::Result<Vec<Port>> {
    let roller = Roller::new(&config.serp)?;
    let of_node = async |(shard, name): (u32, String)| {
        let node = config.serp.node(&name).map_err(anyhow::Error::msg)?;
        let seen = roller.survey(&node).await;
        let port = |(port, look)| Port {
            shard,
            node: node.name.clone(),
            port,
            look,
        };
        anyhow::Ok(seen.into_iter().map(port).collect::<Vec<_>>())
    };
    let all = join_all(nodes(config)?.into_iter().map(of_node)).await;
    let all: Result<Vec<_>, _> = all.into_iter().collect();
    Ok(all?.into_iter().flatten().collect())
}

fn describe(
    config: &Config,
    pause: &Result<Option<Pause>, ManagementError>,
    ports: &[Port],
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
    let headers = ["shard", "node", "port", "state", "version", "run"];
    let rows = ports.iter().map(|port| {
        let none = || output.cell(Tone::Faint, "–");
        let (state, version, run) = match &port.look {
            Ok(serving) => (
                output.cell(Tone::Good, "up"),
                serving.version.map_or_else(none, Cell::new),
                serving.run.as_ref().map_or_else(none, Cell::new),
            ),
            Err(trouble) => (
                output.cell(Tone::Bad, format!("down: {trouble}")),
                none(),
                none(),
            ),
        };
        let (shard, number) = (Cell::new(port.shard), Cell::new(port.port));
        [shard, Cell::new(&port.node), number, state, version, run]
    });
    output.text(&table(&headers, &[0, 2, 4], rows))?;
    Ok(())
}

fn as_json(
    config: &Config,
    pause: &Result<Option<Pause>, ManagementError>,
    ports: &[Port],
) -> Value {
    let of_port = |port: &Port| {
        let (serving, trouble) = match &port.look {
            Ok(serving) => (Some(serving), None),
            Err(trouble) => (None, Some(trouble.to_string())),
        };
        json!({
            "shard": port.shard,
            "node": port.node,
            "port": port.port,
            "up": serving.is_some(),
            "version": serving.and_then(|serving| serving.version),
            "run": serving.and_then(|serving| serving.run.as_ref()),
            "trouble": trouble,
        })
    };
    let window = config.serp.window();
    let opens_in = window.and_then(|window| window.opens_in(SystemTime::now()));
    json!({
        "paused": pause.as_ref().ok().and_then(Option::as_ref),
        "pause_unknown": pause.as_ref().err().map(ToString::to_string),
        "window": config.serp.window,
        "window_opens_in_seconds": opens_in.map(|wait| wait.as_secs()),
        "ports": ports.iter().map(of_port).collect::<Vec<_>>(),
    })
}
