use std::collections::{BTreeMap, BTreeSet};

use super::present::Present;
use super::{Action, Change, Discards, Object};
use crate::names;
use crate::topology::{Binding, Desired, Queue, QueueClass};

/// Objects that go together or not at all, because messages travel between them.
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
    /// A program that the type no longer has: its delays, its input, its exchange. While a message is in any of
    /// them all stay, so that the program can finish its work.
    Program,
    /// A delay that the ladder no longer has.
    Delay,
    /// A quarantine, which a program that stays for a while may still need.
    Quarantine,
    /// A stream, which exchanges that stay for a while may still feed.
    Stream,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaving {
    pub name: String,
    pub class: QueueClass,
    /// Messages that may be thrown away with it.
    pub discard: u64,
}

/// A queue with other arguments than it should have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Replacement {
    pub queue: Queue,
    /// The arguments, as they are and as they should be.
    pub differs: String,
    pub discard: u64,
    /// The programs that must not run meanwhile: a message that comes between the deletion of the queue and its
    /// new declaration would reach the other readers of that output alone.
    pub stopped: Vec<String>,
    pub bindings: Vec<Binding>,
}

/// What stays although it should go, as far as is decided.
#[derive(Debug, Default)]
pub(super) struct Kept {
    programs: BTreeSet<String>,
    exchanges: BTreeSet<String>,
}

impl Kept {
    pub fn add(&mut self, removal: &Removal) {
        self.programs.insert(removal.program.clone());
        self.exchanges.extend(removal.exchange.clone());
    }
}

/// What the type no longer has, in the order of removal.
pub(super) fn removals(desired: &Desired, present: &Present, discards: &Discards) -> Vec<Removal> {
    let wanted: BTreeSet<&str> = desired
        .queues
        .iter()
        .map(|queue| queue.name.as_str())
        .collect();
    let mut stale: BTreeMap<&str, Vec<(QueueClass, &str)>> = BTreeMap::new();
    for queue in &present.queues {
        if let Some((program, class)) = queue.owner()
            && !wanted.contains(queue.name.as_str())
        {
            stale.entry(program).or_default().push((class, &queue.name));
        }
    }
    let mut exchanges: BTreeMap<&str, &str> = BTreeMap::new();
    for exchange in &present.exchanges {
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
            of_program(program, queues, exchange, discards)
        })
        .collect();
    removals.sort_by_key(|removal| removal.kind);
    removals
}

fn of_program(
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
    /// Why it has to stay, one change for each queue in the way; empty when it can go, by these figures.
    pub fn obstacles(&self, present: &Present, kept: &Kept) -> Vec<Change> {
        let holding = self
            .queues
            .iter()
            .filter(|queue| present.held(&queue.name) > queue.discard);
        let mut obstacles: Vec<Change> = holding
            .map(|queue| self.holds(&queue.name, present.held(&queue.name)))
            .collect();
        let keep = |reason: String| {
            let name = &self.queues[0].name;
            Change::new(Action::Keep, Object::Queue, name, &reason)
        };
        if self.kind == RemovalKind::Quarantine && kept.programs.contains(&self.program) {
            obstacles.push(keep(format!("{} is not drained yet", self.program)));
        }
        if self.kind == RemovalKind::Stream {
            let writes = |binding: &&_| self.is_written_by(binding, kept);
            if let Some(binding) = present.bindings.iter().find(writes) {
                obstacles.push(keep(format!("exchange {} still feeds it", binding.source)));
            }
        }
        obstacles
    }

    fn is_written_by(&self, binding: &super::present::PresentBinding, kept: &Kept) -> bool {
        binding.destination == self.queues[0].name && kept.exchanges.contains(&binding.source)
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
        Change::new(Action::Keep, Object::Queue, queue, &detail)
    }

    /// The changes when it goes.
    pub fn removed(&self, present: &Present) -> Vec<Change> {
        let queues = self.queues.iter().map(|queue| {
            let detail = match present.held(&queue.name) {
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

impl Replacement {
    pub fn new(queue: &Queue, desired: &Desired, differs: String, discards: &Discards) -> Self {
        let feeds = |binding: &&Binding| binding.queue == queue.name;
        let bindings: Vec<Binding> = desired.bindings.iter().filter(feeds).cloned().collect();
        let writes = |program: &str| {
            let exchange = names::output_exchange(program);
            bindings.iter().any(|binding| binding.exchange == exchange)
        };
        let mut stopped: Vec<String> = Vec::new();
        for other in &desired.queues {
            let near = other.program == queue.program || writes(&other.program);
            if other.class == QueueClass::Input && near {
                stopped.push(other.program.clone());
            }
        }
        Self {
            queue: queue.clone(),
            differs,
            discard: discards.get(&queue.name).unwrap_or(0),
            stopped,
            bindings,
        }
    }

    /// Why it cannot be replaced, by these figures.
    pub fn obstacle(&self, present: &Present) -> Option<Change> {
        let held = present.held(&self.queue.name);
        if held > self.discard {
            return Some(self.holds(held));
        }
        let runs = |program: &&String| present.consumers(&names::input_queue(program)) > 0;
        let running: Vec<&str> = self
            .stopped
            .iter()
            .filter(runs)
            .map(String::as_str)
            .collect();
        let stop = format!("stop {} and configure again", running.join(" and "));
        (!running.is_empty()).then(|| self.keep(&stop))
    }

    pub fn holds(&self, messages: u64) -> Change {
        let name = &self.queue.name;
        self.keep(&format!(
            "it holds {messages} messages: let them be worked off and configure again, or give them up \
             with --discard {name}={messages}"
        ))
    }

    fn keep(&self, advice: &str) -> Change {
        let detail = format!("the broker cannot change {}; {advice}", self.differs);
        Change::new(Action::Keep, Object::Queue, &self.queue.name, &detail)
    }

    pub fn replaced(&self) -> Change {
        Change::new(
            Action::Replace,
            Object::Queue,
            &self.queue.name,
            &self.differs,
        )
    }
}
