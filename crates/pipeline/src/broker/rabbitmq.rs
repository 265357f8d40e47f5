use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use batch::{HeaderValue, Headers, Message};
use bytes::Bytes;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use futures_util::{FutureExt, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions,
    BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    Event, ExchangeKind,
};
use tokio::sync::mpsc;

use super::session::{Answer, Backend};
use super::{
    Acknowledgement, BrokerError, Confirm, Delivery, Link, Publisher, Request, Session,
    Subscription,
};

/// How often confirms are read. They are read in waves (see [`Outstanding`]); one millisecond adds
/// nothing that a quorum queue's write to disk does not hide.
const WAVE: Duration = Duration::from_millis(1);
/// Time for the TCP connection and the AMQP handshake together.
const CONNECT: Duration = Duration::from_secs(10);
/// AMQP reply codes that mean "not with these credentials, not this virtual host".
const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;

/// RabbitMQ at one AMQP URL.
#[derive(Clone)]
pub struct RabbitMq {
    url: Arc<str>,
    /// The URL without its password, for errors.
    address: Arc<str>,
}

impl std::fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RabbitMq").field(&self.address).finish()
    }
}

impl RabbitMq {
    /// `url`: `amqp[s]://user:password@host:port/vhost`.
    pub fn new(url: &str) -> Result<Self, url::ParseError> {
        let mut shown = url::Url::parse(url)?;
        // A URL that cannot have a password has none to hide.
        let _ = shown.set_password(None);
        Ok(Self {
            url: url.into(),
            address: shown.as_str().into(),
        })
    }

    pub(super) async fn connect(&self, program: &str) -> Result<Session, BrokerError> {
        let connection = self.open(program).await?;
        let link = Link::new();
        tokio::spawn(watch_connection(connection.events_listener(), link.clone()));
        let unusable = |e: lapin::Error| self.unreachable(&e);
        let channel = connection.create_channel().await.map_err(unusable)?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        select.await.map_err(unusable)?;
        let (publisher, requests) = Publisher::new();
        tokio::spawn(publish(channel, requests, link.clone()));
        Ok(Session {
            publisher,
            link,
            backend: Backend::RabbitMq(Arc::new(Connected { connection })),
        })
    }

    pub(super) async fn open(&self, program: &str) -> Result<Connection, BrokerError> {
        // Without automatic recovery: after one a delivery tag may be of another life of the
        // connection, and a confirm may never come. A lost session is lost as a whole.
        let properties = ConnectionProperties::default().with_connection_name(program.into());
        let connecting = Connection::connect(&self.url, properties);
        match tokio::time::timeout(CONNECT, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(self.judge(&error)),
            Err(_) => Err(BrokerError::Unreachable {
                address: self.address.to_string(),
                detail: format!("no answer within {} s", CONNECT.as_secs()),
            }),
        }
    }

    fn judge(&self, error: &lapin::Error) -> BrokerError {
        let refused = match error.kind() {
            ErrorKind::ProtocolError(amqp) => {
                // While a broker starts, its virtual hosts come up after its listeners.
                let starting = amqp.get_message().as_str().contains("is down");
                [ACCESS_REFUSED, NOT_ALLOWED].contains(&amqp.get_id()) && !starting
            }
            _ => false,
        };
        if refused {
            BrokerError::Refused {
                address: self.address.to_string(),
                detail: error.to_string(),
            }
        } else {
            self.unreachable(error)
        }
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) fn unreachable(&self, error: &lapin::Error) -> BrokerError {
        BrokerError::Unreachable {
            address: self.address.to_string(),
            detail: error.to_string(),
        }
    }
}

/// The connection of one session.
pub(crate) struct Connected {
    connection: Connection,
}

impl Connected {
    pub async fn subscribe(
        &self,
        queue: &str,
        prefetch: u16,
        link: &Link,
    ) -> Result<Subscription, BrokerError> {
        let unusable = |e: lapin::Error| object("queue", queue, &e);
        let channel = self.connection.create_channel().await.map_err(unusable)?;
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        qos.await.map_err(unusable)?;
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = consumer.await.map_err(unusable)?;
        let tag = consumer.tag().to_string();
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch).max(1));
        let (answers, receiver) = mpsc::unbounded_channel();
        let cancelled = Arc::new(AtomicBool::new(false));
        let delivering = deliver(
            consumer,
            sender,
            cancelled.clone(),
            queue.to_owned(),
            link.clone(),
        );
        tokio::spawn(delivering);
        tokio::spawn(acknowledge(channel, tag, receiver, cancelled, link.clone()));
        Ok(Subscription {
            deliveries,
            answers,
        })
    }

    pub async fn exchange_exists(&self, name: &str) -> Result<bool, BrokerError> {
        let unusable = |e: lapin::Error| object("exchange", name, &e);
        let channel = self.connection.create_channel().await.map_err(unusable)?;
        let passive = ExchangeDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let declared = channel.exchange_declare(
            name.into(),
            ExchangeKind::Direct,
            passive,
            FieldTable::default(),
        );
        match declared.await {
            Ok(()) => {
                let _ = channel.close(200, "done".into()).await;
                Ok(true)
            }
            Err(error) if is_not_found(&error) => Ok(false),
            Err(error) => Err(unusable(error)),
        }
    }

    pub async fn queue_length(&self, name: &str) -> Result<u64, BrokerError> {
        let unusable = |e: lapin::Error| object("queue", name, &e);
        let channel = self.connection.create_channel().await.map_err(unusable)?;
        let passive = QueueDeclareOptions {
            passive: true,
            ..Default::default()
        };
        let declared = channel.queue_declare(name.into(), passive, FieldTable::default());
        let length = declared.await.map_err(unusable)?.message_count();
        let _ = channel.close(200, "done".into()).await;
        Ok(u64::from(length))
    }

    pub async fn close(&self) {
        // It may be gone already; then there is nothing to close.
        let _ = self.connection.close(200, "done".into()).await;
    }
}

