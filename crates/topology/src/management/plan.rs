use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::actual::{Actual, ActualPolicy, ActualQueue};
use super::removal::{self, Removal};
use super::{Change, ManagementError, Object};
use crate::{Arguments, Binding, Desired, Exchange, POLICY_PRIORITY, Policy, Queue, policy_name};

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Update,
    Remove,
    /// Not as it should be, and left alone for the reason given.
    Blocked,
}

/// Queues whose messages may be thrown away, each with the number of messages that it holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Discards(BTreeMap<String, u64>);

impl Discards {
    pub fn none() -> Self {
        Self::default()
    }

    pub fn get(&self, queue: &str) -> Option<u64> {
        self.0.get(queue).copied()
    }
}

impl FromIterator<(String, u64)> for Discards {
    fn from_iter<I: IntoIterator<Item = (String, u64)>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}

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

/// The steps from the actual to the desired objects of a virtual host, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub policies: Vec<(Policy, Change)>,
    pub queues: Vec<Queue>,
    pub exchanges: Vec<Exchange>,
    pub bindings: Vec<Binding>,
    pub unbind: Vec<Binding>,
    pub removals: Vec<Removal>,
    pub marker: Option<Change>,
    /// Policies that have no effect, because a foreign one is stronger.
    pub shadowed: Vec<Change>,
}

pub(super) fn plan(
    desired: &Desired,
    actual: &Actual,
    discards: &Discards,
) -> Result<Plan, ManagementError> {
    refuse_foreign(desired, actual)?;
    refuse_changed_arguments(desired, actual)?;
    let mut plan = Plan {
        policies: policies(desired, actual),
        removals: removal::removals(desired, actual, discards),
        marker: marker(desired, actual),
        shadowed: shadowed(desired, actual),
        ..Plan::default()
    };
    let absent = |queue: &&Queue| actual.queue(&queue.name).is_none();
    plan.queues = desired.queues.iter().filter(absent).cloned().collect();
    let missing = |exchange: &&Exchange| actual.exchange(&exchange.name).is_none();
    plan.exchanges = desired.exchanges.iter().filter(missing).cloned().collect();
    let bound: BTreeSet<Binding> = actual.bindings.iter().filter_map(|b| b.plain()).collect();
    let wanted: BTreeSet<Binding> = desired.bindings.iter().cloned().collect();
    let unbound = |binding: &&Binding| !bound.contains(binding);
    plan.bindings = desired.bindings.iter().filter(unbound).cloned().collect();
    plan.unbind = bound
        .into_iter()
        .filter(|binding| !wanted.contains(binding) && is_own(binding, desired, actual))
        .collect();
    check_discards(&plan, desired, actual, discards)?;
    Ok(plan)
}

impl Plan {
    /// Whether a program that starts meanwhile would find something missing.
    pub fn disturbs(&self) -> bool {
        self.marker.is_some()
            || !self.queues.is_empty()
            || !self.exchanges.is_empty()
            || !self.bindings.is_empty()
            || !self.unbind.is_empty()
    }

    pub fn created(&self) -> Vec<Change> {
        let queues = self.queues.iter().map(|queue| {
            let kind = queue
                .arguments
                .get("x-queue-type")
                .and_then(|kind| kind.as_str());
            Change::new(
                Action::Create,
                Object::Queue,
                &queue.name,
                kind.unwrap_or_default(),
            )
        });
        let exchanges = self.exchanges.iter();
        let exchanges =
            exchanges.map(|e| Change::new(Action::Create, Object::Exchange, &e.name, e.kind));
        let bindings = self.bindings.iter().map(|b| binding(Action::Create, b));
        queues.chain(exchanges).chain(bindings).collect()
    }

    pub fn unbound(&self) -> Vec<Change> {
        self.unbind
            .iter()
            .map(|b| binding(Action::Remove, b))
            .collect()
    }
}

fn binding(action: Action, binding: &Binding) -> Change {
    let name = format!("{} -> {}", binding.exchange, binding.queue);
    Change::new(action, Object::Binding, &name, &binding.output)
}

