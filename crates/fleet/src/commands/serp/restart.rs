use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use serde_json::json;
use serp::{SerpNode, ServedVersion};
use serp_restarter::{
    Observer, PortCheck, RestartEvent, RestartGoal, RestartSummary, Restarter, StopReason,
};
use settings::InvalidSettings;

use crate::commands::confirmation::{ConfirmationFlags, ConfirmationToken};
use crate::config::Config;
use crate::exit::Exit;
use crate::output::{Output, duration};

#[derive(Debug, clap::Args)]
pub struct RestartArguments {
    /// The node, as serp.nodes or serp.node_template name it
    node: String,
    /// Leave ports alone that serve this version or a newer one, and see that the others come back with it; without it
    /// every port is restarted once
    #[arg(long, value_name = "VERSION")]
    version: Option<i64>,
    #[command(flatten)]
    confirmation: ConfirmationFlags,
}

impl RestartArguments {
    fn goal(&self) -> RestartGoal {
        self.version.map_or(RestartGoal::Once, RestartGoal::Version)
    }
}

pub async fn restart(
    arguments: &RestartArguments,
    config: &Config,
    output: Output,
) -> anyhow::Result<Exit> {
    let node = config.serp.node(&arguments.node);
    let node = node.map_err(|refusal| InvalidSettings::one("serp", refusal))?;
    let (restarter, goal) = (Restarter::new(&config.serp)?, arguments.goal());
    match arguments.confirmation.confirmed() {
        Some(token) => restart_node(token, &restarter, &node, goal, output).await,
        None => show_plan(&restarter, &node, goal, output).await,
    }
}

async fn show_plan(
    restarter: &Restarter,
    node: &SerpNode,
    goal: RestartGoal,
    output: Output,
) -> anyhow::Result<Exit> {
    let (mut ports, mut text, mut any) = (Vec::new(), String::new(), false);
    for PortCheck { port, served } in restarter.check_ports(node).await {
        let is_behind = |served: &ServedVersion| !goal.is_reached(served, false);
        let restart = served.as_ref().is_ok_and(is_behind);
        any |= restart;
        ports.push(json!({
            "port": port,
            "version": served.as_ref().ok().and_then(|served| served.version),
            "failure": served.as_ref().err().map(ToString::to_string),
            "restart": restart,
        }));
        let what = match served {
            Ok(served) if restart => format!("serves {} and would be restarted", version(&served)),
            Ok(served) => format!("serves {} already", version(&served)),
            Err(failure) => format!("is down and would be waited for: {failure}"),
        };
        text += &format!("{} {what}\n", node.address(port));
    }
    if any {
        text += "Nothing was done; --yes does it.";
    }
    let answer = json!({ "node": node.name, "dry_run": true, "ports": ports });
    output.answer(&answer, text)?;
    Ok(Exit::differs_if(any))
}

async fn restart_node(
    _: ConfirmationToken,
    restarter: &Restarter,
    node: &SerpNode,
    goal: RestartGoal,
    output: Output,
) -> anyhow::Result<Exit> {
    let interrupted = Arc::new(AtomicBool::new(false));
    let seen = interrupted.clone();
    tokio::spawn(async move {
        while tokio::signal::ctrl_c().await.is_ok() {
            if seen.swap(true, Ordering::SeqCst) {
                // The second interrupt ends the command at once.
                std::process::exit(130);
            }
        }
    });
    let observer = TerminalObserver {
        node,
        output,
        interrupted,
    };
    let summary = restarter.restart_node(node, goal, &observer).await;
    let RestartSummary { restarted, already } =
        summary.with_context(|| format!("{} is not restarted to its end", node.name))?;
    let answer = json!({
        "node": node.name,
        "dry_run": false,
        "restarted": restarted,
        "already": already,
    });
    let text = format!(
        "{}: {restarted} restarted, {already} left as they were",
        node.name
    );
    output.answer(&answer, text)?;
    Ok(Exit::Ok)
}

fn version(served: &ServedVersion) -> String {
    let version = served.version.map(|version| version.to_string());
    version.unwrap_or_else(|| "no version".to_owned())
}

/// Prints what happens, and stops when the operator interrupts.
struct TerminalObserver<'a> {
    node: &'a SerpNode,
    output: Output,
    interrupted: Arc<AtomicBool>,
}

impl Observer for TerminalObserver<'_> {
    async fn may_restart(&self) -> Result<(), StopReason> {
        if self.interrupted.load(Ordering::SeqCst) {
            return Err(StopReason::ShuttingDown);
        }
        Ok(())
    }

    async fn on_event(&self, event: RestartEvent) {
        let address = |port| self.node.address(port);
        let line = match event {
            RestartEvent::WaitingForDownPort { port, failure } => {
                format!("{} is down; waiting for it ({failure})", address(port))
            }
            RestartEvent::Exiting { port, served } => {
                format!(
                    "{} serves {}; restarting it",
                    address(port),
                    version(&served)
                )
            }
            RestartEvent::ExitAccepted { .. } | RestartEvent::ProcessEnded { .. } => return,
            RestartEvent::Back { port, served, took } => format!(
                "{} is back after {} and serves {}",
                address(port),
                duration(took),
                version(&served)
            ),
        };
        if !self.output.is_json() {
            // A line that cannot be written does not end the restart in the middle.
            let _ = self.output.line(line);
        }
    }
}
