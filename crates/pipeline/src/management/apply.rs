use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::objects::Objects;
use super::plan::{self, Plan};
use super::present::Present;
use super::removal::{Kept, Removal, Replacement};
use super::{Action, Discards, Management, ManagementError};
use crate::topology::{Desired, Queue, QueueClass};

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
    /// The mark that the pipeline is configured, with its type.
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
    /// No queue that holds messages is removed or replaced unless `discards` names their present number;
    /// such a queue, and what its messages still need, is in the answer with [`Action::Keep`]. When something
    /// is to be removed it takes half a minute at most: the broker's counts have to be newer than the cut.
    pub async fn configure(
        &self,
        desired: &Desired,
        discards: &Discards,
    ) -> Result<Vec<Change>, ManagementError> {
        apply(self, desired, discards).await
    }

    /// What [`Management::configure`] would do, by the broker's present figures; changes nothing.
    pub async fn diff(&self, desired: &Desired) -> Result<Vec<Change>, ManagementError> {
        let present = self.present().await?;
        forecast(desired, &present, &Discards::none())
    }

    /// Removes the pipeline of this type, with the same care for messages as [`Management::configure`].
    pub async fn delete_pipeline(
        &self,
        pipeline: &str,
        discards: &Discards,
    ) -> Result<Vec<Change>, ManagementError> {
        match self.present().await?.pipeline() {
            Some(present) if present != pipeline => Err(ManagementError::OtherPipeline {
                vhost: self.vhost().to_owned(),
                present: present.to_owned(),
                asked: pipeline.to_owned(),
            }),
            _ => apply(self, &Desired::nothing(pipeline), discards).await,
        }
    }
}

/// The changes that are to be expected.
pub(super) fn forecast(
    desired: &Desired,
    present: &Present,
    discards: &Discards,
) -> Result<Vec<Change>, ManagementError> {
    let plan = plan::plan(desired, present, discards)?;
    let mut changes: Vec<Change> = plan
        .policies
        .iter()
        .map(|(_, change)| change.clone())
        .collect();
    changes.extend(plan.created());
    changes.extend(plan.unbound());
    for replacement in &plan.replacements {
        let obstacle = replacement.obstacle(present);
        changes.push(obstacle.unwrap_or_else(|| replacement.replaced()));
    }
    let (mut kept, mut removed) = (Kept::default(), BTreeSet::new());
    for removal in &plan.removals {
        let obstacles = removal.obstacles(present, &kept);
        if obstacles.is_empty() {
            removed.extend(removal.queues.iter().map(|queue| queue.name.clone()));
            changes.extend(removal.removed(present));
        } else {
            kept.add(removal);
            changes.extend(obstacles);
        }
    }
    changes.extend(plan::spare_policies(desired, present, &removed));
    changes.extend(plan.hidden);
    changes.extend(plan.marker);
    Ok(changes)
}

/// Carries out the plan. When it fails half-way the pipeline counts as not configured, and doing it again
/// completes it.
pub(super) async fn apply<B: Objects>(
    broker: &B,
    desired: &Desired,
    discards: &Discards,
) -> Result<Vec<Change>, ManagementError> {
    let present = broker.present().await?;
    let plan = plan::plan(desired, &present, discards)?;
    let disturbs = plan.disturbs(&present);
    if disturbs && present.pipeline().is_some() {
        broker.delete_exchange(&desired.marker.name).await?;
    }
    let mut engine = Engine {
        broker,
        done: Vec::new(),
        removed: BTreeSet::new(),
    };
    engine.declare(&plan).await?;
    let figures = engine.settle(&plan, &present).await?;
    for replacement in &plan.replacements {
        engine.replace(replacement, &figures).await?;
    }
    let mut kept = Kept::default();
    for removal in &plan.removals {
        engine.remove(removal, &figures, &mut kept).await?;
    }
    for change in plan::spare_policies(desired, &present, &engine.removed) {
        broker.delete_policy(&change.name).await?;
        engine.done.push(change);
    }
    if disturbs && !desired.is_nothing() {
        broker.put_exchange(&desired.marker).await?;
    }
    engine.done.extend(plan.hidden);
    engine.done.extend(plan.marker);
    Ok(engine.done)
}