fn object(object: &'static str, name: &str, error: &lapin::Error) -> BrokerError {
    BrokerError::Object {
        object,
        name: name.to_owned(),
        detail: error.to_string(),
    }
}

fn is_not_found(error: &lapin::Error) -> bool {
    const NOT_FOUND: u16 = 404;
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if amqp.get_id() == NOT_FOUND)
}

async fn watch_connection(events: impl futures_util::Stream<Item = Event>, link: Link) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => link.block(Some(reason)),
            Event::ConnectionUnblocked => link.block(None),
            // An error of one channel ends what uses that channel, which says so itself: a look whether an
            // exchange exists ends its own alone.
            Event::Error(error) if error.is_amqp_soft_error() => {}
            Event::Error(error) => link.lose(error.to_string()),
            _ => {}
        }
    }
    link.lose("the connection is closed");
}

/// Hands deliveries on until the consumer ends, and says so: a consumer never dies unseen. Its end is
/// no loss when the loop itself has cancelled it.
async fn deliver(
    mut consumer: Consumer,
    sender: mpsc::Sender<Delivery>,
    cancelled: Arc<AtomicBool>,
    queue: String,
    link: Link,
) {
    loop {
        let delivery = tokio::select! {
            biased;
            () = sender.closed() => return,
            delivery = consumer.next() => delivery,
        };
        match delivery {
            Some(Ok(delivery)) => {
                if sender.send(receive(delivery)).await.is_err() {
                    return;
                }
            }
            // After an error the consumer never wakes again: the session is over.
            Some(Err(error)) => return link.lose(format!("consuming {queue} failed: {error}")),
            None if cancelled.load(Ordering::SeqCst) => return,
            None => return link.lose(format!("the broker cancelled the consumer of {queue}")),
        }
    }
}

async fn acknowledge(
    channel: Channel,
    consumer: String,
    mut answers: mpsc::UnboundedReceiver<Answer>,
    cancelled: Arc<AtomicBool>,
    link: Link,
) {
    while let Some(answer) = answers.recv().await {
        let sent = match answer {
            Answer::Acknowledgement(Acknowledgement::Ack { tag, multiple }) => {
                channel.basic_ack(tag, BasicAckOptions { multiple }).await
            }
            Answer::Acknowledgement(Acknowledgement::GiveBack { tag }) => {
                let options = BasicNackOptions {
                    multiple: false,
                    requeue: true,
                };
                channel.basic_nack(tag, options).await
            }
            Answer::Cancel => {
                cancelled.store(true, Ordering::SeqCst);
                let options = BasicCancelOptions::default();
                channel
                    .basic_cancel(consumer.as_str().into(), options)
                    .await
            }
            Answer::Close(done) => {
                // The broker has everything before its close-ok.
                let closed = channel.close(200, "done".into()).await;
                let _ = done.send(());
                if let Err(error) = closed {
                    link.lose(format!("closing the channel failed: {error}"));
                }
                return;
            }
        };
        if let Err(error) = sent {
            return link.lose(format!("acknowledging failed: {error}"));
        }
    }
}

async fn publish(channel: Channel, mut requests: mpsc::Receiver<Request>, link: Link) {
    let mut outstanding = Outstanding::default();
    let mut next = 0u64;
    let mut open = true;
    let mut waves = tokio::time::interval(WAVE);
    waves.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while open || !outstanding.is_empty() {
        tokio::select! {
            request = requests.recv(), if open => match request {
                Some(request) => {
                    next += 1;
                    outstanding.begin(next, &channel, request);
                }
                // All publishers are gone, but their confirms are still awaited.
                None => open = false,
            },
            _ = waves.tick(), if !outstanding.is_empty() => {
                if let Err(error) = outstanding.settle() {
                    // What is outstanding is dropped, and with it the answers: the senders see the loss.
                    return link.lose(format!("publishing failed: {error}"));
                }
            }
        }
    }
    // The session may be over already; then there is nothing to close.
    let _ = channel.close(200, "done".into()).await;
}

