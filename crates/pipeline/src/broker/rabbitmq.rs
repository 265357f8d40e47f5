mod address;
mod lease;
mod publishing;
mod translation;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Consumer, ErrorKind, Event, ExchangeKind};
use tokio::sync::mpsc;

use super::session::{Backend, ChannelCommand};
use super::{
    Acknowledgement, BrokerError, ConnectionState, Delivery, MessageLimit, Publisher, Session,
    Subscription,
};
pub use address::parse_amqp_url;
use publishing::publish;
pub(super) use translation::{receive, stream_offset, to_table};

/// Time for the TCP connection and the AMQP handshake together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// AMQP reply codes that mean "not with these credentials, not this virtual host".
pub(super) const ACCESS_REFUSED: u16 = 403;
const NOT_ALLOWED: u16 = 530;
const NOT_FOUND: u16 = 404;

/// RabbitMQ at one AMQP URL.
#[derive(Clone)]
pub struct RabbitMq {
    uri: Arc<AMQPUri>,
    /// The URL without its password, for errors.
    address: Arc<str>,
    limit: MessageLimit,
}

impl std::fmt::Debug for RabbitMq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("RabbitMq").field(&self.address).finish()
    }
}

impl RabbitMq {
    /// `url`: `amqp[s]://user:password@host:port/vhost`.
    pub fn new(url: &str) -> Result<Self, String> {
        let uri = parse_amqp_url(url)?;
        let mut shown = url::Url::parse(url).map_err(|error| error.to_string())?;
        // A URL that cannot have a password has none to hide.
        let _ = shown.set_password(None);
        Ok(Self {
            uri: Arc::new(uri),
            address: shown.as_str().into(),
            limit: MessageLimit::default(),
        })
    }

    pub(super) async fn connect(&self, program: &str) -> Result<Session, BrokerError> {
        let connection = self.open(program).await?;
        let state = ConnectionState::default();
        let events = connection.events_listener();
        tokio::spawn(watch_connection(events, state.clone()));
        let unusable = |e: lapin::Error| self.unreachable(e);
        let channel = connection.create_channel().await.map_err(unusable)?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        select.await.map_err(unusable)?;
        let (publisher, requests) = Publisher::new(self.limit.clone());
        let publishing = publish(channel, requests, state.clone(), self.limit.clone());
        tokio::spawn(publishing);
        Ok(Session {
            publisher,
            state,
            backend: Backend::RabbitMq(Arc::new(RabbitMqConnection { connection })),
        })
    }

    pub(super) async fn open(&self, program: &str) -> Result<Connection, BrokerError> {
        // Without automatic recovery: after one a delivery tag may be of another life of the
        // connection, and a confirm may never come. A lost session is lost as a whole.
        let properties = ConnectionProperties::default().with_connection_name(program.into());
        let connecting = Connection::connect_uri((*self.uri).clone(), properties);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(connected) => connected.map_err(|error| self.connection_error(&error)),
            Err(_) => {
                let seconds = CONNECT_TIMEOUT.as_secs();
                Err(self.unreachable(format!("no reply within {seconds} s")))
            }
        }
    }

    fn connection_error(&self, error: &lapin::Error) -> BrokerError {
        let refused = is_reply(error, ACCESS_REFUSED) || is_reply(error, NOT_ALLOWED);
        let detail = error.to_string();
        // While a broker starts, its virtual hosts come up after its listeners.
        if !refused || detail.contains("is down") {
            return self.unreachable(detail);
        }
        BrokerError::Refused {
            address: self.address.to_string(),
            detail,
        }
    }

    pub(super) fn unreachable(&self, detail: impl ToString) -> BrokerError {
        BrokerError::Unreachable {
            address: self.address.to_string(),
            detail: detail.to_string(),
        }
    }
}

/// The connection of one session.
pub(crate) struct RabbitMqConnection {
    connection: Connection,
}

