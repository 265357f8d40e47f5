//! Reading a stream to its end, and on from there.
//!
//! Over AMQP 0-9-1 the broker does not say where a stream ends. The count of a passive declare is seconds
//! old, differs from node to node, and past a cut by retention counts messages that are gone (RabbitMQ 3.10.8
//! gives 0 for 100 messages confirmed just before, and 4,465 where 4,461 can be read). The offset
//! `last` is that of the nearest copy, which may lag behind what a majority has confirmed. So a reader leaves a
//! mark: it publishes a message of its own, waits for the confirm, and reads from the beginning up to it.
//! Whatever was confirmed before stands in front of the mark. Marks are known by a header and shown to nobody.
//!
//! No mark can be left while the broker has a resource alarm, or by a user that may only read. Then the end is
//! where nothing more comes for a while.

use std::hash::BuildHasher;
use std::time::Duration;

use batch::{Headers, Message};
use futures_util::{Stream, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions,
    ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Confirmation, Connection, Consumer, ErrorKind, Event};

use super::BrokerError;
#[cfg(any(test, feature = "testing"))]
use super::Memory;
use super::rabbitmq::{ACCESS_REFUSED, RabbitMq, is_reply, receive, stream_offset, to_table};

/// Header of a reader's mark; its value is the reader's own.
pub(super) const MARK: &str = "fleet-reader-mark";
/// Deliveries in flight. The broker hands out whole chunks: more makes it no faster, fewer make it slower.
const PREFETCH: u16 = 1000;
/// Deliveries for each acknowledgement, while there are many.
const PART: u64 = 250;
/// A broker that answers nothing for so long is taken for unreachable.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause before a stream that is not up yet is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// Without a mark: a pause after which nothing more is expected. Chunks of a stream follow each other within
/// milliseconds, on a busy machine within tenths of a second.
const QUIET: Duration = Duration::from_secs(2);

/// Messages added to a stream after what was read of it, as they come.
pub struct Follower(Source);

enum Source {
    RabbitMq(Box<Reading>),
    #[cfg(any(test, feature = "testing"))]
    Memory {
        broker: Memory,
        stream: String,
        read: usize,
    },
}

impl Follower {
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn of_memory(broker: &Memory, stream: &str, read: usize) -> Self {
        Self(Source::Memory {
            broker: broker.clone(),
            stream: stream.to_owned(),
            read,
        })
    }

