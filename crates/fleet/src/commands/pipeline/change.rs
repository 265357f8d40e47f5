use serde_json::json;
use topology::management::{BrokerChange, ChangeAction, Discards, Management, Object};

use super::{Choice, Discard, Pipelines, not_configured};
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
    if !context.output.is_json() && removes(&management.diff(&desired).await?) {
        patience();
    }
    let discards = Discards::from_iter(discard.discard);
    let changes = management.configure(&desired, &discards).await?;
    let vhost = management.vhost();
    let done = format!("Pipeline {pipeline} is configured in virtual host {vhost:?}");
    report(context, &done, Tense::Done, pipeline, vhost, &changes)?;
    Ok(Exit::Ok)
}

pub async fn diff(
    pipelines: &Pipelines<'_>,
    choice: Choice,
    context: &Context,
) -> anyhow::Result<Exit> {
    let management = pipelines.management()?;
    let vhost = management.vhost();
    let Some(topology) = pipelines.chosen(choice).await? else {
        return not_configured(context, vhost);
    };
    let changes = management.diff(&pipelines.desired(&topology)?).await?;
    let pipeline = &topology.name;
    let title = match changes.is_empty() {
        true => format!("Virtual host {vhost:?} is as pipeline {pipeline} wants it"),
        false => format!("To configure pipeline {pipeline} in virtual host {vhost:?}"),
    };
    report(context, &title, Tense::ToDo, pipeline, vhost, &changes)?;
    Ok(match changes.is_empty() {
        true => Exit::Ok,
        false => Exit::Differs,
    })
}

pub async fn delete(
    management: &Management,
    pipeline: &str,
    discard: Discard,
    context: &Context,
) -> anyhow::Result<Exit> {
    let present = management.configured().await?;
    if !context.output.is_json() && present.as_deref() == Some(pipeline) {
        patience();
    }
    let discards = Discards::from_iter(discard.discard);
    let changes = management.delete_pipeline(pipeline, &discards).await?;
    let blocked = changes
        .iter()
        .any(|change| change.action == ChangeAction::Blocked);
    let vhost = management.vhost();
    let done = match blocked {
        true => format!(
            "Pipeline {pipeline} is removed from virtual host {vhost:?}, but for what holds messages"
        ),
        false => format!("Pipeline {pipeline} is removed from virtual host {vhost:?}"),
    };
    report(context, &done, Tense::Done, pipeline, vhost, &changes)?;
    Ok(match blocked {
        true => Exit::Differs,
        false => Exit::Ok,
    })
}

/// Whether queues are to go, for which the broker has to count their messages first.
fn removes(changes: &[BrokerChange]) -> bool {
    let goes = |change: &BrokerChange| change.action == ChangeAction::Remove;
    changes
        .iter()
        .any(|change| change.object == Object::Queue && goes(change))
}

fn patience() {
    eprintln!("Waiting for the broker to count messages before a queue is removed (up to 30 s) …");
}

/// Whether changes are told of or announced.
#[derive(Clone, Copy)]
enum Tense {
    Done,
    ToDo,
}

fn report(
    context: &Context,
    title: &str,
    tense: Tense,
    pipeline: &str,
    vhost: &str,
    changes: &[BrokerChange],
) -> anyhow::Result<()> {
    let output = context.output;
    if output.is_json() {
        let answer = json!({ "type": pipeline, "virtual_host": vhost, "changes": changes });
        return Ok(output.json(&answer)?);
    }
    if changes.is_empty() {
        return Ok(output.line(format!("{title}; nothing to change."))?);
    }
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
    let rows = table(&["action", "object", "name", "detail"], &[], rows);
    Ok(output.text(&format!("{rows}\n{title}: {}.\n", summary(changes, tense)))?)
}

/// `12 created, 3 blocked`, or `12 to create, 3 blocked`.
fn summary(changes: &[BrokerChange], tense: Tense) -> String {
    let actions = [
        (ChangeAction::Create, "created", "to create"),
        (ChangeAction::Update, "updated", "to update"),
        (ChangeAction::Remove, "removed", "to remove"),
        (ChangeAction::Blocked, "blocked", "blocked"),
    ];
    let parts = actions.into_iter().filter_map(|(action, done, to_do)| {
        let count = changes
            .iter()
            .filter(|change| change.action == action)
            .count();
        let words = match tense {
            Tense::Done => done,
            Tense::ToDo => to_do,
        };
        (count > 0).then(|| format!("{count} {words}"))
    });
    parts.collect::<Vec<_>>().join(", ")
}
