use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Value, json};

use super::{PipelineSettings, ProgramSpec, QueueClass, Topology};
use pipeline::{RetrySchedule, RoleKind, names};

/// Arguments of a queue or an exchange, or what a policy sets, as the broker lists them.
pub type ObjectArguments = BTreeMap<String, Value>;

/// Argument of the fleet's queues and exchanges that names their program: how `fleet pipeline` knows its own.
pub(crate) const PROGRAM_ARGUMENT: &str = "fleet-program";

/// Argument of the exchange [`names::CONFIGURED`] that names the pipeline type.
pub(crate) const PIPELINE_ARGUMENT: &str = "fleet-pipeline";

/// Priority of the fleet's policies. The broker applies to a queue only the matching policy of the highest
/// priority: well above the 0 that a catch-all policy for a whole virtual host usually has.
pub(crate) const POLICY_PRIORITY: i64 = 100;

/// Deliveries allowed to a message in quarantine, where each inspection by an operator counts as one, and to a batch that
/// is held, which is redelivered whenever a gate is decided. Brokers since 4.0 drop a message after 20 unless a limit
/// is set, and those before have no way to say "never".
const UNLIMITED_DELIVERIES: u32 = 1_000_000_000;

/// Bytes in one file of a stream. The broker deletes old messages file by file: with its default of 500 MB a small
/// ledger would never lose one.
const STREAM_FILE_BYTES: u64 = 50_000_000;

/// Every object that the broker has while a pipeline is configured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Desired {
    /// The pipeline type.
    pub pipeline: String,
    pub policies: Vec<Policy>,
    pub queues: Vec<DesiredQueue>,
    pub exchanges: Vec<Exchange>,
    pub bindings: Vec<Binding>,
    /// Declared last: a program that finds it finds everything else declared.
    pub marker: Exchange,
}

/// A durable queue.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct DesiredQueue {
    pub name: String,
    pub program: String,
    #[serde(skip)]
    pub class: QueueClass,
    /// The broker never changes them on a queue that exists, so everything that can be a policy is one.
    pub arguments: ObjectArguments,
}

/// A durable exchange.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exchange {
    pub name: String,
    pub kind: &'static str,
    pub arguments: ObjectArguments,
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
    pub definition: ObjectArguments,
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
        let reader = topology.program(&edge.reader);
        let class = match reader.map(|reader| reader.role.kind) {
            Some(RoleKind::Stream) => QueueClass::Stream,
            _ => QueueClass::Input,
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

    pub(crate) fn has_queue(&self, name: &str) -> bool {
        self.queues.iter().any(|queue| queue.name == name)
    }

    pub(crate) fn has_exchange(&self, name: &str) -> bool {
        let mut exchanges = self.exchanges.iter();
        exchanges.any(|exchange| exchange.name == name)
    }

    /// Whether no pipeline is desired: every type has at least one reader, hence a queue.
    pub fn is_nothing(&self) -> bool {
        self.queues.is_empty()
    }
}

fn classes(program: &ProgramSpec, has_input: bool, schedule: &RetrySchedule) -> Vec<QueueClass> {
    use QueueClass::{Delay, Input, Lease, Quarantine, Stream};
    let mut classes = match program.role.kind {
        RoleKind::Producer => vec![],
        RoleKind::Stream => vec![Stream],
        // Targets of dead letters come first, so that they exist when the first message is dead-lettered.
        RoleKind::Controller if has_input => vec![Lease, Quarantine, Input],
        RoleKind::Controller => vec![Lease],
        RoleKind::Worker => vec![Quarantine, Input],
    };
    if classes.contains(&Input) {
        classes.extend(schedule.delays().iter().copied().map(Delay));
    }
    classes
}

fn queue(program: &ProgramSpec, class: QueueClass) -> DesiredQueue {
    let (kind, replicas_key) = match class {
        QueueClass::Stream => ("stream", "x-initial-cluster-size"),
        _ => ("quorum", "x-quorum-initial-group-size"),
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
        arguments.insert(replicas_key.to_owned(), json!(replicas));
    }
    DesiredQueue {
        name: class.queue(&program.name),
        program: program.name.clone(),
        class,
        arguments,
    }
}

fn policy(program: &ProgramSpec, class: QueueClass, settings: &PipelineSettings) -> Policy {
    let own = &program.queues;
    let definition = match class {
        QueueClass::Input => {
            let default = match program.role.kind {
                RoleKind::Controller => UNLIMITED_DELIVERIES,
                _ => settings.delivery_limit,
            };
            let limit = json!(own.delivery_limit.unwrap_or(default));
            let mut definition = dead_letters_to(&names::quarantine_queue(&program.name));
            definition.insert("delivery-limit".to_owned(), limit);
            definition
        }
        QueueClass::Delay(_) => dead_letters_to(&names::input_queue(&program.name)),
        QueueClass::Quarantine => {
            // A rejected run goes into the quarantine as a whole: like the input that held it, it has no bound.
            let bounded = program.role.kind != RoleKind::Controller;
            let messages = bounded.then_some(settings.quarantine_max_messages);
            let bytes = bounded.then_some(settings.quarantine_max_bytes);
            let mut definition = arguments([
                // When it is full the publisher is refused: dropping the oldest would lose messages.
                ("overflow", json!("reject-publish")),
                ("delivery-limit", json!(UNLIMITED_DELIVERIES)),
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
            let bytes = own.max_bytes.unwrap_or(settings.ledger_max_bytes);
            arguments([
                ("max-age", json!(format!("{days}D"))),
                ("max-length-bytes", json!(bytes)),
                ("stream-max-segment-size-bytes", json!(STREAM_FILE_BYTES)),
            ])
        }
    };
    Policy {
        name: class.policy(&program.name),
        pattern: class.pattern(&program.name),
        priority: POLICY_PRIORITY,
        definition,
    }
}

/// Dead letters go to `queue`, at least once. The broker supports this only for quorum queues that refuse messages
/// when they are full.
fn dead_letters_to(queue: &str) -> ObjectArguments {
    arguments([
        ("dead-letter-exchange", json!("")),
        ("dead-letter-routing-key", json!(queue)),
        ("dead-letter-strategy", json!("at-least-once")),
        ("overflow", json!("reject-publish")),
    ])
}

fn arguments<const N: usize>(entries: [(&str, Value); N]) -> ObjectArguments {
    entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}
