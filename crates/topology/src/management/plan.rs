use std::collections::{BTreeMap, BTreeSet};

use super::actual::Actual;
use super::objects::PlanStep;
use super::removal::{self, Removal};
use super::{BrokerChange, ChangeAction, ManagementError, Object};
use crate::desired::POLICY_PRIORITY;
use crate::{Binding, Desired, DesiredQueue, Exchange, ObjectArguments, Policy};

/// Queues whose messages may be thrown away, each with the number of messages that it holds.
pub type Discards = BTreeMap<String, u64>;

/// Reads `QUEUE=COUNT`, an entry of [`Discards`].
pub fn parse_discard(text: &str) -> Result<(String, u64), String> {
    let (queue, count) = text
        .split_once('=')
        .ok_or("write QUEUE=COUNT, with the number of messages that the queue holds")?;
    let count = count
        .parse()
        .map_err(|_| format!("{count:?} is not a number of messages"))?;
    Ok((queue.to_owned(), count))
}

/// What leads from the actual to the desired objects of a virtual host, in this order.
#[derive(Debug)]
pub(super) struct Plan {
    /// All that takes no message away. Policies come first, so that a queue never exists without its limit and the
    /// target of its dead letters.
    pub steps: Vec<PlannedChange>,
    pub removals: Vec<Removal>,
    pub marker: Option<BrokerChange>,
    /// Policies that have no effect, because a foreign one is stronger.
    pub shadowed: Vec<BrokerChange>,
}

/// A step, and what it changes.
#[derive(Debug)]
pub(super) struct PlannedChange {
    pub step: PlanStep,
    pub change: BrokerChange,
}

impl Plan {
    /// Whether a program that starts meanwhile would find something missing.
    pub fn disturbs(&self) -> bool {
        let mut steps = self.steps.iter();
        self.marker.is_some()
            || steps.any(|planned| !matches!(planned.step, PlanStep::PutPolicy(_)))
    }
}

pub(super) fn plan(
    desired: &Desired,
    actual: &Actual,
    discards: &Discards,
) -> Result<Plan, ManagementError> {
    refuse_foreign(desired, actual)?;
    refuse_changed_arguments(desired, actual)?;
    let removals = removal::removals(desired, actual, discards);
    check_discards(&removals, desired, actual, discards)?;
    let steps = [policies, queues, exchanges, bindings].map(|steps| steps(desired, actual));
    Ok(Plan {
        steps: steps.into_iter().flatten().collect(),
        removals,
        marker: marker(desired, actual),
        shadowed: shadowed(desired, actual),
    })
}

/// Fails when a name that the pipeline needs belongs to a foreign object.
fn refuse_foreign(desired: &Desired, actual: &Actual) -> Result<(), ManagementError> {
    let queues = desired.queues.iter().filter_map(|queue| {
        let owner = actual.queue(&queue.name)?.owner();
        let own = owner.is_some_and(|(program, _)| program == queue.program);
        (!own).then(|| format!("queue {}", queue.name))
    });
    let exchanges = desired.exchanges.iter().filter_map(|exchange| {
        let found = actual.exchange(&exchange.name)?;
        (found.owner().is_none()).then(|| format!("exchange {}", exchange.name))
    });
    let policies = desired.policies.iter().filter_map(|policy| {
        let found = actual.policy(&policy.name)?;
        (!found.is_own()).then(|| format!("policy {}", policy.name))
    });
    let marker = actual.exchange(&desired.marker.name);
    let marker = marker
        .filter(|found| found.pipeline().is_none())
        .map(|found| format!("exchange {}", found.name));
    let taken: Vec<String> = queues
        .chain(exchanges)
        .chain(policies)
        .chain(marker)
        .collect();
    if taken.is_empty() {
        return Ok(());
    }
    let vhost = actual.vhost.clone();
    Err(ManagementError::NamesTaken { vhost, taken })
}

