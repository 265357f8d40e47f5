use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use serde_json::json;
use serp::{Node, Serving};
use serp_restarter::{Event, Goal, Halt, Rolled, Roller, Watch};
use settings::InvalidSettings;

use crate::config::Config;
use crate::exit::Exit;
use crate::output::{Output, duration};

#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The node, as serp.nodes or serp.node_template name it
    node: String,
    /// Leave ports alone that serve this version or a newer one, and see that the others come back with it; without it
    /// every port is restarted once
    #[arg(long, value_name = "VERSION")]
    version: Option<i64>,
    /// Do it
    #[arg(long)]
    yes: bool,
    /// Only say what would be done, which is the default; exit code 6 if anything
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
}

/// That the operator has said so: nothing else makes one.
struct Confirmed(());

impl Arguments {
    fn confirmed(&self) -> Option<Confirmed> {
        (self.yes && !self.dry_run).then_some(Confirmed(()))
    }

    fn goal(&self) -> Goal {
        self.version.map_or(Goal::Once, Goal::Version)
    }
}

pub async fn restart(
    arguments: &Arguments,
    config: &Config,
    output: Output,
) -> anyhow::Result<Exit> {
    let node = config.serp.node(&arguments.node);
    let node = node.map_err(|refusal| InvalidSettings::one("serp", refusal))?;
    let roller = Roller::new(&config.serp)?;
    match arguments.confirmed() {
        Some(confirmed) => roll(confirmed, &roller, &node, arguments.goal(), output).await,
        None => only_say(&roller, &node, arguments.goal(), output).await,
    }
}

async fn only_say(
    roller: &Roller,
    node: &Node,
    goal: Goal,
    output: Output,
) -> anyhow::Result<Exit> {
    let (mut ports, mut any) = (Vec::new(), false);
    for (port, look) in roller.survey(node).await {
        let restart = match (&look, goal) {
            (Ok(serving), Goal::Version(version)) => serving.version < Some(version),
            (Ok(_), Goal::Once) => true,
            (Err(_), _) => false,
        };
        any |= restart;
        let address = node.address(port);
        if output.is_json() {
            ports.push(json!({
                "port": port,
                "version": look.as_ref().ok().and_then(|serving| serving.version),
                "trouble": look.as_ref().err().map(ToString::to_string),
                "restart": restart,
            }));
            continue;
        }
        output.line(match look {
            Ok(serving) if restart => {
                format!(
                    "{address} serves {} and would be restarted",
                    version(&serving)
                )
            }
            Ok(serving) => format!("{address} serves {} already", version(&serving)),
            Err(trouble) => format!("{address} is down and would be waited for: {trouble}"),
        })?;
    }
    if output.is_json() {
        output.json(&json!({ "node": node.name, "dry_run": true, "ports": ports }))?;
    } else if any {
        output.line("Nothing was done; --yes does it.")?;
    }
    Ok(if any { Exit::Differs } else { Exit::Ok })
}

async fn roll(
    _: Confirmed,
    roller: &Roller,
    node: &Node,
    goal: Goal,
    output: Output,
) -> anyhow::Result<Exit> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = interrupted.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if seen.swap(true, Ordering::SeqCst) {
                // A second one does not want to wait.
                std::process::exit(130);
            }
        }
    });
    let operator = Operator {
        node,
        output,
        interrupted,
    };
    let rolled = roller.roll(node, goal, &operator).await;
    let Rolled { restarted, already } =
        rolled.with_context(|| format!("{} is not restarted to its end", node.name))?;
    match output.is_json() {
        true => output.json(&json!({
            "node": node.name,
            "dry_run": false,
            "restarted": restarted,
            "already": already,
        }))?,
        false => output.line(format!(
            "{}: {restarted} restarted, {already} left as they were",
            node.name
        ))?,
    }
    Ok(Exit::Ok)
}

fn version(serving: &Serving) -> String {
    let version = serving.version.map(|version| version.to_string());
    version.unwrap_or_else(|| "no version".to_owned())
}

/// Watches from a terminal.
struct Operator<'a> {
    node: &'a Node,
    output: Output,
    interrupted: Arc<AtomicBool>,
}

impl Watch for Operator<'_> {
    async fn may_restart(&self) -> Result<(), Halt> {
        match self.interrupted.load(Ordering::SeqCst) {
            true => Err(Halt::Stopping),
            false => Ok(()),
        }
    }

    async fn tell(&self, event: Event) {
        let address = |port| self.node.address(port);
        let line = match event {
            Event::Waiting { port, trouble } => {
                format!("{} is down; waiting for it ({trouble})", address(port))
            }
            Event::Exiting { port, serving } => {
                format!(
                    "{} serves {}; restarting it",
                    address(port),
                    version(&serving)
                )
            }
            Event::Exited { .. } | Event::Gone { .. } => return,
            Event::Back {
                port,
                serving,
                took,
            } => format!(
                "{} is back after {} and serves {}",
                address(port),
                duration(took),
                version(&serving)
            ),
        };
        if !self.output.is_json() {
            // A roll does not end in the middle for a line that cannot be written.
            let _ = self.output.line(line);
        }
    }
}
