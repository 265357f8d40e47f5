use std::collections::BTreeMap;

use super::actual::Actual;
use super::objects::PlanStep;
use super::{BrokerChange, ChangeAction, Discards, Object};
use crate::{Desired, QueueClass};

/// Objects that are removed together or not at all, because messages travel between them.
#[derive(Debug)]
pub(super) struct Removal {
    pub program: String,
    pub kind: RemovalKind,
    /// In the order of their deletion: what feeds another goes before it.
    pub queues: Vec<UnwantedQueue>,
    pub exchange: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum RemovalKind {
    /// A program that the type no longer has: its delays, its input, its exchange. While one of them holds a
    /// message all stay, so that the program can finish its work.
    Program,
    /// A delay that the schedule no longer has.
    Delay,
    /// A quarantine; it stays while its program is not drained.
    Quarantine,
    /// A stream; it stays while an exchange that is not removed yet still feeds it.
    Stream,
}

#[derive(Debug)]
pub(super) struct UnwantedQueue {
    pub name: String,
    pub class: QueueClass,
    /// Messages that may be deleted with it.
    pub discard: u64,
}

/// What a program has that the type no longer has.
#[derive(Default)]
struct Unwanted {
    queues: Vec<UnwantedQueue>,
    exchange: Option<String>,
}

/// The objects that the type no longer has, in the order of removal.
pub(super) fn removals(desired: &Desired, actual: &Actual, discards: &Discards) -> Vec<Removal> {
    let mut programs: BTreeMap<&str, Unwanted> = BTreeMap::new();
    let queues = actual.queues.iter();
    for queue in queues.filter(|queue| !desired.has_queue(&queue.name)) {
        if let Some((program, class)) = queue.owner() {
            let name = queue.name.clone();
            let discard = discards.get(&name).copied().unwrap_or(0);
            let unwanted = programs.entry(program).or_default();
            unwanted.queues.push(UnwantedQueue {
                name,
                class,
                discard,
            });
        }
    }
    let exchanges = actual.exchanges.iter();
    for exchange in exchanges.filter(|exchange| !desired.has_exchange(&exchange.name)) {
        if let Some(program) = exchange.owner() {
            programs.entry(program).or_default().exchange = Some(exchange.name.clone());
        }
    }
    let programs = programs.into_iter();
    let mut removals: Vec<Removal> = programs
        .flat_map(|(program, unwanted)| unwanted.into_removals(program))
        .collect();
    removals.sort_by_key(|removal| removal.kind);
    removals
}

impl Unwanted {
    fn into_removals(mut self, program: &str) -> Vec<Removal> {
        let is_input = |queue: &UnwantedQueue| queue.class == QueueClass::Input;
        let program_goes = self.queues.iter().any(is_input) || self.exchange.is_some();
        // Delays before the input, which they feed.
        self.queues
            .sort_by_key(|queue| (is_input(queue), queue.class));
        let removal = |kind, queues, exchange| Removal {
            program: program.to_owned(),
            kind,
            queues,
            exchange,
        };
        let (mut together, mut removals) = (Vec::new(), Vec::new());
        for queue in self.queues {
            let kind = match queue.class {
                QueueClass::Quarantine => RemovalKind::Quarantine,
                QueueClass::Stream => RemovalKind::Stream,
                QueueClass::Input | QueueClass::Delay(_) | QueueClass::Lease if program_goes => {
                    together.push(queue);
                    continue;
                }
                QueueClass::Input | QueueClass::Delay(_) | QueueClass::Lease => RemovalKind::Delay,
            };
            removals.push(removal(kind, vec![queue], None));
        }
        if program_goes {
            removals.push(removal(RemovalKind::Program, together, self.exchange));
        }
        removals
    }
}

impl Removal {
    /// Why it cannot be removed by these figures, one change for each queue in the way; empty when it can. `blocked`
    /// are the removals that are not made either.
    pub fn obstacles(&self, actual: &Actual, blocked: &[&Self]) -> Vec<BrokerChange> {
        let queues = self.queues.iter();
        let mut obstacles: Vec<BrokerChange> = queues
            .filter_map(|queue| match actual.held(&queue.name) {
                Some(held) if held <= queue.discard => None,
                Some(held) => Some(self.holds(&queue.name, held)),
                None => Some(uncounted(&queue.name)),
            })
            .collect();
        let reason = match self.kind {
            RemovalKind::Program | RemovalKind::Delay => None,
            RemovalKind::Quarantine => blocked
                .iter()
                .find(|other| other.program == self.program)
                .map(|other| format!("{} is not drained yet", other.program)),
            RemovalKind::Stream => actual
                .bindings
                .iter()
                .filter(|binding| binding.destination == self.queues[0].name)
                .map(|binding| &binding.source)
                .find(|source| {
                    blocked
                        .iter()
                        .any(|other| other.exchange.as_ref() == Some(source))
                })
                .map(|source| format!("exchange {source} still feeds it")),
        };
        obstacles.extend(reason.map(|reason| {
            BrokerChange::new(
                ChangeAction::Blocked,
                Object::Queue,
                &self.queues[0].name,
                &reason,
            )
        }));
        obstacles
    }

    pub fn holds(&self, queue: &str, messages: u64) -> BrokerChange {
        let what = if messages == 1 { "message" } else { "messages" };
        let program = &self.program;
        let advice = match self.kind {
            RemovalKind::Program => &format!("let {program} finish and configure again"),
            RemovalKind::Delay => {
                "they return to the input when their time comes: configure again then"
            }
            RemovalKind::Quarantine => "see them with fleet quarantine list",
            RemovalKind::Stream => "the record of all runs",
        };
        let detail = format!(
            "holds {messages} {what}; {advice}; or give them up with --discard {queue}={messages}"
        );
        BrokerChange::new(ChangeAction::Blocked, Object::Queue, queue, &detail)
    }

    /// Its queues whose messages the broker has not counted.
    pub fn uncounted<'a>(&'a self, actual: &'a Actual) -> impl Iterator<Item = &'a str> {
        let names = self.queues.iter().map(|queue| queue.name.as_str());
        names.filter(|queue| actual.held(queue).is_none())
    }

    pub fn steps(&self) -> impl Iterator<Item = PlanStep> {
        let queues = self.queues.iter();
        let exchange = self.exchange.iter().cloned().map(PlanStep::DeleteExchange);
        queues
            .map(|queue| PlanStep::DeleteQueue(queue.name.clone()))
            .chain(exchange)
    }

    /// The changes of its removal.
    pub fn removed(&self, actual: &Actual) -> Vec<BrokerChange> {
        let queues = self.queues.iter().map(|queue| {
            let detail = match actual.held(&queue.name) {
                Some(0) => "empty".to_owned(),
                None => "not counted".to_owned(),
                Some(n) => format!("with its {n} messages, as --discard allows"),
            };
            BrokerChange::new(ChangeAction::Remove, Object::Queue, &queue.name, &detail)
        });
        let exchange = self
            .exchange
            .iter()
            .map(|name| BrokerChange::new(ChangeAction::Remove, Object::Exchange, name, "direct"));
        queues.chain(exchange).collect()
    }
}

/// The obstacle that a queue may hold any number of messages.
fn uncounted(queue: &str) -> BrokerChange {
    let detail = "the broker does not say how many messages it holds: configure again in some seconds, or let the \
                  broker count (management_agent.disable_metrics_collector = false)";
    BrokerChange::new(ChangeAction::Blocked, Object::Queue, queue, detail)
}
