use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::names::{POLICY_PRIORITY, policy_name, policy_pattern};
use super::{PIPELINE_ARGUMENT, PROGRAM_ARGUMENT, PipelineSettings, Program, QueueClass, Topology};
use pipeline::{RetrySchedule, RoleKind, names};

/// Arguments of a queue or an exchange, as the broker lists them.
pub type Arguments = BTreeMap<String, Value>;

/// Deliveries allowed to a message in quarantine. Each look of an operator counts as a delivery. Brokers since 4.0
/// drop a message after 20 unless a limit is set, and those before have no way to say "never".
const QUARANTINE_DELIVERIES: u32 = 1_000_000_000;

/// Deliveries allowed to a batch that is held until the gate of its run is decided, for the same reason.
const HELD_DELIVERIES: u32 = 1_000_000_000;

/// Bytes in one file of a stream. The broker deletes old messages file by file: with its default of 500 MB a small
/// ledger would never lose one.
const STREAM_FILE_BYTES: u64 = 50_000_000;

/// Every object that the broker has while a pipeline is configured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Desired {
    /// The pipeline type.
    pub pipeline: String,
    pub policies: Vec<Policy>,
    pub queues: Vec<Queue>,
    pub exchanges: Vec<Exchange>,
    pub bindings: Vec<Binding>,
    /// Declared last: a program that finds it finds everything else in place.
    pub marker: Exchange,
}

/// A durable queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Queue {
    pub name: String,
    pub program: String,
    #[serde(skip)]
    pub class: QueueClass,
    /// The broker never changes them on a queue that exists, so everything that can be a policy is one.
    pub arguments: Arguments,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exchange {
    pub name: String,
    pub kind: &'static str,
    pub arguments: Arguments,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Binding {
    pub exchange: String,
    /// Name of the output: the routing key.
    pub output: String,
    pub queue: String,
}

/// What the broker does with the queues of one class of one program.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    pub name: String,
    pub pattern: String,
    pub priority: i64,
    pub definition: Arguments,
}

/// The objects of `topology`, with the delays of `schedule`.
pub fn desired(
    topology: &Topology,
    settings: &PipelineSettings,
    schedule: &RetrySchedule,
) -> Desired {
    let mut desired = Desired::nothing(&topology.name);
    for program in &topology.programs {
        for class in classes(program, topology.has_input(&program.name), schedule) {
            desired.queues.push(queue(program, class));
            let policy = policy(program, class, settings);
            // One policy serves all delays.
            if desired.policies.last() != Some(&policy) {
                desired.policies.push(policy);
            }
        }
        if !program.role.outputs.is_empty() {
            desired.exchanges.push(Exchange {
                name: names::output_exchange(&program.name),
                kind: "direct",
                arguments: arguments([(PROGRAM_ARGUMENT, json!(program.name))]),
            });
        }
    }
    for edge in &topology.edges {
        let reads_stream = topology
            .program(&edge.reader)
            .is_some_and(|reader| reader.role.kind == RoleKind::Stream);
        let class = if reads_stream {
            QueueClass::Stream
        } else {
            QueueClass::Input
        };
        desired.bindings.push(Binding {
            exchange: names::output_exchange(&edge.program),
            output: edge.output.clone(),
            queue: class.queue(&edge.reader),
        });
    }
    desired
}

impl Desired {
    /// No objects at all: what is left of a pipeline that is deleted.
    pub fn nothing(pipeline: &str) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            policies: Vec::new(),
            queues: Vec::new(),
            exchanges: Vec::new(),
            bindings: Vec::new(),
            marker: Exchange {
                name: names::CONFIGURED.to_owned(),
                kind: "fanout",
                arguments: arguments([(PIPELINE_ARGUMENT, json!(pipeline))]),
            },
        }
    }

    /// Whether no pipeline is desired: every type has at least one reader, hence a queue.
    pub fn is_nothing(&self) -> bool {
        self.queues.is_empty()
    }
}

fn classes(program: &Program, has_input: bool, schedule: &RetrySchedule) -> Vec<QueueClass> {
    // Targets of dead letters come first, so that they exist when the first message is dead-lettered.
    let work = || {
        let delays = schedule.delays().iter().copied().map(QueueClass::Delay);
        [QueueClass::Quarantine, QueueClass::Input]
            .into_iter()
            .chain(delays)
    };
    match program.role.kind {
        RoleKind::Producer => vec![],
        RoleKind::Stream => vec![QueueClass::Stream],
        RoleKind::Controller if has_input => {
            [QueueClass::Lease].into_iter().chain(work()).collect()
        }
        RoleKind::Controller => vec![QueueClass::Lease],
        RoleKind::Worker => work().collect(),
    }
}

