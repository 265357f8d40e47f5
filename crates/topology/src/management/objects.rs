use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::actual::Actual;
use super::{Management, ManagementError};
use crate::{Binding, DesiredQueue, Exchange, Policy};

/// How old the broker's figures may be: a queue reports its own every 5 s, and the management plugin collects the
/// reports every 5 s (8 s was the longest seen).
const FIGURES_AGE: Duration = Duration::from_secs(11);

/// One change of the objects of a virtual host.
#[derive(Debug)]
pub(super) enum PlanStep {
    PutPolicy(Policy),
    PutQueue(DesiredQueue),
    PutExchange(Exchange),
    Bind(Binding),
    Unbind(Binding),
    DeletePolicy(String),
    DeleteQueue(String),
    DeleteExchange(String),
}

/// Reads and changes the objects of one virtual host: by the management API, or in memory for tests.
pub(super) trait Objects {
    /// Counts of messages and consumers in [`Actual`] may be this old.
    fn figures_age(&self) -> Duration;
    async fn actual(&self) -> Result<Actual, ManagementError>;
    async fn execute(&self, step: &PlanStep) -> Result<(), ManagementError>;
    /// Whether a message is ready in a queue (not a stream or a lease) at this moment, independent of the figures.
    async fn is_ready(&self, queue: &str) -> Result<bool, ManagementError>;
}

impl Objects for Management {
    fn figures_age(&self) -> Duration {
        FIGURES_AGE
    }

    async fn actual(&self) -> Result<Actual, ManagementError> {
        Ok(Actual {
            vhost: self.vhost().to_owned(),
            queues: self.list("queues").await?,
            exchanges: self.list("exchanges").await?,
            bindings: self.list("bindings").await?,
            policies: self.list("policies").await?,
        })
    }

    async fn execute(&self, step: &PlanStep) -> Result<(), ManagementError> {
        match step {
            PlanStep::PutPolicy(policy) => {
                let body = json!({
                    "pattern": policy.pattern,
                    // Not "quorum_queues" or "streams", which brokers before 3.12 do not know.
                    "apply-to": "queues",
                    "priority": policy.priority,
                    "definition": policy.definition,
                });
                self.put("policies", &policy.name, body).await
            }
            PlanStep::PutQueue(queue) => {
                let body = json!({"durable": true, "arguments": queue.arguments});
                self.put("queues", &queue.name, body).await
            }
            PlanStep::PutExchange(exchange) => {
                let Exchange {
                    kind, arguments, ..
                } = exchange;
                let body = json!({"type": kind, "durable": true, "arguments": arguments});
                self.put("exchanges", &exchange.name, body).await
            }
            PlanStep::Bind(Binding {
                exchange,
                output,
                queue,
            }) => {
                let path = ["bindings", self.vhost(), "e", exchange, "q", queue];
                let body = json!({"routing_key": output, "arguments": {}});
                let what = format!("bind queue {queue} to exchange {exchange}");
                self.send(Method::POST, &path, Some(body), &what)
                    .await
                    .map(drop)
            }
            PlanStep::Unbind(Binding {
                exchange,
                output,
                queue,
            }) => {
                let path = ["bindings", self.vhost(), "e", exchange, "q", queue, output];
                let what = format!("unbind queue {queue} from exchange {exchange}");
                self.send(Method::DELETE, &path, None, &what)
                    .await
                    .map(drop)
            }
            PlanStep::DeletePolicy(name) => self.delete("policies", name).await,
            PlanStep::DeleteQueue(name) => self.delete("queues", name).await,
            PlanStep::DeleteExchange(name) => self.delete("exchanges", name).await,
        }
    }

    /// Gets a message that is requeued at once: the only request whose answer is not some seconds old.
    async fn is_ready(&self, queue: &str) -> Result<bool, ManagementError> {
        let path = ["queues", self.vhost(), queue, "get"];
        let body = json!({
            "count": 1, "ackmode": "ack_requeue_true", "encoding": "base64", "truncate": 1
        });
        let what = format!("inspect queue {queue}");
        match self.send(Method::POST, &path, Some(body), &what).await {
            Ok(answer) => {
                let messages: Vec<Value> = serde_json::from_slice(&answer).unwrap_or_default();
                Ok(!messages.is_empty())
            }
            Err(ManagementError::Failed { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Management {
    async fn put(&self, kind: &str, name: &str, body: Value) -> Result<(), ManagementError> {
        let (path, what) = (
            [kind, self.vhost(), name],
            format!("declare {name} ({kind})"),
        );
        self.send(Method::PUT, &path, Some(body), &what)
            .await
            .map(drop)
    }

    async fn delete(&self, kind: &str, name: &str) -> Result<(), ManagementError> {
        let (path, what) = (
            [kind, self.vhost(), name],
            format!("delete {name} ({kind})"),
        );
        self.send(Method::DELETE, &path, None, &what)
            .await
            .map(drop)
    }
}
