//! Reading a stream to its end, and on from there.
//!
//! Over AMQP 0-9-1 the broker does not tell where a stream ends. The count of a passive declare is seconds
//! old, differs from node to node, and behind a retention cut counts messages that are gone (RabbitMQ 3.10.8
//! gives 0 for 100 messages confirmed just before, and 4,465 where 4,461 can be read). The offset
//! `last` is that of the nearest copy, which may lag behind what a majority has confirmed. So a reader publishes
//! an end marker, a message of its own, waits for the confirm, and reads from the beginning up to it.
//! Everything that was confirmed before stands in front of the marker. Markers are known by a header and are never
//! handed out.
//!
//! No marker can be published while the broker has a resource alarm, or by a user that may only read. Then the end is
//! where no more messages come for a while.

mod marker;

use std::time::Duration;

use batch::Message;
use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Connection, Consumer, ErrorKind};
use marker::End;

use super::BrokerError;
#[cfg(any(test, feature = "testing"))]
use super::Memory;
use super::rabbitmq::{RabbitMq, object_error, receive, stream_offset};

/// Header of an end marker; each reader has a value of its own.
pub(super) const END_MARKER: &str = "fleet-end-marker";
/// Deliveries in flight. The broker delivers whole chunks: more makes it no faster, fewer make it slower.
const PREFETCH: u16 = 1000;
/// Deliveries for each acknowledgement, while there are many.
const ACK_EVERY: u64 = 250;
/// A broker that is silent for so long is taken for unreachable.
const BROKER_TIMEOUT: Duration = Duration::from_secs(30);
/// Without a marker: a pause after which no more messages are expected. Chunks of a stream follow each other within
/// milliseconds, on a busy machine within tenths of a second.
const IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// A message of a stream.
#[derive(Debug)]
pub struct StreamMessage {
    pub offset: u64,
    pub message: Message,
}

/// Messages added to a stream after what was read of it, as they come.
pub struct StreamConsumer(StreamBackend);

enum StreamBackend {
    RabbitMq(Box<StreamReader>),
    #[cfg(any(test, feature = "testing"))]
    Memory {
        broker: Memory,
        stream: String,
        next: u64,
    },
}

impl StreamConsumer {
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn in_memory(broker: &Memory, stream: &str, next: u64) -> Self {
        Self(StreamBackend::Memory {
            broker: broker.clone(),
            stream: stream.to_owned(),
            next,
        })
    }

    /// The next message, waiting for it as long as it takes. Nothing is lost when the wait is cancelled.
    /// After an error the consumer is of no more use: begin again with [`super::Broker::follow_stream`].
    pub async fn next(&mut self) -> Result<StreamMessage, BrokerError> {
        match &mut self.0 {
            StreamBackend::RabbitMq(reading) => reading.next_added().await,
            #[cfg(any(test, feature = "testing"))]
            StreamBackend::Memory {
                broker,
                stream,
                next,
            } => {
                let message = broker.stream_message(stream, *next).await;
                let offset = *next;
                *next += 1;
                Ok(StreamMessage { offset, message })
            }
        }
    }
}

impl RabbitMq {
    pub(super) async fn read_stream(
        &self,
        stream: &str,
        from: u64,
        take: impl FnMut(u64, Message),
    ) -> Result<(), BrokerError> {
        self.read_to_end(stream, from, take).await?.close().await;
        Ok(())
    }

    pub(super) async fn follow_stream(
        &self,
        stream: &str,
        from: u64,
        take: impl FnMut(u64, Message),
    ) -> Result<StreamConsumer, BrokerError> {
        let reading = Box::new(self.read_to_end(stream, from, take).await?);
        Ok(StreamConsumer(StreamBackend::RabbitMq(reading)))
    }

    async fn read_to_end(
        &self,
        stream: &str,
        from: u64,
        take: impl FnMut(u64, Message),
    ) -> Result<StreamReader, BrokerError> {
        let connection = self.open("fleet-reader").await?;
        let end = self.publish_marker_when_up(&connection, stream);
        let end = self.within_timeout(end).await?;
        let connection = match &end {
            End::Marker(_) => connection,
            // From a connection that publishes during an alarm the broker reads no more, acknowledgements included.
            End::Idle => self.open("fleet-reader").await?,
        };
        let from = match &end {
            // From an offset past the end the broker would not even deliver the marker.
            End::Marker(marker) if from > 0 => {
                let there = self.within_timeout(self.has_offset(from, marker, &connection, stream));
                if there.await? { from } else { 0 }
            }
            _ => from,
        };
        let reading = StreamReader::begin(self.clone(), connection, stream, from);
        let mut reading = self.within_timeout(reading).await?;
        reading.read_to(&end, take).await?;
        Ok(reading)
    }

    async fn within_timeout<T>(
        &self,
        doing: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        let done = tokio::time::timeout(BROKER_TIMEOUT, doing).await;
        done.unwrap_or_else(|_| Err(self.silent("it does not reply")))
    }