fn queue(program: &Program, class: QueueClass) -> Queue {
    let kind = match class {
        QueueClass::Stream => "stream",
        _ => "quorum",
    };
    let mut arguments = arguments([
        ("x-queue-type", json!(kind)),
        (PROGRAM_ARGUMENT, json!(program.name)),
    ]);
    if let QueueClass::Delay(delay) = class {
        // Not in the policy, which all delays share.
        arguments.insert("x-message-ttl".to_owned(), json!(delay.as_millis() as u64));
    }
    if class == QueueClass::Lease {
        arguments.insert("x-single-active-consumer".to_owned(), json!(true));
    }
    if let Some(replicas) = program.queues.replicas {
        let key = match class {
            QueueClass::Stream => "x-initial-cluster-size",
            _ => "x-quorum-initial-group-size",
        };
        arguments.insert(key.to_owned(), json!(replicas));
    }
    Queue {
        name: class.queue(&program.name),
        program: program.name.clone(),
        class,
        arguments,
    }
}

fn policy(program: &Program, class: QueueClass, settings: &PipelineSettings) -> Policy {
    let own = &program.queues;
    let definition = match class {
        QueueClass::Input => {
            let default = match program.role.kind {
                // It redelivers what it holds whenever a gate is decided.
                RoleKind::Controller => HELD_DELIVERIES,
                _ => settings.delivery_limit,
            };
            dead_letters_to(
                &names::quarantine_queue(&program.name),
                [(
                    "delivery-limit",
                    json!(own.delivery_limit.unwrap_or(default)),
                )],
            )
        }
        QueueClass::Delay(_) => dead_letters_to(&names::input_queue(&program.name), []),
        QueueClass::Quarantine => {
            // A rejected run goes into the quarantine as a whole: like the input that held it, it has no bound.
            let bounded = program.role.kind != RoleKind::Controller;
            let messages = bounded.then_some(settings.quarantine_max_messages);
            let bytes = bounded.then_some(settings.quarantine_max_bytes);
            let mut definition = arguments([
                // When it is full the publisher is refused: dropping the oldest would lose messages.
                ("overflow", json!("reject-publish")),
                ("delivery-limit", json!(QUARANTINE_DELIVERIES)),
            ]);
            let bounds = [
                ("max-length", own.quarantine_max_messages.or(messages)),
                ("max-length-bytes", own.quarantine_max_bytes.or(bytes)),
            ];
            for (key, bound) in bounds {
                definition.extend(bound.map(|bound| (key.to_owned(), json!(bound))));
            }
            definition
        }
        QueueClass::Lease => arguments([("max-length", json!(0))]),
        QueueClass::Stream => {
            let days = match program.role.name {
                names::RUNS => settings.runs_max_age_days,
                _ => settings.ledger_max_age_days,
            };
            let days = own.max_age_days.unwrap_or(days);
            arguments([
                ("max-age", json!(format!("{days}D"))),
                (
                    "max-length-bytes",
                    json!(own.max_bytes.unwrap_or(settings.ledger_max_bytes)),
                ),
                ("stream-max-segment-size-bytes", json!(STREAM_FILE_BYTES)),
            ])
        }
    };
    Policy {
        name: policy_name(&program.name, class),
        pattern: policy_pattern(&program.name, class),
        priority: POLICY_PRIORITY,
        definition,
    }
}

/// Dead letters go to `queue`, at least once. The broker supports this only for quorum queues that refuse messages
/// when they are full.
fn dead_letters_to<const N: usize>(queue: &str, more: [(&str, Value); N]) -> Arguments {
    let mut definition = arguments([
        ("dead-letter-exchange", json!("")),
        ("dead-letter-routing-key", json!(queue)),
        ("dead-letter-strategy", json!("at-least-once")),
        ("overflow", json!("reject-publish")),
    ]);
    definition.extend(arguments(more));
    definition
}

fn arguments<const N: usize>(entries: [(&str, Value); N]) -> Arguments {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