/// Fails when a name that the pipeline needs belongs to a foreign object.
fn refuse_foreign(desired: &Desired, actual: &Actual) -> Result<(), ManagementError> {
    let queues = desired.queues.iter().filter_map(|queue| {
        let found = actual.queue(&queue.name)?;
        let own = found
            .owner()
            .is_some_and(|(program, _)| program == queue.program);
        (!own).then(|| format!("queue {}", queue.name))
    });
    let exchanges = desired.exchanges.iter().filter_map(|exchange| {
        let found = actual.exchange(&exchange.name)?;
        found
            .owner()
            .is_none()
            .then(|| format!("exchange {}", exchange.name))
    });
    let policies = desired.policies.iter().filter_map(|policy| {
        let found = actual
            .policies
            .iter()
            .find(|found| found.name == policy.name)?;
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
    match taken.is_empty() {
        true => Ok(()),
        false => Err(ManagementError::NamesTaken {
            vhost: actual.vhost.clone(),
            taken,
        }),
    }
}

/// Fails when a queue that the pipeline needs has other arguments: the broker never changes them.
fn refuse_changed_arguments(desired: &Desired, actual: &Actual) -> Result<(), ManagementError> {
    let changed = desired.queues.iter().filter_map(|queue| {
        let found = actual.queue(&queue.name)?;
        let differs = difference(&found.arguments, &queue.arguments);
        (found.arguments != queue.arguments).then(|| format!("{} ({differs})", queue.name))
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

fn policies(desired: &Desired, actual: &Actual) -> Vec<(Policy, Change)> {
    let change = |policy: &Policy| {
        let found = actual
            .policies
            .iter()
            .find(|found| found.name == policy.name);
        let change = |action, detail: &str| {
            Some((
                policy.clone(),
                Change::new(action, Object::Policy, &policy.name, detail),
            ))
        };
        match found {
            None => change(Action::Create, &policy.pattern),
            Some(found) if found.priority != policy.priority => {
                let detail = format!("priority {} -> {}", found.priority, policy.priority);
                change(Action::Update, &detail)
            }
            Some(found) if found.definition != policy.definition => {
                let detail = difference(&found.definition, &policy.definition);
                change(Action::Update, &detail)
            }
            Some(_) => None,
        }
    };
    desired.policies.iter().filter_map(change).collect()
}

/// The fleet's policies that no queue needs any more, once the `removed` queues are gone.
pub(super) fn unused_policies(
    desired: &Desired,
    actual: &Actual,
    removed: &BTreeSet<String>,
) -> Vec<Change> {
    let stays = |queue: &&ActualQueue| !removed.contains(&queue.name);
    let needed: BTreeSet<String> = actual
        .queues
        .iter()
        .filter(stays)
        .filter_map(|queue| {
            queue
                .owner()
                .map(|(program, class)| policy_name(program, class))
        })
        .chain(desired.policies.iter().map(|policy| policy.name.clone()))
        .collect();
    let is_unused = |policy: &&ActualPolicy| policy.is_own() && !needed.contains(&policy.name);
    let unused = actual.policies.iter().filter(is_unused);
    unused
        .map(|policy| {
            Change::new(
                Action::Remove,
                Object::Policy,
                &policy.name,
                &policy.pattern,
            )
        })
        .collect()
}

/// A binding that the fleet made: from an exchange of a program that stays, to a queue of the fleet. The bindings
/// of a program that goes stay until it is drained, and are deleted with its exchange.
fn is_own(binding: &Binding, desired: &Desired, actual: &Actual) -> bool {
    let source_stays = desired
        .exchanges
        .iter()
        .any(|exchange| exchange.name == binding.exchange);
    let own_queue = actual
        .queue(&binding.queue)
        .is_some_and(|queue| queue.owner().is_some());
    source_stays && own_queue
}

fn marker(desired: &Desired, actual: &Actual) -> Option<Change> {
    let name = &desired.marker.name;
    let change = |action, detail: &str| Some(Change::new(action, Object::Pipeline, name, detail));
    match actual.pipeline() {
        Some(found) if desired.is_nothing() => change(Action::Remove, found),
        None if desired.is_nothing() => None,
        None => change(Action::Create, &desired.pipeline),
        Some(found) if found != desired.pipeline => {
            change(Action::Update, &format!("{found} -> {}", desired.pipeline))
        }
        Some(_) => None,
    }
}

/// The fleet's policies that a foreign one of higher priority keeps from being applied. The applied policy that
/// the broker reports is some seconds old, so the priorities have to say the same.
fn shadowed(desired: &Desired, actual: &Actual) -> Vec<Change> {
    let shadowing = |queue: &Queue| {
        let applied = actual.queue(&queue.name)?.policy.as_deref()?;
        let own = policy_name(&queue.program, queue.class);
        let other = actual
            .policies
            .iter()
            .find(|policy| policy.name == applied)?;
        let stronger = applied != own && other.priority >= POLICY_PRIORITY;
        let detail = format!(
            "shadowed on queue {} by policy {applied} of priority {}: lower that below {POLICY_PRIORITY}",
            queue.name, other.priority
        );
        stronger.then(|| Change::new(Action::Blocked, Object::Policy, &own, &detail))
    };
    desired.queues.iter().filter_map(shadowing).collect()
}

fn check_discards(
    plan: &Plan,
    desired: &Desired,
    actual: &Actual,
    discards: &Discards,
) -> Result<(), ManagementError> {
    let leaving = plan.removals.iter().flat_map(|removal| &removal.queues);
    let going: BTreeSet<&str> = leaving.map(|leaving| leaving.name.as_str()).collect();
    for (queue, &named) in &discards.0 {
        let held = actual.held(queue);
        if going.contains(queue.as_str()) && held != named {
            return Err(ManagementError::DiscardCount {
                queue: queue.clone(),
                named,
                held,
            });
        }
        if !going.contains(queue.as_str()) {
            let hint = match actual.queue(queue) {
                None => "there is no such queue".to_owned(),
                Some(found) if found.owner().is_none() => "it is not the fleet's".to_owned(),
                Some(_) => format!("pipeline {} has it", desired.pipeline),
            };
            let queue = queue.clone();
            return Err(ManagementError::DiscardNotRemoved { queue, hint });
        }
    }
    Ok(())
}

/// `delivery-limit 20 -> 5, overflow absent -> reject-publish`.
fn difference(found: &Arguments, wanted: &Arguments) -> String {
    let keys: BTreeSet<&String> = found.keys().chain(wanted.keys()).collect();
    let text = |arguments: &Arguments, key: &str| match arguments.get(key) {
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
