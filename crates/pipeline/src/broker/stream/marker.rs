//! The end of a stream, by a marker or without one.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use batch::Headers;
use futures_util::{Stream, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Event};

use super::{END_MARKER, IDLE_TIMEOUT, consume, ended};
use crate::broker::BrokerError;
use crate::broker::rabbitmq::{
    ACCESS_REFUSED, RabbitMq, is_reply, receive, stream_offset, to_table,
};

/// Pause before a stream that is not up yet is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Where a stream ends for a reader.
pub(super) enum End {
    /// Behind everything that was confirmed before the reader began.
    Marker(String),
    /// Where no message comes for [`IDLE_TIMEOUT`].
    Idle,
}

impl RabbitMq {
    /// [`Self::publish_marker`], waiting for a stream that is there but not up yet: while a broker starts it takes
    /// connections before its streams have found their leader.
    pub(super) async fn publish_marker_when_up(
        &self,
        connection: &Connection,
        stream: &str,
    ) -> Result<End, BrokerError> {
        loop {
            match self.publish_marker(connection, stream).await {
                // Its leader is not up: <https://www.rabbitmq.com/docs/streams>.
                Err(BrokerError::Object { detail, .. })
                    if detail.contains("is down or inaccessible") =>
                {
                    tracing::debug!(error = detail, "waiting for the stream");
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                end => return end,
            }
        }
    }

    /// Publishes an end marker.
    async fn publish_marker(
        &self,
        connection: &Connection,
        stream: &str,
    ) -> Result<End, BrokerError> {
        let unusable = |error: lapin::Error| self.stream_error(stream, &error);
        let events = connection.events_listener();
        let channel = connection.create_channel().await.map_err(unusable)?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        // Fails with a plain error if there is no such stream.
        let declared = channel.queue_declare(stream.into(), passive, FieldTable::default());
        declared.await.map_err(unusable)?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        select.await.map_err(unusable)?;
        let marker = RandomState::new().hash_one(stream).to_string();
        let confirmed = tokio::select! {
            confirmed = publish_to(&channel, stream, &marker) => confirmed,
            () = blocked(events) => return Ok(End::Idle),
        };
        match confirmed {
            Ok(confirmation) if confirmation.is_ack() => {
                let _ = channel.close(200, "done".into()).await;
                Ok(End::Marker(marker))
            }
            Ok(_) => Ok(End::Idle),
            Err(error) if is_reply(&error, ACCESS_REFUSED) => Ok(End::Idle),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Whether the stream has the offset `from` by now, which the last chunk of the nearest copy tells, or what comes
    /// behind it. A stream that has not was deleted and made again since the offset was noted.
    pub(super) async fn has_offset(
        &self,
        from: u64,
        marker: &str,
        connection: &Connection,
        stream: &str,
    ) -> Result<bool, BrokerError> {
        let unusable = |error: lapin::Error| self.stream_error(stream, &error);
        let last = AMQPValue::LongString("last".into());
        let consuming = consume(connection, stream, last).await;
        let (channel, mut consumer) = consuming.map_err(unusable)?;
        let mut there = None;
        while there.is_none() {
            let Ok(next) = tokio::time::timeout(IDLE_TIMEOUT, consumer.next()).await else {
                // The marker is in a chunk before the last one, and that one does not reach the offset either.
                break;
            };
            let delivery = next.ok_or_else(|| ended(stream))?.map_err(unusable)?;
            let tag = delivery.delivery_tag;
            let acknowledged = channel.basic_ack(tag, BasicAckOptions::default());
            acknowledged.await.map_err(unusable)?;
            let offset = stream_offset(&delivery).unwrap_or(0);
            if offset >= from {
                there = Some(true);
            } else if receive(delivery).message.headers.text(END_MARKER) == Some(marker) {
                there = Some(false);
            }
        }
        let _ = channel.close(200, "done".into()).await;
        Ok(there.unwrap_or(false))
    }
}

async fn publish_to(channel: &Channel, stream: &str, marker: &str) -> lapin::Result<Confirmation> {
    let mut headers = Headers::new();
    headers.set(END_MARKER, marker);
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(to_table(&headers));
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), stream.into(), options, &[], properties);
    published.await?.await
}

/// Resolves when the broker reads no more from this connection.
async fn blocked(events: impl Stream<Item = Event>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        if matches!(event, Event::ConnectionBlocked(_)) {
            return;
        }
    }
    std::future::pending().await
}
