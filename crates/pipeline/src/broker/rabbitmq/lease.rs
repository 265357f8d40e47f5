use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;

use super::{RabbitMqConnection, object_error};
use crate::broker::session::Lease;
use crate::broker::{Acknowledgement, BrokerError, ConnectionState};

/// The active subscriber gets its own message within milliseconds. A process that waits in vain asks again later.
const LEASE_TIMEOUT: Duration = Duration::from_secs(1);

impl RabbitMqConnection {
    /// As [`crate::broker::Session::lease`]. From a queue with a single active consumer the broker delivers
    /// to the first subscriber alone, and to the next when that one is gone; for a quorum queue a majority of its nodes
    /// decides. (An exclusive consumer would learn at once that there is another, but a quorum queue does not know
    /// them: RabbitMQ 3.10.8 admits any number.) No subscriber learns whether it is the active one, so each process
    /// publishes a message of its own: only the active subscriber ever gets one.
    pub async fn lease(
        &self,
        queue: &str,
        state: &ConnectionState,
    ) -> Result<Option<Lease>, BrokerError> {
        let mut subscription = self.subscribe(queue, 1, state).await?;
        let published = self.publish_probe(queue).await;
        published.map_err(|error| object_error("queue", queue, &error))?;
        match tokio::time::timeout(LEASE_TIMEOUT, subscription.deliveries.recv()).await {
            Ok(Some(delivery)) => {
                subscription.acknowledge(Acknowledgement::single(delivery.tag));
                Ok(Some(Lease::new(subscription)))
            }
            // The session is lost.
            Ok(None) => Ok(None),
            Err(_) => {
                subscription.cancel();
                subscription.close().await;
                Ok(None)
            }
        }
    }

    async fn publish_probe(&self, queue: &str) -> lapin::Result<()> {
        let channel = self.connection.create_channel().await?;
        let properties = BasicProperties::default();
        let options = BasicPublishOptions::default();
        let published = channel.basic_publish("".into(), queue.into(), options, &[], properties);
        published.await?;
        channel.close(200, "done".into()).await
    }
}
