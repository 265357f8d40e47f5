use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use super::actual::Actual;
use super::{Management, ManagementError};
use crate::{Binding, Exchange, Policy, Queue};

/// How old the broker's figures may be: a queue reports its own every 5 s, and the management plugin collects the
/// reports every 5 s (8 s was the longest seen).
const FIGURES_AGE: Duration = Duration::from_secs(11);

/// Reads and changes the objects of one virtual host: by the management API, or in memory for tests.
pub(super) trait Objects {
    /// Counts of messages and consumers in [`Actual`] may be this old.
    fn figures_age(&self) -> Duration;
    async fn actual(&self) -> Result<Actual, ManagementError>;
    async fn put_policy(&self, policy: &Policy) -> Result<(), ManagementError>;
    async fn put_queue(&self, queue: &Queue) -> Result<(), ManagementError>;
    async fn put_exchange(&self, exchange: &Exchange) -> Result<(), ManagementError>;
    async fn bind(&self, binding: &Binding) -> Result<(), ManagementError>;
    async fn unbind(&self, binding: &Binding) -> Result<(), ManagementError>;
    async fn delete_policy(&self, name: &str) -> Result<(), ManagementError>;
    async fn delete_queue(&self, name: &str) -> Result<(), ManagementError>;
    async fn delete_exchange(&self, name: &str) -> Result<(), ManagementError>;
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

    async fn put_policy(&self, policy: &Policy) -> Result<(), ManagementError> {
        let body = json!({
            "pattern": policy.pattern,
            // Not "quorum_queues" or "streams", which brokers before 3.12 do not know.
            "apply-to": "queues",
            "priority": policy.priority,
            "definition": policy.definition,
        });
        self.put("policies", &policy.name, body).await
    }

    async fn put_queue(&self, queue: &Queue) -> Result<(), ManagementError> {
        let body = json!({"durable": true, "arguments": queue.arguments});
        self.put("queues", &queue.name, body).await
    }

    async fn put_exchange(&self, exchange: &Exchange) -> Result<(), ManagementError> {
        let body = json!({"type": exchange.kind, "durable": true, "arguments": exchange.arguments});
        self.put("exchanges", &exchange.name, body).await
    }

    async fn bind(&self, binding: &Binding) -> Result<(), ManagementError> {
        let Binding {
            exchange,
            output,
            queue,
        } = binding;
        let path = ["bindings", self.vhost(), "e", exchange, "q", queue];
        let body = json!({"routing_key": output, "arguments": {}});
        let what = format!("bind queue {queue} to exchange {exchange}");
        self.send(Method::POST, &path, Some(body), &what).await?;
        Ok(())
    }

    async fn unbind(&self, binding: &Binding) -> Result<(), ManagementError> {
        let Binding {
            exchange,
            output,
            queue,
        } = binding;
        let path = ["bindings", self.vhost(), "e", exchange, "q", queue, output];
        let what = format!("unbind queue {queue} from exchange {exchange}");
        self.send(Method::DELETE, &path, None, &what).await?;
        Ok(())
    }

    async fn delete_policy(&self, name: &str) -> Result<(), ManagementError> {
        self.delete("policies", name).await
    }

    async fn delete_queue(&self, name: &str) -> Result<(), ManagementError> {
        self.delete("queues", name).await
    }

    async fn delete_exchange(&self, name: &str) -> Result<(), ManagementError> {
        self.delete("exchanges", name).await
    }

    /// Takes a message and gives it back at once: the only request whose answer is not some seconds old.
    async fn is_ready(&self, queue: &str) -> Result<bool, ManagementError> {
        let path = ["queues", self.vhost(), queue, "get"];
        let body = json!({
            "count": 1, "ackmode": "ack_requeue_true", "encoding": "base64", "truncate": 1
        });
        let what = format!("look into queue {queue}");
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
        let what = format!("declare {name} ({kind})");
        self.send(Method::PUT, &[kind, self.vhost(), name], Some(body), &what)
            .await?;
        Ok(())
    }

    async fn delete(&self, kind: &str, name: &str) -> Result<(), ManagementError> {
        let what = format!("delete {name} ({kind})");
        self.send(Method::DELETE, &[kind, self.vhost(), name], None, &what)
            .await?;
        Ok(())
    }
}
