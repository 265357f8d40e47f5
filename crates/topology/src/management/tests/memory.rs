use std::cell::RefCell;
use std::time::Duration;

use crate::Binding;
use crate::management::ManagementError;
use crate::management::actual::{Actual, ActualBinding, ActualExchange, ActualPolicy, ActualQueue};
use crate::management::objects::{Objects, PlanStep};

/// A virtual host in memory, whose figures may be as old as a broker's.
#[derive(Default)]
pub struct Host {
    actual: RefCell<Actual>,
    /// What the figures say; the actual objects while they are fresh.
    figures: RefCell<Option<Actual>>,
    age: Duration,
    /// Every change made, in its order.
    pub log: RefCell<Vec<String>>,
}

impl Host {
    /// Figures become right only after this time.
    pub fn with_old_figures(age: Duration) -> Self {
        Self {
            age,
            ..Self::default()
        }
    }

    /// From now on the figures are those of now, until `refresh`.
    pub fn freeze_figures(&self) {
        *self.figures.borrow_mut() = Some(self.actual.borrow().clone());
    }

    pub fn refresh_figures(&self) {
        *self.figures.borrow_mut() = None;
    }

    pub fn state(&self) -> Actual {
        self.actual.borrow().clone()
    }

    pub fn change<T>(&self, change: impl FnOnce(&mut Actual) -> T) -> T {
        change(&mut self.actual.borrow_mut())
    }

    pub fn put_messages(&self, queue: &str, messages: u64) {
        self.change(|actual| {
            let queue = actual.queues.iter_mut().find(|found| found.name == queue);
            let queue = queue.expect("the queue exists");
            queue.messages = Some(messages);
            queue.messages_ready = Some(messages);
            queue.messages_unacknowledged = Some(0);
        });
    }

    pub fn put_consumers(&self, queue: &str, consumers: u64) {
        self.change(|actual| {
            let queue = actual.queues.iter_mut().find(|found| found.name == queue);
            queue.expect("the queue exists").consumers = Some(consumers);
        });
    }

    pub fn messages(&self) -> u64 {
        let actual = self.actual.borrow();
        let held = actual.queues.iter().map(ActualQueue::held);
        held.sum::<Option<u64>>().expect("all are counted")
    }

    /// From now on the broker counts nothing, as one whose metrics collector is off.
    pub fn stop_counting(&self) {
        self.change(|actual| {
            for queue in &mut actual.queues {
                queue.messages = None;
                queue.messages_ready = None;
                queue.messages_unacknowledged = None;
                queue.consumers = None;
            }
        });
    }
}

impl Objects for Host {
    fn figures_age(&self) -> Duration {
        self.age
    }

    /// Objects are listed as they are now, with counts as old as the figures.
    async fn actual(&self) -> Result<Actual, ManagementError> {
        let mut actual = self.actual.borrow().clone();
        if let Some(figures) = &*self.figures.borrow() {
            for queue in &mut actual.queues {
                let old = figures.queue(&queue.name).cloned().unwrap_or_default();
                queue.messages = old.messages;
                queue.messages_ready = old.messages_ready;
                queue.consumers = old.consumers;
            }
        }
        Ok(actual)
    }

    async fn execute(&self, step: &PlanStep) -> Result<(), ManagementError> {
        let actual = &mut *self.actual.borrow_mut();
        let done = match step {
            PlanStep::PutPolicy(policy) => {
                actual.policies.retain(|found| found.name != policy.name);
                actual.policies.push(ActualPolicy {
                    name: policy.name.clone(),
                    pattern: policy.pattern.clone(),
                    apply_to: "queues".to_owned(),
                    priority: policy.priority,
                    definition: policy.definition.clone(),
                });
                format!("put policy {}", policy.name)
            }
            PlanStep::PutQueue(queue) => {
                assert!(actual.queue(&queue.name).is_none(), "{} exists", queue.name);
                actual.queues.push(ActualQueue {
                    name: queue.name.clone(),
                    arguments: queue.arguments.clone(),
                    messages: Some(0),
                    consumers: Some(0),
                    ..ActualQueue::default()
                });
                format!("put queue {}", queue.name)
            }
            PlanStep::PutExchange(exchange) => {
                let name = &exchange.name;
                assert!(actual.exchange(name).is_none(), "{name} exists");
                actual.exchanges.push(ActualExchange {
                    name: name.clone(),
                    kind: exchange.kind.to_owned(),
                    arguments: exchange.arguments.clone(),
                });
                format!("put exchange {name}")
            }
            PlanStep::Bind(binding) => {
                let Binding {
                    exchange,
                    output,
                    queue,
                } = binding;
                assert!(actual.exchange(exchange).is_some(), "{exchange}");
                assert!(actual.queue(queue).is_some(), "{queue}");
                let mut bound = actual.bindings.iter();
                if !bound.any(|found| found.plain().as_ref() == Some(binding)) {
                    actual.bindings.push(ActualBinding {
                        source: exchange.clone(),
                        destination: queue.clone(),
                        destination_type: "queue".to_owned(),
                        routing_key: output.clone(),
                        properties_key: output.clone(),
                    });
                }
                format!("bind {exchange} -> {queue}")
            }
            PlanStep::Unbind(binding) => {
                let stays = |found: &ActualBinding| found.plain().as_ref() != Some(binding);
                actual.bindings.retain(stays);
                format!("unbind {} -> {}", binding.exchange, binding.queue)
            }
            PlanStep::DeletePolicy(name) => {
                actual.policies.retain(|policy| policy.name != *name);
                format!("delete policy {name}")
            }
            PlanStep::DeleteQueue(name) => {
                actual.queues.retain(|queue| queue.name != *name);
                actual
                    .bindings
                    .retain(|binding| binding.destination != *name);
                format!("delete queue {name}")
            }
            PlanStep::DeleteExchange(name) => {
                actual.exchanges.retain(|exchange| exchange.name != *name);
                actual.bindings.retain(|binding| binding.source != *name);
                format!("delete exchange {name}")
            }
        };
        self.log.borrow_mut().push(done);
        Ok(())
    }

    async fn is_ready(&self, queue: &str) -> Result<bool, ManagementError> {
        let actual = self.actual.borrow();
        let queue = actual.queue(queue);
        let stream = queue.is_some_and(|queue| queue.arguments["x-queue-type"] == "stream");
        assert!(!stream, "a broker cannot inspect a stream");
        let shared = queue.is_none_or(|q| !q.arguments.contains_key("x-single-active-consumer"));
        assert!(shared, "nor a queue with a single active consumer");
        Ok(queue.and_then(|queue| queue.messages_ready).unwrap_or(0) > 0)
    }
}
