use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use topology::management::{Management, ManagementError, QueueFigures};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Tone, bytes, number, table};

/// How often it is looked. The broker itself counts every few seconds.
const LOOK: Duration = Duration::from_secs(1);

pub async fn qlen(management: &Management, context: &Context) -> anyhow::Result<Exit> {
    let output = context.output;
    let figures = management.figures().await?;
    if output.is_json() {
        output.json(&figures)?;
        return Ok(Exit::Ok);
    }
    let count = |n: u64| match n {
        0 => output.cell(Tone::Faint, "0"),
        n => number(n).into(),
    };
    let rows = figures.iter().map(|figures| {
        vec![
            figures.queue.as_str().into(),
            count(figures.ready),
            count(figures.unacked),
            output.cell(Tone::Faint, bytes(figures.bytes)),
            count(figures.consumers),
        ]
    });
    let headers = ["queue", "ready", "unacked", "bytes", "consumers"];
    output.text(&table(&headers, &[1, 2, 3, 4], rows))?;
    Ok(Exit::Ok)
}

/// What is waited for.
pub struct Goal {
    pipeline: Option<String>,
    empty: bool,
}

impl Goal {
    /// Any pipeline, or that of a type; with queues in any state, or empty ones.
    pub fn new(pipeline: Option<String>, empty: bool) -> Self {
        Self { pipeline, empty }
    }

    /// What is lacking, for a person; the configured type when nothing is.
    async fn reached(
        &self,
        management: &Management,
    ) -> Result<Result<String, String>, ManagementError> {
        let vhost = management.vhost();
        let configured = match (management.configured().await?, &self.pipeline) {
            (None, _) => {
                return Ok(Err(format!(
                    "no pipeline is configured in virtual host {vhost:?}"
                )));
            }
            (Some(found), Some(wanted)) if found != *wanted => {
                return Ok(Err(format!(
                    "virtual host {vhost:?} has pipeline {found}, not {wanted}"
                )));
            }
            (Some(found), _) => found,
        };
        if self.empty {
            let figures = management.figures().await?;
            let held = |figures: &QueueFigures| figures.ready + figures.unacked;
            let full = figures
                .iter()
                .filter(|figures| figures.is_work() && held(figures) > 0);
            let full: Vec<String> = full
                .map(|figures| format!("{} ({})", figures.queue, number(held(figures))))
                .collect();
            if !full.is_empty() {
                return Ok(Err(format!("not empty: {}", full.join(", "))));
            }
        }
        Ok(Ok(configured))
    }
}

pub async fn wait(
    management: &Management,
    goal: &Goal,
    timeout: Option<u64>,
    context: &Context,
) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let deadline = timeout.and_then(|seconds| start.checked_add(Duration::from_secs(seconds)));
    loop {
        let reached = goal.reached(management).await;
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let (configured, lacking) = match reached {
            Ok(Ok(configured)) => (Some(configured), None),
            Ok(Err(lacking)) if late => (None, Some(lacking)),
            // A broker that is not up yet is part of what is waited for.
            Err(error) if late || !error.may_pass() => return Err(error.into()),
            Ok(Err(_)) | Err(_) => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
        };
        let exit = match lacking {
            None => Exit::Ok,
            Some(_) => Exit::Differs,
        };
        if context.output.is_json() {
            let answer = json!({ "type": configured, "lacking": lacking });
            context.output.json(&answer)?;
        } else if let Some(lacking) = lacking {
            let seconds = start.elapsed().as_secs();
            context
                .output
                .line(format!("After {seconds} s: {lacking}"))?;
        } else if let Some(pipeline) = configured {
            let empty = if goal.empty {
                ", its worker and delay queues are empty"
            } else {
                ""
            };
            context
                .output
                .line(format!("Pipeline {pipeline} is configured{empty}."))?;
        }
        return Ok(exit);
    }
}
