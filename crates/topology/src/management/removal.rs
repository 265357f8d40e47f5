use std::collections::{BTreeMap, BTreeSet};

use super::actual::Actual;
use super::{Action, Change, Discards, Object};
use crate::{Desired, QueueClass};

/// Objects that are removed together or not at all, because messages travel between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Removal {
    pub program: String,
    pub kind: RemovalKind,
    /// In the order of their deletion: what feeds another goes before it.
    pub queues: Vec<Leaving>,
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

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaving {
    pub name: String,
    pub class: QueueClass,
    /// Messages that may be deleted with it.
    pub discard: u64,
}

/// What has to stay although it should go, as far as is decided.
#[derive(Debug, Default)]
pub(super) struct Blocked {
    programs: BTreeSet<String>,
    exchanges: BTreeSet<String>,
}

impl Blocked {
    pub fn add(&mut self, removal: &Removal) {
        self.programs.insert(removal.program.clone());
        self.exchanges.extend(removal.exchange.clone());
    }
}

/// The objects that the type no longer has, in the order of removal.
pub(super) fn removals(desired: &Desired, actual: &Actual, discards: &Discards) -> Vec<Removal> {
    let wanted: BTreeSet<&str> = desired
        .queues
        .iter()
        .map(|queue| queue.name.as_str())
        .collect();
    let mut stale: BTreeMap<&str, Vec<(QueueClass, &str)>> = BTreeMap::new();
    for queue in &actual.queues {
        if let Some((program, class)) = queue.owner()
            && !wanted.contains(queue.name.as_str())
        {
            stale.entry(program).or_default().push((class, &queue.name));
        }
    }
    let mut exchanges: BTreeMap<&str, &str> = BTreeMap::new();
    for exchange in &actual.exchanges {
        if let Some(program) = exchange.owner()
            && !desired
                .exchanges
                .iter()
                .any(|wanted| wanted.name == exchange.name)
        {
            exchanges.insert(program, &exchange.name);
            stale.entry(program).or_default();
        }
    }
    let mut removals: Vec<Removal> = stale
        .into_iter()
        .flat_map(|(program, queues)| {
            let exchange = exchanges.get(program).map(|&name| name.to_owned());
            removals_of(program, queues, exchange, discards)
        })
        .collect();
    removals.sort_by_key(|removal| removal.kind);
    removals
}

fn removals_of(
    program: &str,
    mut queues: Vec<(QueueClass, &str)>,
    exchange: Option<String>,
    discards: &Discards,
) -> Vec<Removal> {
    // Delays before the input, which they feed.
    queues.sort_by_key(|(class, _)| (*class == QueueClass::Input, *class));
    let removal = |kind, queues: &[(QueueClass, &str)], exchange| Removal {
        program: program.to_owned(),
        kind,
        queues: queues
            .iter()
            .map(|(class, name)| Leaving {
                name: (*name).to_owned(),
                class: *class,
                discard: discards.get(name).unwrap_or(0),
            })
            .collect(),
        exchange,
    };
    let input_goes = queues.iter().any(|(class, _)| *class == QueueClass::Input);
    let (working, keeping): (Vec<_>, Vec<_>) = queues.into_iter().partition(|(class, _)| {
        matches!(
            class,
            QueueClass::Input | QueueClass::Delay(_) | QueueClass::Lease
        )
    });
    let mut removals = Vec::new();
    if input_goes || exchange.is_some() {
        removals.push(removal(RemovalKind::Program, &working, exchange));
    } else {
        let each = working.iter();
        removals.extend(each.map(|queue| removal(RemovalKind::Delay, &[*queue], None)));
    }
    for queue in keeping {
        let kind = match queue.0 {
            QueueClass::Stream => RemovalKind::Stream,
            _ => RemovalKind::Quarantine,
        };
        removals.push(removal(kind, &[queue], None));
    }
    removals
}

impl Removal {
    /// Why it cannot be removed by these figures, one change for each queue in the way; empty when it can.
    pub fn obstacles(&self, actual: &Actual, blocked: &Blocked) -> Vec<Change> {
        let holding = self
            .queues
            .iter()
            .filter(|queue| actual.held(&queue.name) > queue.discard);
        let mut obstacles: Vec<Change> = holding
            .map(|queue| self.holds(&queue.name, actual.held(&queue.name)))
            .collect();
        let block = |reason: String| {
            let name = &self.queues[0].name;
            Change::new(Action::Blocked, Object::Queue, name, &reason)
        };
        if self.kind == RemovalKind::Quarantine && blocked.programs.contains(&self.program) {
            obstacles.push(block(format!("{} is not drained yet", self.program)));
        }
        if self.kind == RemovalKind::Stream {
            let writes = |binding: &&_| self.is_written_by(binding, blocked);
            if let Some(binding) = actual.bindings.iter().find(writes) {
                obstacles.push(block(format!("exchange {} still feeds it", binding.source)));
            }
        }
        obstacles
    }

    fn is_written_by(&self, binding: &super::actual::ActualBinding, blocked: &Blocked) -> bool {
        binding.destination == self.queues[0].name && blocked.exchanges.contains(&binding.source)
    }

    pub fn holds(&self, queue: &str, messages: u64) -> Change {
        let what = match messages {
            1 => "holds 1 message".to_owned(),
            n => format!("holds {n} messages"),
        };
        let program = &self.program;
        let advice = match self.kind {
            RemovalKind::Program => format!("let {program} finish and configure again"),
            RemovalKind::Delay => {
                "they go on when their time comes: configure again then".to_owned()
            }
            RemovalKind::Quarantine => "look at them: fleet quarantine list".to_owned(),
            RemovalKind::Stream => "the record of all runs".to_owned(),
        };
        let detail = format!("{what}; {advice}; or give them up with --discard {queue}={messages}");
        Change::new(Action::Blocked, Object::Queue, queue, &detail)
    }

    /// The changes of its removal.
    pub fn removed(&self, actual: &Actual) -> Vec<Change> {
        let queues = self.queues.iter().map(|queue| {
            let detail = match actual.held(&queue.name) {
                0 => "empty".to_owned(),
                n => format!("with its {n} messages, as told"),
            };
            Change::new(Action::Remove, Object::Queue, &queue.name, &detail)
        });
        let exchange = self.exchange.iter();
        let exchange =
            exchange.map(|name| Change::new(Action::Remove, Object::Exchange, name, "direct"));
        queues.chain(exchange).collect()
    }
}