/// Fails when a queue that the pipeline needs has other arguments: the broker never changes them.
fn refuse_changed_arguments(desired: &Desired, actual: &Actual) -> Result<(), ManagementError> {
    let changed = desired.queues.iter().filter_map(|queue| {
        let found = actual.queue(&queue.name)?;
        let differs = difference(&found.arguments, &queue.arguments);
        (!differs.is_empty()).then(|| format!("{} ({differs})", queue.name))
    });
    let queues: Vec<String> = changed.collect();
    if queues.is_empty() {
        return Ok(());
    }
    let configured = actual.pipeline().unwrap_or(&desired.pipeline);
    Err(ManagementError::ArgumentsChanged {
        pipeline: configured.to_owned(),
        queues,
    })
}

fn check_discards(
    removals: &[Removal],
    desired: &Desired,
    actual: &Actual,
    discards: &Discards,
) -> Result<(), ManagementError> {
    for (queue, &named) in discards {
        let held = actual.held(queue);
        let mut going = removals.iter().flat_map(|removal| &removal.queues);
        let is_going = going.any(|going| going.name == *queue);
        let queue = queue.clone();
        match held {
            Some(held) if is_going && held != named => {
                return Err(ManagementError::DiscardCount { queue, named, held });
            }
            None if is_going => {
                let queues = vec![queue];
                return Err(ManagementError::NotCounted { queues });
            }
            Some(_) | None => {}
        }
        if !is_going {
            let hint = match actual.queue(&queue) {
                None => "there is no such queue".to_owned(),
                Some(found) if found.owner().is_none() => "it is not the fleet's".to_owned(),
                Some(_) => format!("pipeline {} has it", desired.pipeline),
            };
            return Err(ManagementError::DiscardNotRemoved { queue, hint });
        }
    }
    Ok(())
}

fn policies(desired: &Desired, actual: &Actual) -> Vec<PlannedChange> {
    let step = |policy: &Policy| {
        let (action, detail) = match actual.policy(&policy.name) {
            None => (ChangeAction::Create, policy.pattern.clone()),
            Some(found) if found.priority != policy.priority => {
                let detail = format!("priority {} -> {}", found.priority, policy.priority);
                (ChangeAction::Update, detail)
            }
            Some(found) if found.definition != policy.definition => {
                let detail = difference(&found.definition, &policy.definition);
                (ChangeAction::Update, detail)
            }
            Some(_) => return None,
        };
        Some(PlannedChange {
            step: PlanStep::PutPolicy(policy.clone()),
            change: BrokerChange::new(action, Object::Policy, &policy.name, &detail),
        })
    };
    desired.policies.iter().filter_map(step).collect()
}

fn queues(desired: &Desired, actual: &Actual) -> Vec<PlannedChange> {
    let absent = |queue: &&DesiredQueue| actual.queue(&queue.name).is_none();
    let queues = desired.queues.iter().filter(absent).map(|queue| {
        let kind = queue.arguments["x-queue-type"].as_str().unwrap_or_default();
        PlannedChange {
            step: PlanStep::PutQueue(queue.clone()),
            change: BrokerChange::new(ChangeAction::Create, Object::Queue, &queue.name, kind),
        }
    });
    queues.collect()
}

fn exchanges(desired: &Desired, actual: &Actual) -> Vec<PlannedChange> {
    let absent = |exchange: &&Exchange| actual.exchange(&exchange.name).is_none();
    let exchanges = desired.exchanges.iter().filter(absent).map(|exchange| {
        let (name, kind) = (&exchange.name, exchange.kind);
        PlannedChange {
            step: PlanStep::PutExchange(exchange.clone()),
            change: BrokerChange::new(ChangeAction::Create, Object::Exchange, name, kind),
        }
    });
    exchanges.collect()
}

