use std::fmt;

use serde::Serialize;

use super::actual::Actual;
use super::objects::{Objects, PlanStep};
use super::plan::{PlannedChange, plan, unused_policies};
use super::removal::{Removal, removals};
use super::{Discards, Management, ManagementError};
use crate::{Desired, QueueClass};

/// One difference between the broker and the pipeline, and what was, or would be, done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokerChange {
    pub action: ChangeAction,
    pub object: Object,
    pub name: String,
    /// What is changed, or why nothing is.
    pub detail: String,
}

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeAction {
    Create,
    Update,
    Remove,
    /// Not as it should be, and left alone for the reason given.
    Blocked,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Object {
    Policy,
    Queue,
    Exchange,
    Binding,
    /// The marker that the pipeline is configured, with its type.
    Pipeline,
}

impl BrokerChange {
    pub(super) fn new(action: ChangeAction, object: Object, name: &str, detail: &str) -> Self {
        Self {
            action,
            object,
            name: name.to_owned(),
            detail: detail.to_owned(),
        }
    }
}

impl fmt::Display for BrokerChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (action, object) = (self.action, self.object);
        let words = format!("{action:?} {object:?}").to_lowercase();
        write!(f, "{words} {} ({})", self.name, self.detail)
    }
}

impl Management {
    /// Declares the pipeline and removes what another type had before it. Doing it again changes nothing.
    ///
    /// No queue that holds messages is removed unless `discards` names their current number; such a queue, and
    /// what its messages still need, is in the answer with [`ChangeAction::Blocked`]. A removal takes half a minute
    /// at most: the broker's counts have to be newer than the removal of the bindings. Fails without a change when a
    /// queue has other arguments than the pipeline's.
    pub async fn configure(
        &self,
        desired: &Desired,
        discards: &Discards,
    ) -> Result<Vec<BrokerChange>, ManagementError> {
        apply(self, desired, discards).await
    }

    /// What [`Management::configure`] would do, by the broker's current figures; changes nothing.
    pub async fn diff(&self, desired: &Desired) -> Result<Vec<BrokerChange>, ManagementError> {
        forecast(desired, &self.actual().await?, &Discards::new())
    }

    /// Removes the pipeline of this type, with the same care for messages as [`Management::configure`]. Fails without a
    /// change where the broker does not say what a queue holds.
    pub async fn delete_pipeline(
        &self,
        pipeline: &str,
        discards: &Discards,
    ) -> Result<Vec<BrokerChange>, ManagementError> {
        match self.actual().await?.pipeline() {
            Some(configured) if configured != pipeline => Err(ManagementError::OtherPipeline {
                vhost: self.vhost().to_owned(),
                configured: configured.to_owned(),
                asked: pipeline.to_owned(),
            }),
            _ => delete(self, &Desired::nothing(pipeline), discards).await,
        }
    }
}

/// The changes that [`apply`] would make, by the figures of `actual`.
pub(super) fn forecast(
    desired: &Desired,
    actual: &Actual,
    discards: &Discards,
) -> Result<Vec<BrokerChange>, ManagementError> {
    let plan = plan(desired, actual, discards)?;
    let steps = plan.steps.into_iter();
    let mut changes: Vec<BrokerChange> = steps.map(|step| step.change).collect();
    let (mut removed, mut blocked) = (Vec::new(), Vec::new());
    for removal in &plan.removals {
        let obstacles = removal.obstacles(actual, &blocked);
        if obstacles.is_empty() {
            changes.extend(removal.removed(actual));
            removed.push(removal);
        } else {
            changes.extend(obstacles);
            blocked.push(removal);
        }
    }
    changes.extend(unused_policies(desired, actual, &removed));
    changes.extend(plan.shadowed);
    changes.extend(plan.marker);
    Ok(changes)
}

