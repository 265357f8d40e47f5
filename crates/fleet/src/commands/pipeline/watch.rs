use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;
use topology::management::{Management, ManagementError};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Tone, bytes, number, table};

use super::{UNKNOWN, count};

/// The broker itself counts every few seconds.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

pub async fn qlen(management: &Management, context: &Context) -> anyhow::Result<Exit> {
    let output = context.output;
    let figures = management.figures().await?;
    let count = |n: Option<u64>| match n {
        None => output.cell(Tone::Warning, UNKNOWN),
        Some(0) => output.cell(Tone::Faint, "0"),
        Some(n) => number(n).into(),
    };
    let size = |n: Option<u64>| n.map_or(UNKNOWN.to_owned(), bytes);
    let rows = figures.iter().map(|figures| {
        [
            figures.queue.as_str().into(),
            count(figures.ready),
            count(figures.unacked),
            output.cell(Tone::Faint, size(figures.bytes)),
            count(figures.consumers),
        ]
    });
    let text = table("queue | >ready | >unacked | >bytes | >consumers", rows);
    output.answer(&figures, text)?;
    Ok(Exit::Ok)
}

/// Waits for any pipeline, or that of a type; with `empty`, until its worker and delay queues are empty too.
pub async fn wait(
    management: &Management,
    pipeline: Option<String>,
    empty: bool,
    timeout: Option<u64>,
    context: &Context,
) -> anyhow::Result<Exit> {
    let start = Instant::now();
    let deadline = timeout.and_then(|seconds| start.checked_add(Duration::from_secs(seconds)));
    let state = loop {
        let state = pipeline_state(management, pipeline.as_deref(), empty).await;
        let late = deadline.is_some_and(|deadline| Instant::now() >= deadline);
        match state {
            Ok(state) if late || matches!(state, PipelineState::Ready(_)) => break state,
            // A broker that is not up yet is part of what is waited for.
            Err(error) if late || !error.may_pass() => return Err(error.into()),
            Ok(_) | Err(_) => tokio::time::sleep(POLL_INTERVAL).await,
        }
    };
    match state {
        PipelineState::Ready(pipeline) => {
            let queues = if empty {
                ", its worker and delay queues are empty"
            } else {
                ""
            };
            let text = format!("Pipeline {pipeline} is configured{queues}.");
            let answer = json!({ "type": pipeline, "lacking": null });
            context.output.answer(&answer, text)?;
            Ok(Exit::Ok)
        }
        PipelineState::Lacking(lacking) => {
            let text = format!("After {} s: {lacking}", start.elapsed().as_secs());
            let answer = json!({ "type": null, "lacking": lacking });
            context.output.answer(&answer, text)?;
            Ok(Exit::Differs)
        }
    }
}

enum PipelineState {
    /// The type that is configured.
    Ready(String),
    /// What is missing, in words.
    Lacking(String),
}

async fn pipeline_state(
    management: &Management,
    wanted: Option<&str>,
    empty: bool,
) -> Result<PipelineState, ManagementError> {
    let vhost = management.vhost();
    let Some(found) = management.configured().await? else {
        let lacking = format!("no pipeline is configured in virtual host {vhost:?}");
        return Ok(PipelineState::Lacking(lacking));
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != found) {
        let lacking = format!("virtual host {vhost:?} has pipeline {found}, not {wanted}");
        return Ok(PipelineState::Lacking(lacking));
    }
    if empty {
        let figures = management.figures().await?.into_iter();
        let full: Vec<String> = figures
            .filter(|figures| figures.is_work() && figures.held() != Some(0))
            .map(|figures| format!("{} ({})", figures.queue, count(figures.held())))
            .collect();
        if !full.is_empty() {
            let lacking = format!("not empty: {}", full.join(", "));
            return Ok(PipelineState::Lacking(lacking));
        }
    }
    Ok(PipelineState::Ready(found))
}