    fn silent(&self, what: &str) -> BrokerError {
        self.unreachable(format!("{what} for {} s", BROKER_TIMEOUT.as_secs()))
    }

    /// An error of the stream, or of the connection.
    fn stream_error(&self, stream: &str, error: &lapin::Error) -> BrokerError {
        match error.kind() {
            ErrorKind::ProtocolError(_) => object_error("stream", stream, error),
            _ => self.unreachable(error),
        }
    }
}

async fn consume(
    connection: &Connection,
    stream: &str,
    from: AMQPValue,
) -> lapin::Result<(Channel, Consumer)> {
    let channel = connection.create_channel().await?;
    let qos = channel.basic_qos(PREFETCH, BasicQosOptions::default());
    qos.await?;
    let mut arguments = FieldTable::default();
    arguments.insert("x-stream-offset".into(), from);
    let options = BasicConsumeOptions::default();
    let consumer = channel.basic_consume(stream.into(), "".into(), options, arguments);
    let consumer = consumer.await?;
    Ok((channel, consumer))
}

fn ended(stream: &str) -> BrokerError {
    BrokerError::Object {
        object: "stream",
        name: stream.to_owned(),
        detail: "the broker ended the reading; the stream may be deleted".to_owned(),
    }
}

/// A consumer of a stream from some offset on.
struct StreamReader {
    broker: RabbitMq,
    stream: String,
    connection: Connection,
    channel: Channel,
    consumer: Consumer,
    /// Delivery tag of the last message received.
    tag: u64,
    /// Delivery tag up to which messages are acknowledged.
    acknowledged: u64,
    /// Received, and not yet given to the caller.
    added: Option<StreamMessage>,
}

impl StreamReader {
    async fn begin(
        broker: RabbitMq,
        connection: Connection,
        stream: &str,
        from: u64,
    ) -> Result<Self, BrokerError> {
        let unusable = |error: lapin::Error| broker.stream_error(stream, &error);
        // An offset that retention has cut off stands for the first that is left.
        let from = AMQPValue::LongLongInt(i64::try_from(from).unwrap_or(i64::MAX));
        let consuming = consume(&connection, stream, from).await;
        let (channel, consumer) = consuming.map_err(unusable)?;
        Ok(Self {
            broker,
            stream: stream.to_owned(),
            connection,
            channel,
            consumer,
            tag: 0,
            acknowledged: 0,
            added: None,
        })
    }

    async fn read_to(
        &mut self,
        end: &End,
        mut take: impl FnMut(u64, Message),
    ) -> Result<(), BrokerError> {
        let (marker, timeout) = match end {
            End::Marker(marker) => (Some(marker.as_str()), BROKER_TIMEOUT),
            End::Idle => (None, IDLE_TIMEOUT),
        };
        loop {
            let received = tokio::time::timeout(timeout, self.receive()).await;
            let StreamMessage { offset, message } = match received {
                Ok(received) => received?,
                Err(_) if marker.is_none() => break,
                Err(_) => {
                    let what = format!("of stream {:?} it delivers nothing", self.stream);
                    return Err(self.broker.silent(&what));
                }
            };
            match message.headers.text(END_MARKER) {
                Some(found) if Some(found) == marker => break,
                Some(_) => {}
                None => take(offset, message),
            }
            if self.tag.is_multiple_of(ACK_EVERY) {
                self.acknowledge().await?;
            }
        }
        self.acknowledge().await
    }

    /// Acknowledges each message: the broker ends a consumer that leaves one unacknowledged for half an hour.
    async fn next_added(&mut self) -> Result<StreamMessage, BrokerError> {
        loop {
            if self.added.is_none() {
                self.added = Some(self.receive().await?);
            }
            // Still there for the next call if this one is cancelled here.
            self.acknowledge().await?;
            let added = self.added.take();
            if let Some(added) =
                added.filter(|added| added.message.headers.get(END_MARKER).is_none())
            {
                return Ok(added);
            }
        }
    }

    async fn receive(&mut self) -> Result<StreamMessage, BrokerError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                self.tag = delivery.delivery_tag;
                let offset = stream_offset(&delivery).unwrap_or(0);
                let message = receive(delivery).message;
                Ok(StreamMessage { offset, message })
            }
            Some(Err(error)) => Err(self.broker.stream_error(&self.stream, &error)),
            None => Err(ended(&self.stream)),
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        if self.acknowledged == self.tag {
            return Ok(());
        }
        // Noted first: when this is cancelled the acknowledgement may be on its way, and to repeat one is an error. If
        // it is not, the next one covers it.
        self.acknowledged = self.tag;
        let options = BasicAckOptions { multiple: true };
        let acknowledged = self.channel.basic_ack(self.tag, options).await;
        acknowledged.map_err(|error| self.broker.stream_error(&self.stream, &error))
    }

    async fn close(self) {
        // It may be gone already; then there is nothing to close.
        let _ = self.connection.close(200, "done".into()).await;
    }
}