impl RabbitMqConnection {
    pub async fn subscribe(
        &self,
        queue: &str,
        prefetch: u16,
        state: &ConnectionState,
    ) -> Result<Subscription, BrokerError> {
        let unusable = |e: lapin::Error| object_error("queue", queue, &e);
        let channel = self.connection.create_channel().await.map_err(unusable)?;
        let qos = channel.basic_qos(prefetch, BasicQosOptions::default());
        qos.await.map_err(unusable)?;
        let options = BasicConsumeOptions::default();
        let consumer =
            channel.basic_consume(queue.into(), "".into(), options, FieldTable::default());
        let consumer = consumer.await.map_err(unusable)?;
        let tag = consumer.tag().to_string();
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch).max(1));
        let (commands, receiver) = mpsc::unbounded_channel();
        let (cancelled, queue) = (Arc::new(AtomicBool::new(false)), queue.to_owned());
        let delivering = deliver(consumer, sender, cancelled.clone(), queue, state.clone());
        tokio::spawn(delivering);
        let acknowledging = acknowledge(channel, tag, receiver, cancelled, state.clone());
        tokio::spawn(acknowledging);
        Ok(Subscription {
            deliveries,
            commands,
        })
    }

    pub async fn exchange_exists(&self, name: &str) -> Result<bool, BrokerError> {
        let unusable = |e: lapin::Error| object_error("exchange", name, &e);
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
            Err(error) if is_reply(&error, NOT_FOUND) => Ok(false),
            Err(error) => Err(unusable(error)),
        }
    }

    pub async fn queue_length(&self, name: &str) -> Result<u64, BrokerError> {
        let unusable = |e: lapin::Error| object_error("queue", name, &e);
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

/// An error of one of the broker's objects.
pub(super) fn object_error(object: &'static str, name: &str, error: &lapin::Error) -> BrokerError {
    let (name, detail) = (name.to_owned(), error.to_string());
    // The code is the same for a queue that exists and whose leader is down.
    if is_reply(error, NOT_FOUND) && detail.contains("NOT_FOUND - no ") {
        BrokerError::NotFound {
            object,
            name,
            detail,
        }
    } else {
        BrokerError::Object {
            object,
            name,
            detail,
        }
    }
}

/// Whether it is a reply of the broker itself, with this code.
pub(super) fn is_reply(error: &lapin::Error, code: u16) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(amqp) if amqp.get_id() == code)
}

async fn watch_connection(events: impl futures_util::Stream<Item = Event>, state: ConnectionState) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => state.block(Some(reason)),
            Event::ConnectionUnblocked => state.block(None),
            // An error of one channel is reported by what uses that channel: a check whether an exchange exists ends
            // its own alone.
            Event::Error(error) if error.is_amqp_soft_error() => {}
            Event::Error(error) => state.fail(error.to_string()),
            _ => {}
        }
    }
    state.fail("the connection is closed");
}

/// Hands deliveries on until the consumer ends, which fails the session: a consumer never ends unseen. Its end is
/// no failure when the loop itself has cancelled it.
async fn deliver(
    mut consumer: Consumer,
    sender: mpsc::Sender<Delivery>,
    cancelled: Arc<AtomicBool>,
    queue: String,
    state: ConnectionState,
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
            Some(Err(error)) => return state.fail(format!("consuming {queue} failed: {error}")),
            None if cancelled.load(Ordering::SeqCst) => return,
            None => return state.fail(format!("the broker cancelled the consumer of {queue}")),
        }
    }
}

async fn acknowledge(
    channel: Channel,
    consumer: String,
    mut commands: mpsc::UnboundedReceiver<ChannelCommand>,
    cancelled: Arc<AtomicBool>,
    state: ConnectionState,
) {
    while let Some(command) = commands.recv().await {
        let sent = match command {
            ChannelCommand::Acknowledgement(Acknowledgement::Ack { tag, multiple }) => {
                channel.basic_ack(tag, BasicAckOptions { multiple }).await
            }
            ChannelCommand::Acknowledgement(Acknowledgement::Requeue { tag }) => {
                let options = BasicNackOptions {
                    multiple: false,
                    requeue: true,
                };
                channel.basic_nack(tag, options).await
            }
            ChannelCommand::Cancel => {
                cancelled.store(true, Ordering::SeqCst);
                let options = BasicCancelOptions::default();
                channel
                    .basic_cancel(consumer.as_str().into(), options)
                    .await
            }
            ChannelCommand::Close(done) => {
                // The broker has everything before its close-ok.
                let closed = channel.close(200, "done".into()).await;
                let _ = done.send(());
                if let Err(error) = closed {
                    state.fail(format!("closing the channel failed: {error}"));
                }
                return;
            }
        };
        if let Err(error) = sent {
            return state.fail(format!("acknowledging failed: {error}"));
        }
    }
}