/// Only bindings that the fleet made are removed: from an exchange of a program that stays, to a queue of the fleet.
/// Those of a program that goes stay until it is drained, and are deleted with its exchange.
fn bindings(desired: &Desired, actual: &Actual) -> Vec<PlannedChange> {
    let bound: BTreeSet<Binding> = actual.bindings.iter().filter_map(|b| b.plain()).collect();
    let missing = desired
        .bindings
        .iter()
        .filter(|binding| !bound.contains(binding));
    let is_own = |binding: &Binding| {
        let queue = actual.queue(&binding.queue);
        desired.has_exchange(&binding.exchange)
            && queue.is_some_and(|queue| queue.owner().is_some())
    };
    let surplus = bound
        .iter()
        .filter(|binding| !desired.bindings.contains(binding) && is_own(binding));
    let change = |action,
                  Binding {
                      exchange,
                      output,
                      queue,
                  }: &Binding| {
        let name = format!("{exchange} -> {queue}");
        BrokerChange::new(action, Object::Binding, &name, output)
    };
    let bind = missing.map(|binding| PlannedChange {
        step: PlanStep::Bind(binding.clone()),
        change: change(ChangeAction::Create, binding),
    });
    let unbind = surplus.map(|binding| PlannedChange {
        step: PlanStep::Unbind(binding.clone()),
        change: change(ChangeAction::Remove, binding),
    });
    bind.chain(unbind).collect()
}

/// The fleet's policies that no queue needs any more, once the queues of `removed` are gone.
pub(super) fn unused_policies(
    desired: &Desired,
    actual: &Actual,
    removed: &[&Removal],
) -> Vec<BrokerChange> {
    let gone: Vec<&String> = removed
        .iter()
        .flat_map(|removal| removal.queues.iter().map(|queue| &queue.name))
        .collect();
    let staying = actual
        .queues
        .iter()
        .filter(|queue| !gone.contains(&&queue.name));
    let needed: BTreeSet<String> = staying
        .filter_map(|queue| queue.owner())
        .map(|(program, class)| class.policy(program))
        .chain(desired.policies.iter().map(|policy| policy.name.clone()))
        .collect();
    let policies = actual.policies.iter();
    policies
        .filter(|policy| policy.is_own() && !needed.contains(&policy.name))
        .map(|policy| {
            let (name, pattern) = (&policy.name, &policy.pattern);
            BrokerChange::new(ChangeAction::Remove, Object::Policy, name, pattern)
        })
        .collect()
}

fn marker(desired: &Desired, actual: &Actual) -> Option<BrokerChange> {
    let wanted = &desired.pipeline;
    let (action, detail) = match (actual.pipeline(), desired.is_nothing()) {
        (Some(found), true) => (ChangeAction::Remove, found.to_owned()),
        (None, true) => return None,
        (None, false) => (ChangeAction::Create, wanted.clone()),
        (Some(found), false) if found == wanted => return None,
        (Some(found), false) => (ChangeAction::Update, format!("{found} -> {wanted}")),
    };
    let name = &desired.marker.name;
    Some(BrokerChange::new(action, Object::Pipeline, name, &detail))
}

/// The fleet's policies that a foreign one of higher priority keeps from being applied. The applied policy that
/// the broker reports is some seconds old, so the priorities have to agree.
fn shadowed(desired: &Desired, actual: &Actual) -> Vec<BrokerChange> {
    let shadowing = |queue: &DesiredQueue| {
        let applied = actual.queue(&queue.name)?.policy.as_deref()?;
        let own = queue.class.policy(&queue.program);
        let priority = actual.policy(applied)?.priority;
        let stronger = applied != own && priority >= POLICY_PRIORITY;
        let detail = format!(
            "shadowed on queue {} by policy {applied} of priority {priority}: lower that below {POLICY_PRIORITY}",
            queue.name
        );
        stronger.then(|| BrokerChange::new(ChangeAction::Blocked, Object::Policy, &own, &detail))
    };
    desired.queues.iter().filter_map(shadowing).collect()
}

/// `delivery-limit 20 -> 5, overflow absent -> reject-publish`; empty when both are the same.
fn difference(found: &ObjectArguments, wanted: &ObjectArguments) -> String {
    let keys: BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    let text = |arguments: &ObjectArguments, key: &str| match arguments.get(key) {
        None => "absent".to_owned(),
        Some(serde_json::Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let differing = keys
        .into_iter()
        .filter(|key| found.get(*key) != wanted.get(*key));
    let parts: Vec<String> = differing
        .map(|key| format!("{key} {} -> {}", text(found, key), text(wanted, key)))
        .collect();
    parts.join(", ")
}
