use serde::Deserialize;

use crate::desired::{PIPELINE_ARGUMENT, PROGRAM_ARGUMENT};
use crate::queue_class::is_own_policy;
use crate::{Binding, ObjectArguments, QueueClass};
use pipeline::names;

/// The objects of a virtual host: the fleet's and foreign ones.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Actual {
    pub vhost: String,
    pub queues: Vec<ActualQueue>,
    pub exchanges: Vec<ActualExchange>,
    pub bindings: Vec<ActualBinding>,
    pub policies: Vec<ActualPolicy>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ActualQueue {
    pub name: String,
    pub arguments: ObjectArguments,
    /// A figure that is missing is unknown, not 0: during the first seconds of a queue's life, and always where the
    /// broker collects no metrics.
    pub messages: Option<u64>,
    pub messages_ready: Option<u64>,
    pub messages_unacknowledged: Option<u64>,
    /// Dead letters that their target has not confirmed.
    pub messages_dlx: Option<u64>,
    pub message_bytes: Option<u64>,
    pub consumers: Option<u64>,
    /// Name of the one policy that the broker applies.
    pub policy: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ActualExchange {
    pub name: String,
    #[serde(rename = "type")]
    pub kind: String,
    pub arguments: ObjectArguments,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ActualBinding {
    pub source: String,
    pub destination: String,
    pub destination_type: String,
    pub routing_key: String,
    /// What the API calls this binding; the routing key itself for one without arguments.
    pub properties_key: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct ActualPolicy {
    pub name: String,
    pub pattern: String,
    #[serde(rename = "apply-to")]
    pub apply_to: String,
    pub priority: i64,
    pub definition: ObjectArguments,
}

impl Actual {
    pub fn queue(&self, name: &str) -> Option<&ActualQueue> {
        self.queues.iter().find(|queue| queue.name == name)
    }

    pub fn exchange(&self, name: &str) -> Option<&ActualExchange> {
        self.exchanges.iter().find(|exchange| exchange.name == name)
    }

    pub fn policy(&self, name: &str) -> Option<&ActualPolicy> {
        self.policies.iter().find(|policy| policy.name == name)
    }

    /// Messages in `queue`, 0 when there is no such queue; `None` while the broker has not counted them.
    pub fn held(&self, queue: &str) -> Option<u64> {
        self.queue(queue).map_or(Some(0), ActualQueue::held)
    }

    /// Whether nothing reads `queue`, for certain.
    pub fn is_unread(&self, queue: &str) -> bool {
        self.queue(queue)
            .is_none_or(|queue| queue.consumers == Some(0))
    }

    /// The pipeline type that is configured.
    pub fn pipeline(&self) -> Option<&str> {
        self.exchange(names::CONFIGURED)?.pipeline()
    }
}

impl ActualQueue {
    /// Its program and its class; `None` for a foreign queue.
    pub fn owner(&self) -> Option<(&str, QueueClass)> {
        let program = self.arguments.get(PROGRAM_ARGUMENT)?.as_str()?;
        Some((program, QueueClass::from_queue(program, &self.name)?))
    }

    /// All messages in it, whatever their state; `None` while the broker has not counted them.
    pub fn held(&self) -> Option<u64> {
        // Only queues that dead-letter report this one.
        let dead_letters = self.messages_dlx.unwrap_or(0);
        let states = self.messages_ready.zip(self.messages_unacknowledged);
        let sum = states.map(|(ready, unacked)| ready + unacked + dead_letters);
        // An option without a number is the least.
        sum.max(self.messages)
    }
}

impl ActualExchange {
    /// The program that publishes to it; `None` for a foreign exchange.
    pub fn owner(&self) -> Option<&str> {
        let program = self.arguments.get(PROGRAM_ARGUMENT)?.as_str()?;
        let own = self.kind == "direct" && self.name == names::output_exchange(program);
        own.then_some(program)
    }

    pub fn pipeline(&self) -> Option<&str> {
        let pipeline = self.arguments.get(PIPELINE_ARGUMENT)?.as_str()?;
        (self.name == names::CONFIGURED).then_some(pipeline)
    }
}

impl ActualBinding {
    /// The binding in the form that the fleet makes: of a queue, by an output's name alone.
    pub fn plain(&self) -> Option<Binding> {
        let plain = self.destination_type == "queue" && self.properties_key == self.routing_key;
        plain.then(|| Binding {
            exchange: self.source.clone(),
            output: self.routing_key.clone(),
            queue: self.destination.clone(),
        })
    }
}

impl ActualPolicy {
    /// Whether it is the fleet's.
    pub fn is_own(&self) -> bool {
        self.apply_to == "queues" && is_own_policy(&self.name, &self.pattern)
    }
}