    /// The next message and its place, waiting for it as long as it takes. Nothing is lost when the wait is cut off.
    /// After an error the follower is of no more use: begin again with [`super::Broker::follow_stream`].
    pub async fn next(&mut self) -> Result<(u64, Message), BrokerError> {
        match &mut self.0 {
            Source::RabbitMq(reading) => reading.next_added().await,
            #[cfg(any(test, feature = "testing"))]
            Source::Memory {
                broker,
                stream,
                read,
            } => {
                let message = broker.stream_message(stream, *read).await;
                let place = *read as u64;
                *read += 1;
                Ok((place, message))
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
    ) -> Result<Follower, BrokerError> {
        let reading = Box::new(self.read_to_end(stream, from, take).await?);
        Ok(Follower(Source::RabbitMq(reading)))
    }

    async fn read_to_end(
        &self,
        stream: &str,
        from: u64,
        take: impl FnMut(u64, Message),
    ) -> Result<Reading, BrokerError> {
        let connection = self.open("fleet-reader").await?;
        let end = self.within_patience(self.mark_when_up(&connection, stream));
        let end = end.await?;
        let connection = match &end {
            End::Mark(_) => connection,
            // From a connection that publishes during an alarm the broker reads no more, acknowledgements included.
            End::Quiet => self.open("fleet-reader").await?,
        };
        let from = match &end {
            // From a place past the end the broker would not even hand out the mark.
            End::Mark(mark) if from > 0 => {
                let there = self.within_patience(self.is_there(from, mark, &connection, stream));
                if there.await? { from } else { 0 }
            }
            _ => from,
        };
        let reading = Reading::begin(self.clone(), connection, stream, from);
        let mut reading = self.within_patience(reading).await?;
        reading.read_to(&end, take).await?;
        Ok(reading)
    }

    /// [`Self::mark`], waiting for a stream that is there but not up yet: while a broker starts it takes
    /// connections before its streams have found their leader.
    async fn mark_when_up(
        &self,
        connection: &Connection,
        stream: &str,
    ) -> Result<End, BrokerError> {
        loop {
            match self.mark(connection, stream).await {
                Err(error @ BrokerError::Object { .. }) if is_starting(&error) => {
                    tracing::debug!(%error, "waiting for the stream");
                    tokio::time::sleep(AGAIN).await;
                }
                marked => return marked,
            }
        }
    }

    /// Leaves a mark at the end of the stream.
    async fn mark(&self, connection: &Connection, stream: &str) -> Result<End, BrokerError> {
        let unusable = |error: lapin::Error| self.stream_error(stream, &error);
        let events = connection.events_listener();
        let channel = connection.create_channel().await.map_err(unusable)?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        // Says in plain words that there is no such stream.
        let declared = channel.queue_declare(stream.into(), passive, FieldTable::default());
        declared.await.map_err(unusable)?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        select.await.map_err(unusable)?;
        let mark = std::hash::RandomState::new().hash_one(stream).to_string();
        let confirmed = tokio::select! {
            confirmed = publish_mark(&channel, stream, &mark) => confirmed,
            () = blocked(events) => return Ok(End::Quiet),
        };
        match confirmed {
            Ok(confirmation) if confirmation.is_ack() => {
                let _ = channel.close(200, "done".into()).await;
                Ok(End::Mark(mark))
            }
            Ok(_) => Ok(End::Quiet),
            Err(error) if is_reply(&error, ACCESS_REFUSED) => Ok(End::Quiet),
            Err(error) => Err(unusable(error)),
        }
    }

    /// Whether the stream has come to the place `from` by now, which the last chunk of the nearest copy tells, or what
    /// comes behind it. One that has not is another stream than that whose place it is: made anew.
    async fn is_there(
        &self,
        from: u64,
        mark: &str,
        connection: &Connection,
        stream: &str,
    ) -> Result<bool, BrokerError> {
        let unusable = |error: lapin::Error| self.stream_error(stream, &error);
        let last = AMQPValue::LongString("last".into());
        let consuming = consume(connection, stream, last).await;
        let (channel, mut consumer) = consuming.map_err(unusable)?;
        let mut there = None;
        while there.is_none() {
            let Ok(next) = tokio::time::timeout(QUIET, consumer.next()).await else {
                // The mark is in a chunk before the last one, and that one does not come to the place either.
                break;
            };
            let delivery = next.ok_or_else(|| ended(stream))?.map_err(unusable)?;
            let tag = delivery.delivery_tag;
            let answered = channel.basic_ack(tag, BasicAckOptions::default());
            answered.await.map_err(unusable)?;
            let place = stream_offset(&delivery).unwrap_or(0);
            if place >= from {
                there = Some(true);
            } else if receive(delivery).message.headers.text(MARK) == Some(mark) {
                there = Some(false);
            }
        }
        let _ = channel.close(200, "done".into()).await;
        Ok(there.unwrap_or(false))
    }

    async fn within_patience<T>(
        &self,
        doing: impl Future<Output = Result<T, BrokerError>>,
    ) -> Result<T, BrokerError> {
        match tokio::time::timeout(PATIENCE, doing).await {
            Ok(done) => done,
            Err(_) => Err(self.silent("it answers nothing")),
        }
    }

    fn silent(&self, what: &str) -> BrokerError {
        BrokerError::Unreachable {
            address: self.address().to_owned(),
            detail: format!("{what} for {} s", PATIENCE.as_secs()),
        }
    }

    /// What the broker says against the stream, or that it says nothing any more.
    fn stream_error(&self, stream: &str, error: &lapin::Error) -> BrokerError {
        match error.kind() {
            ErrorKind::ProtocolError(_) => BrokerError::Object {
                object: "stream",
                name: stream.to_owned(),
                detail: error.to_string(),
            },
            _ => self.unreachable(error),
        }
    }
}

/// Where a stream ends for a reader.
enum End {
    /// Behind everything that was confirmed before the reader came.
    Mark(String),
    /// Where nothing comes for [`QUIET`].
    Quiet,
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

async fn publish_mark(channel: &Channel, stream: &str, mark: &str) -> lapin::Result<Confirmation> {
    let mut headers = Headers::new();
    headers.set(MARK, mark);
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_headers(to_table(&headers));
    let options = BasicPublishOptions::default();
    let published = channel.basic_publish("".into(), stream.into(), options, &[], properties);
    published.await?.await
}

/// Resolves when the broker says that it takes nothing from this connection.
async fn blocked(events: impl Stream<Item = Event>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        if matches!(event, Event::ConnectionBlocked(_)) {
            return;
        }
    }
    std::future::pending().await
}

/// What the broker says of a stream whose leader is not up: <https://www.rabbitmq.com/docs/streams>.
fn is_starting(error: &BrokerError) -> bool {
    error.to_string().contains("is down or inaccessible")
}

/// A consumer of a stream from some place on.
struct Reading {
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
    added: Option<(u64, Message)>,
}

impl Reading {
    async fn begin(
        broker: RabbitMq,
        connection: Connection,
        stream: &str,
        from: u64,
    ) -> Result<Self, BrokerError> {
        let unusable = |error: lapin::Error| broker.stream_error(stream, &error);
        // A place that retention has cut off stands for the first that is left.
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
        let (mark, patience) = match end {
            End::Mark(mark) => (Some(mark.as_str()), PATIENCE),
            End::Quiet => (None, QUIET),
        };
        loop {
            let (place, message) = match tokio::time::timeout(patience, self.receive()).await {
                Ok(received) => received?,
                Err(_) if mark.is_none() => break,
                Err(_) => {
                    let what = format!("of stream {:?} it hands out nothing", self.stream);
                    return Err(self.broker.silent(&what));
                }
            };
            match message.headers.text(MARK) {
                Some(found) if Some(found) == mark => break,
                Some(_) => {}
                None => take(place, message),
            }
            if self.tag.is_multiple_of(PART) {
                self.acknowledge().await?;
            }
        }
        self.acknowledge().await
    }

    /// Acknowledges each message: the broker ends a consumer that leaves one unanswered for half an hour.
    async fn next_added(&mut self) -> Result<(u64, Message), BrokerError> {
        loop {
            if self.added.is_none() {
                self.added = Some(self.receive().await?);
            }
            // Still there for the next call if this one is cut off here.
            self.acknowledge().await?;
            let added = self.added.take();
            if let Some(added) = added.filter(|(_, message)| message.headers.get(MARK).is_none()) {
                return Ok(added);
            }
        }
    }

    async fn receive(&mut self) -> Result<(u64, Message), BrokerError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                self.tag = delivery.delivery_tag;
                let place = stream_offset(&delivery).unwrap_or(0);
                Ok((place, receive(delivery).message))
            }
            Some(Err(error)) => Err(self.broker.stream_error(&self.stream, &error)),
            None => Err(ended(&self.stream)),
        }
    }

    async fn acknowledge(&mut self) -> Result<(), BrokerError> {
        if self.acknowledged == self.tag {
            return Ok(());
        }
        // Said first: when this is cut off the acknowledgement may be on its way, and to repeat one is an error. One
        // that is not is made up for by the next.
        self.acknowledged = self.tag;
        let options = BasicAckOptions { multiple: true };
        let acknowledged = self.channel.basic_ack(self.tag, options).await;
        let acknowledged = acknowledged.map(drop);
        acknowledged.map_err(|error| self.broker.stream_error(&self.stream, &error))
    }

    async fn close(self) {
        // It may be gone already; then there is nothing to close.
        let _ = self.connection.close(200, "done".into()).await;
    }
}
