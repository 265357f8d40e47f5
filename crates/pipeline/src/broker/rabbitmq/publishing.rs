use std::pin::Pin;
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, MaybeDone, maybe_done};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::mpsc;

use super::to_table;
use crate::broker::{Confirm, Link, Request};

/// How often confirms are read. They are read in waves (see [`Outstanding`]); one millisecond adds
/// nothing that a quorum queue's write to disk does not hide.
const WAVE: Duration = Duration::from_millis(1);

/// Publishes what is requested until nobody can request any more and all is confirmed.
pub(super) async fn publish(channel: Channel, mut requests: mpsc::Receiver<Request>, link: Link) {
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
