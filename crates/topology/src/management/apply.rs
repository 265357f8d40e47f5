use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::actual::Actual;
use super::objects::Objects;
use super::plan::{self, Plan};
use super::removal::{Blocked, Removal};
use super::{Action, Discards, Management, ManagementError};
use crate::{Desired, QueueClass};

/// One difference between the broker and the pipeline, and what was, or would be, done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    pub action: Action,
    pub object: Object,
    pub name: String,
    /// What is changed, or why nothing is.
    pub detail: String,
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

impl Change {
    pub(super) fn new(action: Action, object: Object, name: &str, detail: &str) -> Self {
        Self {
            action,
            object,
            name: name.to_owned(),
            detail: detail.to_owned(),
        }
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = |value: &dyn fmt::Debug| format!("{value:?}").to_lowercase();
        let (action, object) = (word(&self.action), word(&self.object));
        write!(f, "{action} {object} {} ({})", self.name, self.detail)
    }
}

impl Management {
    /// Declares the pipeline and removes what another type had before it. Doing it again changes nothing.
    ///
    /// No queue that holds messages is removed unless `discards` names their current number; such a queue, and
    /// what its messages still need, is in the answer with [`Action::Blocked`]. A removal takes half a minute at
    /// most: the broker's counts have to be newer than the removal of the bindings. Fails without a change when a
    /// queue has other arguments than the pipeline's.
    pub async fn configure(
        &self,
        desired: &Desired,
        discards: &Discards,
    ) -> Result<Vec<Change>, ManagementError> {
        apply(self, desired, discards).await
    }

    /// What [`Management::configure`] would do, by the broker's current figures; changes nothing.
    pub async fn diff(&self, desired: &Desired) -> Result<Vec<Change>, ManagementError> {
        let actual = self.actual().await?;
        forecast(desired, &actual, &Discards::none())
    }

    /// Removes the pipeline of this type, with the same care for messages as [`Management::configure`].
    pub async fn delete_pipeline(
        &self,
        pipeline: &str,
        discards: &Discards,
    ) -> Result<Vec<Change>, ManagementError> {
        match self.actual().await?.pipeline() {
            Some(configured) if configured != pipeline => Err(ManagementError::OtherPipeline {
                vhost: self.vhost().to_owned(),
                configured: configured.to_owned(),
                asked: pipeline.to_owned(),
            }),
            _ => apply(self, &Desired::nothing(pipeline), discards).await,
        }
    }
}

/// The changes that [`apply`] would make, by the figures of `actual`.
pub(super) fn forecast(
    desired: &Desired,
    actual: &Actual,
    discards: &Discards,
) -> Result<Vec<Change>, ManagementError> {
    let plan = plan::plan(desired, actual, discards)?;
    let mut changes: Vec<Change> = plan
        .policies
        .iter()
        .map(|(_, change)| change.clone())
        .collect();
    changes.extend(plan.created());
    changes.extend(plan.unbound());
    let (mut blocked, mut removed) = (Blocked::default(), BTreeSet::new());
    for removal in &plan.removals {
        let obstacles = removal.obstacles(actual, &blocked);
        if obstacles.is_empty() {
            removed.extend(removal.queues.iter().map(|queue| queue.name.clone()));
            changes.extend(removal.removed(actual));
        } else {
            blocked.add(removal);
            changes.extend(obstacles);
        }
    }
    changes.extend(plan::unused_policies(desired, actual, &removed));
    changes.extend(plan.shadowed);
    changes.extend(plan.marker);
    Ok(changes)
}

/// Carries out the plan. When it fails half-way the pipeline counts as not configured, and a second call
/// completes it.
pub(super) async fn apply<B: Objects>(
    broker: &B,
    desired: &Desired,
    discards: &Discards,
) -> Result<Vec<Change>, ManagementError> {
    let actual = broker.actual().await?;
    let plan = plan::plan(desired, &actual, discards)?;
    let disturbs = plan.disturbs();
    if disturbs && actual.pipeline().is_some() {
        broker.delete_exchange(&desired.marker.name).await?;
    }
    let mut engine = Engine {
        broker,
        done: Vec::new(),
        removed: BTreeSet::new(),
    };
    engine.declare(&plan).await?;
    let figures = engine.wait_for_counts(&plan, &actual).await?;
    let mut blocked = Blocked::default();
    for removal in &plan.removals {
        engine.remove(removal, &figures, &mut blocked).await?;
    }
    for change in plan::unused_policies(desired, &actual, &engine.removed) {
        broker.delete_policy(&change.name).await?;
        engine.done.push(change);
    }
    if disturbs && !desired.is_nothing() {
        broker.put_exchange(&desired.marker).await?;
    }
    engine.done.extend(plan.shadowed);
    engine.done.extend(plan.marker);
    Ok(engine.done)
}

