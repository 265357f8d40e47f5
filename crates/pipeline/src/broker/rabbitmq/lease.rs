use std::time::Duration;

use lapin::BasicProperties;
use lapin::options::BasicPublishOptions;

use super::{Connected, object};
use crate::broker::session::Lease;
use crate::broker::{Acknowledgement, BrokerError, Link};

/// Whoever is served is served within milliseconds. Who waits in vain asks again later.
const ANSWER: Duration = Duration::from_secs(1);

impl Connected {
    /// As [`crate::broker::Session::lease`]. Of a queue with a single active consumer the broker serves the first
    /// subscriber alone, and the next when that one is gone; for a quorum queue a majority of its nodes decides.
    /// (An exclusive consumer would say at once that there is another, but a quorum queue does not know them:
    /// RabbitMQ 3.10.8 admits any number.) Nobody is told whether he is the one, so each asks with a message of
    /// his own: only the active one is ever given any.
    pub async fn lease(&self, queue: &str, link: &Link) -> Result<Option<Lease>, BrokerError> {
        let mut subscription = self.subscribe(queue, 1, link).await?;
        let asked = self.ask(queue).await;
        asked.map_err(|error| object("queue", queue, &error))?;
        match tokio::time::timeout(ANSWER, subscription.deliveries.recv()).await {
            Ok(Some(delivery)) => {
                let tag = delivery.tag;
                let multiple = false;
                subscription.answer(Acknowledgement::Ack { tag, multiple });
                Ok(Some(Lease::of(subscription)))
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

    async fn ask(&self, queue: &str) -> lapin::Result<()> {
        let channel = self.connection.create_channel().await?;
        let properties = BasicProperties::default();
        let options = BasicPublishOptions::default();
        let published = channel.basic_publish("".into(), queue.into(), options, &[], properties);
        published.await?;
        channel.close(200, "done".into()).await
    }
}
