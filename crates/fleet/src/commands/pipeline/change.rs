use serde_json::json;
use topology::management::{BrokerChange, ChangeAction, Discards, Management, Object};

use super::{Discard, Pipelines, not_configured};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Tone, table};

pub async fn configure(
    pipelines: &Pipelines<'_>,
    pipeline: &str,
    discard: Discard,
    context: &Context,
) -> anyhow::Result<Exit> {
    let desired = pipelines.desired(&pipelines.topology(pipeline)?)?;
    let management = pipelines.management()?;
    if !context.output.is_json() && concerns_queues(&management.diff(&desired).await?) {
        announce_wait();
    }
    let discards = Discards::from_iter(discard.discard);
    let changes = management.configure(&desired, &discards).await?;
    let vhost = management.vhost();
    let title = format!("Pipeline {pipeline} is configured in virtual host {vhost:?}");
    report(context, &title, true, pipeline, vhost, &changes)?;
    Ok(Exit::Ok)
}

pub async fn diff(pipelines: &Pipelines<'_>, context: &Context) -> anyhow::Result<Exit> {
    let management = pipelines.management()?;
    let vhost = management.vhost();
    let Some(topology) = pipelines.selected().await? else {
        return not_configured(context, vhost);
    };
    let changes = management.diff(&pipelines.desired(&topology)?).await?;
    let pipeline = &topology.name;
    let title = if changes.is_empty() {
        format!("Virtual host {vhost:?} matches pipeline {pipeline}")
    } else {
        format!("To configure pipeline {pipeline} in virtual host {vhost:?}")
    };
    report(context, &title, false, pipeline, vhost, &changes)?;
    Ok(Exit::differs_if(!changes.is_empty()))
}

pub async fn delete(
    management: &Management,
    pipeline: &str,
    discard: Discard,
    context: &Context,
) -> anyhow::Result<Exit> {
    let configured = management.configured().await?;
    if !context.output.is_json() && configured.as_deref() == Some(pipeline) {
        announce_wait();
    }
    let discards = Discards::from_iter(discard.discard);
    let changes = management.delete_pipeline(pipeline, &discards).await?;
    let blocked = changes.iter().any(|c| c.action == ChangeAction::Blocked);
    let vhost = management.vhost();
    let but = if blocked {
        ", but for what holds messages"
    } else {
        ""
    };
    let title = format!("Pipeline {pipeline} is removed from virtual host {vhost:?}{but}");
    report(context, &title, true, pipeline, vhost, &changes)?;
    Ok(Exit::differs_if(blocked))
}

/// Whether queues are to go: a new one that is blocked may only not be counted yet.
fn concerns_queues(changes: &[BrokerChange]) -> bool {
    let is_to_go = |action| matches!(action, ChangeAction::Remove | ChangeAction::Blocked);
    let mut changes = changes.iter();
    changes.any(|change| change.object == Object::Queue && is_to_go(change.action))
}

fn announce_wait() {
    eprintln!("Waiting for the broker to count messages before a queue is removed (up to 30 s) …");
}

/// Lists changes that were made (`done`) or would be.
fn report(
    context: &Context,
    title: &str,
    done: bool,
    pipeline: &str,
    vhost: &str,
    changes: &[BrokerChange],
) -> anyhow::Result<()> {
    let output = context.output;
    let rows = changes.iter().map(|change| {
        let (tone, action) = match change.action {
            ChangeAction::Create => (Tone::Good, "create"),
            ChangeAction::Update => (Tone::Good, "update"),
            ChangeAction::Remove => (Tone::Bad, "remove"),
            ChangeAction::Blocked => (Tone::Warning, "blocked"),
        };
        let object = format!("{:?}", change.object).to_lowercase();
        [
            output.cell(tone, action),
            object.into(),
            change.name.as_str().into(),
            change.detail.as_str().into(),
        ]
    });
    let text = if changes.is_empty() {
        format!("{title}; nothing to change.")
    } else {
        let rows = table("action | object | name | detail", rows);
        format!("{rows}\n{title}: {}.", summary(changes, done))
    };
    let answer = json!({ "type": pipeline, "virtual_host": vhost, "changes": changes });
    Ok(output.answer(&answer, text)?)
}

/// `12 created, 3 blocked`, or `12 to create, 3 blocked`.
fn summary(changes: &[BrokerChange], done: bool) -> String {
    let actions = [
        (ChangeAction::Create, "created", "to create"),
        (ChangeAction::Update, "updated", "to update"),
        (ChangeAction::Remove, "removed", "to remove"),
        (ChangeAction::Blocked, "blocked", "blocked"),
    ];
    let parts = actions.into_iter().filter_map(|(action, past, future)| {
        let count = changes.iter().filter(|c| c.action == action).count();
        let words = if done { past } else { future };
        (count > 0).then(|| format!("{count} {words}"))
    });
    parts.collect::<Vec<_>>().join(", ")
}