struct Engine<'a, B> {
    broker: &'a B,
    done: Vec<Change>,
    removed: BTreeSet<String>,
}

impl<B: Objects> Engine<'_, B> {
    /// Everything that takes no message away: declares, binds, unbinds. Policies come first, so that a queue never
    /// exists without its limit and the target of its dead letters.
    async fn declare(&mut self, plan: &Plan) -> Result<(), ManagementError> {
        for (policy, change) in &plan.policies {
            self.broker.put_policy(policy).await?;
            self.done.push(change.clone());
        }
        for queue in &plan.queues {
            self.broker.put_queue(queue).await?;
        }
        for exchange in &plan.exchanges {
            self.broker.put_exchange(exchange).await?;
        }
        for binding in &plan.bindings {
            self.broker.bind(binding).await?;
        }
        self.done.extend(plan.created());
        for binding in &plan.unbind {
            self.broker.unbind(binding).await?;
        }
        self.done.extend(plan.unbound());
        Ok(())
    }

    /// Figures that decide on removals. For queues that can perhaps go they are newer than the removal of the
    /// bindings. A queue with consumers is counted twice, because a message on its way from one queue to another
    /// may be in neither count.
    async fn wait_for_counts(
        &self,
        plan: &Plan,
        actual: &Actual,
    ) -> Result<Vec<Actual>, ManagementError> {
        let mut figures = vec![actual.clone()];
        let blocked = Blocked::default();
        let going = plan.removals.iter();
        let going = going.filter(|removal| removal.obstacles(actual, &blocked).is_empty());
        let queues: Vec<&str> = going
            .flat_map(|removal| removal.queues.iter().map(|queue| queue.name.as_str()))
            .collect();
        for round in 0..2 {
            let read = |figures: &[Actual]| {
                let latest = &figures[figures.len() - 1];
                queues.iter().any(|queue| latest.consumers(queue) > 0)
            };
            if queues.is_empty() || (round > 0 && !read(&figures)) {
                break;
            }
            let age = self.broker.figures_age();
            tracing::info!("waiting {age:?} until the broker has counted the messages again");
            tokio::time::sleep(age).await;
            figures.push(self.broker.actual().await?);
        }
        Ok(figures)
    }

    async fn remove(
        &mut self,
        removal: &Removal,
        figures: &[Actual],
        blocked: &mut Blocked,
    ) -> Result<(), ManagementError> {
        let mut obstacles = Vec::new();
        // The latest figures first: the answer names their numbers.
        for actual in figures.iter().rev() {
            obstacles = removal.obstacles(actual, blocked);
            if !obstacles.is_empty() {
                break;
            }
        }
        if obstacles.is_empty() {
            obstacles = self.inspect(removal).await?;
        }
        if !obstacles.is_empty() {
            blocked.add(removal);
            self.done.extend(obstacles);
            return Ok(());
        }
        for queue in &removal.queues {
            self.broker.delete_queue(&queue.name).await?;
            self.removed.insert(queue.name.clone());
        }
        if let Some(exchange) = &removal.exchange {
            self.broker.delete_exchange(exchange).await?;
        }
        let latest = &figures[figures.len() - 1];
        self.done.extend(removal.removed(latest));
        Ok(())
    }

    /// Looks once more into each queue that the figures call empty, delays before the input they feed. The broker
    /// does not allow it for a stream or a queue with a single active consumer.
    async fn inspect(&self, removal: &Removal) -> Result<Vec<Change>, ManagementError> {
        for queue in &removal.queues {
            let closed = matches!(queue.class, QueueClass::Stream | QueueClass::Lease);
            let counted_only = closed || queue.discard > 0;
            if !counted_only && self.broker.is_ready(&queue.name).await? {
                return Ok(vec![removal.holds(&queue.name, 1)]);
            }
        }
        Ok(Vec::new())
    }
}