type Publishing = MaybeDone<BoxFuture<'static, lapin::Result<Confirmation>>>;

/// Publications whose confirm has not come.
///
/// lapin hands a returned message to whichever confirm of the channel completes next, which with many in
/// flight may be another message's. The confirm that carries it never completes after the confirm
/// of the message that was returned. So confirms are read in waves, all that there are at a time, and none
/// of a wave is passed on before the whole wave is read: returned messages, known by their message id,
/// then fail the publication that they belong to.
#[derive(Default)]
struct Outstanding {
    publishing: Vec<(u64, Publishing, Request)>,
    /// Message ids of returned messages whose own confirm has not come.
    returned: Vec<u64>,
}

impl Outstanding {
    fn is_empty(&self) -> bool {
        self.publishing.is_empty()
    }

    /// Puts the message on the wire; nobody waits for this future but [`Self::settle`].
    fn begin(&mut self, id: u64, channel: &Channel, request: Request) {
        let mut publishing = maybe_done(send(channel.clone(), id, &request));
        let _ = publishing.poll_unpin(&mut Context::from_waker(Waker::noop()));
        self.publishing.push((id, publishing, request));
    }

    /// Reads one wave of confirms and passes it on.
    fn settle(&mut self) -> lapin::Result<()> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut settled = Vec::new();
        let mut n = 0;
        while n < self.publishing.len() {
            if self.publishing[n].1.poll_unpin(&mut cx).is_pending() {
                n += 1;
                continue;
            }
            let (id, mut publishing, request) = self.publishing.swap_remove(n);
            let confirmation = Pin::new(&mut publishing).take_output();
            let confirmation = confirmation.expect("it is done, and taken once")?;
            let stored = confirmation.is_ack();
            if let Some(returned) = confirmation.take_message() {
                let id = returned.delivery.properties.message_id().as_ref();
                self.returned
                    .extend(id.and_then(|id| id.as_str().parse::<u64>().ok()));
            }
            settled.push((id, stored, request));
        }
        for (id, stored, request) in settled {
            let confirm = match self.returned.iter().position(|returned| *returned == id) {
                Some(n) => {
                    self.returned.swap_remove(n);
                    Confirm::Unroutable
                }
                None if stored => Confirm::Stored,
                None => Confirm::Refused,
            };
            drop(request.share);
            // The job may have given up waiting; the message is stored all the same.
            let _ = request.confirm.send(confirm);
        }
        Ok(())
    }
}

fn send(
    channel: Channel,
    id: u64,
    request: &Request,
) -> BoxFuture<'static, lapin::Result<Confirmation>> {
    let publication = &request.publication;
    let exchange = publication.exchange.as_str().into();
    let routing_key = publication.routing_key.as_str().into();
    let body = publication.message.body.clone();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(id.to_string().into())
        .with_headers(to_table(&publication.message.headers));
    Box::pin(async move {
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let published = channel.basic_publish(exchange, routing_key, options, &body, properties);
        published.await?.await
    })
}

pub(super) fn to_table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers.iter() {
        let value = match value {
            HeaderValue::Int(int) => AMQPValue::LongLongInt(*int),
            HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        };
        table.insert(name.into(), value);
    }
    table
}

/// What a delivery says. The broker's own headers (`x-…`) are read here and go no further: republished,
/// they would tell a later reader about an earlier journey.
pub(super) fn receive(delivery: lapin::message::Delivery) -> Delivery {
    let mut headers = Headers::new();
    let mut delivery_count = 0;
    let mut death = None;
    let table = delivery.properties.headers().as_ref();
    for (name, value) in table.into_iter().flat_map(|table| table.inner()) {
        match (name.as_str(), value) {
            ("x-delivery-count", value) => delivery_count = as_int(value).unwrap_or(0),
            ("x-death", AMQPValue::FieldArray(deaths)) => {
                death = deaths.as_slice().first().and_then(death_reason);
            }
            (name, _) if name.starts_with("x-") => {}
            (name, AMQPValue::LongString(text)) => {
                headers.set(name, String::from_utf8_lossy(text.as_bytes()).into_owned());
            }
            (name, value) => match as_int(value) {
                Some(int) => {
                    headers.set(name, int);
                }
                None => {
                    headers.set(name, format!("{value:?}"));
                }
            },
        }
    }
    Delivery {
        message: Message::new(headers, Bytes::from(delivery.data)),
        tag: delivery.delivery_tag,
        delivery_count: u32::try_from(delivery_count).unwrap_or(0),
        death,
    }
}

fn as_int(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}

fn death_reason(death: &AMQPValue) -> Option<String> {
    let AMQPValue::FieldTable(table) = death else {
        return None;
    };
    match table.inner().get("reason") {
        Some(AMQPValue::LongString(reason)) => {
            Some(String::from_utf8_lossy(reason.as_bytes()).into_owned())
        }
        _ => None,
    }
}
