use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::present::{Present, PresentPolicy, PresentQueue};
use super::removal::{self, Removal, Replacement};
use super::{Change, ManagementError, Object};
use crate::topology::{
    Arguments, Binding, Desired, Exchange, POLICY_PRIORITY, Policy, Queue, policy_name,
};

/// What is done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    Create,
    Update,
    /// Deleted and declared again, because the broker cannot change it.
    Replace,
    Remove,
    /// Not as it should be, and left alone for the reason given.
    Keep,
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

/// What is to be done so that a virtual host has what is desired, in this order.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub policies: Vec<(Policy, Change)>,
    pub queues: Vec<Queue>,
    pub exchanges: Vec<Exchange>,
    pub bindings: Vec<Binding>,
    pub unbind: Vec<Binding>,
    pub replacements: Vec<Replacement>,
    pub removals: Vec<Removal>,
    pub marker: Option<Change>,
    /// What stands in the way and is not the fleet's to change.
    pub hidden: Vec<Change>,
}

pub(super) fn plan(
    desired: &Desired,
    present: &Present,
    discards: &Discards,
) -> Result<Plan, ManagementError> {
    refuse_strangers(desired, present)?;
    let mut plan = Plan {
        policies: policies(desired, present),
        removals: removal::removals(desired, present, discards),
        marker: marker(desired, present),
        hidden: hidden(desired, present),
        ..Plan::default()
    };
    for queue in &desired.queues {
        match present.queue(&queue.name) {
            None => plan.queues.push(queue.clone()),
            Some(found) if found.arguments != queue.arguments => {
                let differs = difference(&found.arguments, &queue.arguments);
                plan.replacements
                    .push(Replacement::new(queue, desired, differs, discards));
            }
            Some(_) => {}
        }
    }
    let missing = |exchange: &&Exchange| present.exchange(&exchange.name).is_none();
    plan.exchanges = desired.exchanges.iter().filter(missing).cloned().collect();
    let bound: BTreeSet<Binding> = present.bindings.iter().filter_map(|b| b.plain()).collect();
    let wanted: BTreeSet<Binding> = desired.bindings.iter().cloned().collect();
    let unbound = |binding: &&Binding| !bound.contains(binding);
    plan.bindings = desired.bindings.iter().filter(unbound).cloned().collect();
    plan.unbind = bound
        .into_iter()
        .filter(|binding| !wanted.contains(binding) && is_own(binding, desired, present))
        .collect();
    check_discards(&plan, desired, present, discards)?;
    Ok(plan)
}

impl Plan {
    /// Whether a program that starts meanwhile would find something missing.
    pub fn disturbs(&self, present: &Present) -> bool {
        let replaces = |replacement: &Replacement| replacement.obstacle(present).is_none();
        self.marker.is_some()
            || !self.queues.is_empty()
            || !self.exchanges.is_empty()
            || !self.bindings.is_empty()
            || !self.unbind.is_empty()
            || self.replacements.iter().any(replaces)
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

/// Fails when a name that the pipeline needs belongs to something that is not the fleet's.
fn refuse_strangers(desired: &Desired, present: &Present) -> Result<(), ManagementError> {
    let queues = desired.queues.iter().filter_map(|queue| {
        let found = present.queue(&queue.name)?;
        let own = found
            .owner()
            .is_some_and(|(program, _)| program == queue.program);
        (!own).then(|| format!("queue {}", queue.name))
    });
    let exchanges = desired.exchanges.iter().filter_map(|exchange| {
        let found = present.exchange(&exchange.name)?;
        found
            .owner()
            .is_none()
            .then(|| format!("exchange {}", exchange.name))
    });
    let policies = desired.policies.iter().filter_map(|policy| {
        let found = present
            .policies
            .iter()
            .find(|found| found.name == policy.name)?;
        (!found.is_own()).then(|| format!("policy {}", policy.name))
    });
    let marker = present.exchange(&desired.marker.name);
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
            vhost: present.vhost.clone(),
            taken,
        }),
    }
}

fn policies(desired: &Desired, present: &Present) -> Vec<(Policy, Change)> {
    let change = |policy: &Policy| {
        let found = present
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

/// Own policies that no queue needs any more, when `removed` queues are gone.
pub(super) fn spare_policies(
    desired: &Desired,
    present: &Present,
    removed: &BTreeSet<String>,
) -> Vec<Change> {
    let stays = |queue: &&PresentQueue| !removed.contains(&queue.name);
    let needed: BTreeSet<String> = present
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
    let spare = |policy: &&PresentPolicy| policy.is_own() && !needed.contains(&policy.name);
    let spare = present.policies.iter().filter(spare);
    spare
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

/// A binding that the fleet made: from an exchange of a program that stays, to a queue of the fleet. Those
/// of a program that goes stay until it is drained, and go with its exchange.
fn is_own(binding: &Binding, desired: &Desired, present: &Present) -> bool {
    let source_stays = desired
        .exchanges
        .iter()
        .any(|exchange| exchange.name == binding.exchange);
    let own_queue = present
        .queue(&binding.queue)
        .is_some_and(|queue| queue.owner().is_some());
    source_stays && own_queue
}

fn marker(desired: &Desired, present: &Present) -> Option<Change> {
    let name = &desired.marker.name;
    let change = |action, detail: &str| Some(Change::new(action, Object::Pipeline, name, detail));
    match present.pipeline() {
        Some(found) if desired.is_nothing() => change(Action::Remove, found),
        None if desired.is_nothing() => None,
        None => change(Action::Create, &desired.pipeline),
        Some(found) if found != desired.pipeline => {
            change(Action::Update, &format!("{found} -> {}", desired.pipeline))
        }
        Some(_) => None,
    }
}

/// Policies of others that keep the fleet's from being applied. The live figure alone would be too old to
/// believe just after a change, so the priority has to say the same.
fn hidden(desired: &Desired, present: &Present) -> Vec<Change> {
    let hides = |queue: &Queue| {
        let applied = present.queue(&queue.name)?.policy.as_deref()?;
        let own = policy_name(&queue.program, queue.class);
        let other = present
            .policies
            .iter()
            .find(|policy| policy.name == applied)?;
        let stronger = applied != own && other.priority >= POLICY_PRIORITY;
        let detail = format!(
            "hidden on queue {} by policy {applied} of priority {}: lower that below {POLICY_PRIORITY}",
            queue.name, other.priority
        );
        stronger.then(|| Change::new(Action::Keep, Object::Policy, &own, &detail))
    };
    desired.queues.iter().filter_map(hides).collect()
}

fn check_discards(
    plan: &Plan,
    desired: &Desired,
    present: &Present,
    discards: &Discards,
) -> Result<(), ManagementError> {
    let leaving = plan.removals.iter().flat_map(|removal| &removal.queues);
    let replaced = plan
        .replacements
        .iter()
        .map(|replacement| &replacement.queue.name);
    let going: BTreeSet<&str> = leaving
        .map(|leaving| leaving.name.as_str())
        .chain(replaced.map(String::as_str))
        .collect();
    for (queue, &named) in &discards.0 {
        let held = present.held(queue);
        if going.contains(queue.as_str()) && held != named {
            return Err(ManagementError::DiscardCount {
                queue: queue.clone(),
                named,
                present: held,
            });
        }
        if !going.contains(queue.as_str()) {
            let hint = match present.queue(queue) {
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