struct Engine<'a, B> {
    broker: &'a B,
    done: Vec<Change>,
    removed: BTreeSet<String>,
}

impl<B: Objects> Engine<'_, B> {
    /// Everything that adds or cuts, and takes no message away. Policies come first: a queue is never without
    /// its limit and its dead letters' way.
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

    /// Figures to judge by: for queues that can perhaps go, from after the cut. A queue that a program reads is
    /// judged twice, since a message on its way from one queue to another may be in neither's count.
    async fn settle(
        &self,
        plan: &Plan,
        present: &Present,
    ) -> Result<Vec<Present>, ManagementError> {
        let mut figures = vec![present.clone()];
        let kept = Kept::default();
        let going = plan.removals.iter();
        let going = going.filter(|removal| removal.obstacles(present, &kept).is_empty());
        let mut queues: Vec<&str> = going
            .flat_map(|removal| removal.queues.iter().map(|queue| queue.name.as_str()))
            .collect();
        let replaced = plan.replacements.iter();
        let replaced = replaced.filter(|replacement| replacement.obstacle(present).is_none());
        queues.extend(replaced.map(|replacement| replacement.queue.name.as_str()));
        for round in 0..2 {
            let read = |figures: &[Present]| {
                let latest = &figures[figures.len() - 1];
                queues.iter().any(|queue| latest.consumers(queue) > 0)
            };
            if queues.is_empty() || (round > 0 && !read(&figures)) {
                break;
            }
            let age = self.broker.figures_age();
            tracing::info!("waiting {age:?} for the broker to count the messages anew");
            tokio::time::sleep(age).await;
            figures.push(self.broker.present().await?);
        }
        Ok(figures)
    }

    async fn replace(
        &mut self,
        replacement: &Replacement,
        figures: &[Present],
    ) -> Result<(), ManagementError> {
        let name = &replacement.queue.name;
        let mut obstacle = figures
            .iter()
            .find_map(|present| replacement.obstacle(present));
        if obstacle.is_none() {
            for binding in &replacement.bindings {
                self.broker.unbind(binding).await?;
            }
            match self.came_late(replacement).await? {
                0 => {
                    self.broker.delete_queue(name).await?;
                    self.broker.put_queue(&replacement.queue).await?;
                }
                messages => obstacle = Some(replacement.holds(messages)),
            }
            for binding in &replacement.bindings {
                self.broker.bind(binding).await?;
            }
        }
        self.done
            .push(obstacle.unwrap_or_else(|| replacement.replaced()));
        Ok(())
    }

    /// Messages that came into a queue between the figures that call it empty and the cut.
    async fn came_late(&self, replacement: &Replacement) -> Result<u64, ManagementError> {
        let Queue { name, class, .. } = &replacement.queue;
        if replacement.discard > 0 {
            return Ok(0);
        }
        match class {
            // It has no room for any.
            QueueClass::Lease => return Ok(0),
            QueueClass::Stream => {}
            _ => return Ok(self.broker.is_ready(name).await?.into()),
        }
        // Nothing can look into a stream but a consumer: count once more.
        tokio::time::sleep(self.broker.figures_age()).await;
        Ok(self.broker.present().await?.held(name))
    }

    async fn remove(
        &mut self,
        removal: &Removal,
        figures: &[Present],
        kept: &mut Kept,
    ) -> Result<(), ManagementError> {
        let mut obstacles = Vec::new();
        // The latest figures first: their numbers are those to name.
        for present in figures.iter().rev() {
            obstacles = removal.obstacles(present, kept);
            if !obstacles.is_empty() {
                break;
            }
        }
        if obstacles.is_empty() {
            obstacles = self.looked_into(removal).await?;
        }
        if !obstacles.is_empty() {
            kept.add(removal);
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

    /// A last look into each queue that the figures call empty, delays before the input they feed. The broker lets
    /// nobody look into a stream, nor into a queue with a single active consumer.
    async fn looked_into(&self, removal: &Removal) -> Result<Vec<Change>, ManagementError> {
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