/// Executes the plan. When it fails half-way the pipeline counts as not configured, and a second call
/// completes it.
pub(super) async fn apply<B: Objects>(
    broker: &B,
    desired: &Desired,
    discards: &Discards,
) -> Result<Vec<BrokerChange>, ManagementError> {
    let actual = broker.actual().await?;
    let actual = counted(broker, &removals(desired, &actual, discards), actual).await?;
    let plan = plan(desired, &actual, discards)?;
    let disturbs = plan.disturbs();
    if disturbs && actual.pipeline().is_some() {
        let marker = desired.marker.name.clone();
        broker.execute(&PlanStep::DeleteExchange(marker)).await?;
    }
    let mut changes = Vec::new();
    for PlannedChange { step, change } in plan.steps {
        broker.execute(&step).await?;
        changes.push(change);
    }
    let counts = count_again(broker, &plan.removals, &actual).await?;
    let (mut removed, mut blocked) = (Vec::new(), Vec::new());
    for removal in &plan.removals {
        let obstacles = obstacles(broker, removal, &counts, &blocked).await?;
        if obstacles.is_empty() {
            for step in removal.steps() {
                broker.execute(&step).await?;
            }
            changes.extend(removal.removed(&counts[0]));
            removed.push(removal);
        } else {
            changes.extend(obstacles);
            blocked.push(removal);
        }
    }
    for change in unused_policies(desired, &actual, &removed) {
        let step = PlanStep::DeletePolicy(change.name.clone());
        broker.execute(&step).await?;
        changes.push(change);
    }
    if disturbs && !desired.is_nothing() {
        let step = PlanStep::PutExchange(desired.marker.clone());
        broker.execute(&step).await?;
    }
    changes.extend(plan.shadowed);
    changes.extend(plan.marker);
    Ok(changes)
}

/// Removes all, unless the broker does not count: then a half of the pipeline would be left for no reason.
pub(super) async fn delete<B: Objects>(
    broker: &B,
    nothing: &Desired,
    discards: &Discards,
) -> Result<Vec<BrokerChange>, ManagementError> {
    let first = broker.actual().await?;
    let removals = removals(nothing, &first, discards);
    let uncounted = |actual: &Actual| -> Vec<String> {
        let queues = removals
            .iter()
            .flat_map(|removal| removal.uncounted(actual));
        queues.map(str::to_owned).collect()
    };
    let actual = counted(broker, &removals, first).await?;
    match uncounted(&actual) {
        queues if queues.is_empty() => apply(broker, nothing, discards).await,
        queues => Err(ManagementError::NotCounted { queues }),
    }
}

/// The objects once their queues have been counted: a queue has no figures in its first seconds. Where the broker does
/// not count, they are missing still.
async fn counted<B: Objects>(
    broker: &B,
    removals: &[Removal],
    actual: Actual,
) -> Result<Actual, ManagementError> {
    let is_counted = |removal: &Removal| removal.uncounted(&actual).next().is_none();
    if removals.iter().all(is_counted) {
        return Ok(actual);
    }
    let age = broker.figures_age();
    tracing::info!("waiting {age:?} until the broker has counted the messages of new queues");
    tokio::time::sleep(age).await;
    broker.actual().await
}

/// The counts that decide on removals, the latest first. For queues that can perhaps go they are newer than the
/// removal of the bindings. A queue with consumers is counted twice, because a message on its way from one queue to
/// another may be in neither count.
async fn count_again<B: Objects>(
    broker: &B,
    removals: &[Removal],
    actual: &Actual,
) -> Result<Vec<Actual>, ManagementError> {
    let mut counts = vec![actual.clone()];
    let queues: Vec<&String> = removals
        .iter()
        .filter(|removal| removal.obstacles(actual, &[]).is_empty())
        .flat_map(|removal| removal.queues.iter().map(|queue| &queue.name))
        .collect();
    let is_consumed = |actual: &Actual| !queues.iter().all(|queue| actual.is_unread(queue));
    while !queues.is_empty() && counts.len() < 3 {
        let age = broker.figures_age();
        tracing::info!("waiting {age:?} until the broker has counted the messages again");
        tokio::time::sleep(age).await;
        counts.insert(0, broker.actual().await?);
        if !is_consumed(&counts[0]) {
            break;
        }
    }
    Ok(counts)
}

/// Why objects cannot be removed: by any of the counts, or by one more inspection of each queue that all of them call
/// empty, delays before the input that they send to. The broker does not allow that for a stream or a queue with a
/// single active consumer.
async fn obstacles<B: Objects>(
    broker: &B,
    removal: &Removal,
    counts: &[Actual],
    blocked: &[&Removal],
) -> Result<Vec<BrokerChange>, ManagementError> {
    for actual in counts {
        let obstacles = removal.obstacles(actual, blocked);
        if !obstacles.is_empty() {
            return Ok(obstacles);
        }
    }
    for queue in &removal.queues {
        let closed = matches!(queue.class, QueueClass::Stream | QueueClass::Lease);
        let counted_only = closed || queue.discard > 0;
        if !counted_only && broker.is_ready(&queue.name).await? {
            return Ok(vec![removal.holds(&queue.name, 1)]);
        }
    }
    Ok(Vec::new())
}
