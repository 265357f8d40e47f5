use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, ErrorKind};
use tokio::sync::mpsc;

use super::to_table;
use crate::broker::{Confirm, ConnectionState, MessageLimit, Request};

/// How often confirms are read. They are read in waves (see [`Outstanding`]); one millisecond adds
/// nothing that a quorum queue's write to disk does not hide.
const WAVE: Duration = Duration::from_millis(1);

/// Publishes what is requested until no more can be requested and all is confirmed.
pub(super) async fn publish(
    channel: Channel,
    mut requests: mpsc::Receiver<Request>,
    state: ConnectionState,
    limit: MessageLimit,
) {
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
                    outstanding.begin(next, send(channel.clone(), next, &request), request);
                }
                // All publishers are gone, but their confirms are still awaited.
                None => open = false,
            },
            _ = waves.tick(), if !outstanding.is_empty() => {
                if let Err(error) = outstanding.read_wave() {
                    // What is outstanding is dropped, and with it the confirms: the senders see the loss.
                    let cause = format!("publishing failed: {error}");
                    return state.fail(limit.learn(&cause).unwrap_or(cause));
                }
            }
        }
    }
    // The session may be over already; then there is nothing to close.
    let _ = channel.close(200, "done".into()).await;
}

/// The broker's confirm of one publication, as lapin gives it.
struct RawConfirm {
    stored: bool,
    /// Message id of a returned message that came with it. It may be another publication's.
    returned: Option<u64>,
}

/// A publication whose confirm has come.
struct ConfirmedPublication {
    id: u64,
    confirm: lapin::Result<RawConfirm>,
    request: Request,
}

/// Publications whose confirm has not come.
///
/// lapin gives a returned message to the confirm of the channel that completes next, which with many in
/// flight may be another message's. The confirm that it comes with never completes after the confirm
/// of the message that was returned. So confirms are read in waves, and none of a wave is passed on before
/// nothing more is there to be read: what was complete when the last one of the wave was read is in
/// the wave too. Returned messages, known by their message id, then fail the publication that they belong to.
#[derive(Default)]
struct Outstanding {
    /// Polls only those that have something new: a window full of waiting ones costs nothing.
    publishing: FuturesUnordered<BoxFuture<'static, ConfirmedPublication>>,
    /// The wave that is being read.
    confirmed: Vec<ConfirmedPublication>,
    /// Message ids of returned messages whose own confirm has not come.
    returned: Vec<u64>,
    woken: Arc<Woken>,
}

/// Whether a set of futures has something to poll again.
#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Outstanding {
    fn is_empty(&self) -> bool {
        self.publishing.is_empty() && self.confirmed.is_empty()
    }

    /// Puts the message on the wire; [`Self::read_wave`] waits for the confirm.
    fn begin(
        &mut self,
        id: u64,
        confirm: impl Future<Output = lapin::Result<RawConfirm>> + Send + 'static,
        request: Request,
    ) {
        let mut publishing = async move {
            ConfirmedPublication {
                id,
                confirm: confirm.await,
                request,
            }
        }
        .boxed();
        match publishing.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(confirmed) => self.confirmed.push(confirmed),
            Poll::Pending => self.publishing.push(publishing),
        }
    }

    /// Reads one wave of confirms and passes it on.
    fn read_wave(&mut self) -> lapin::Result<()> {
        self.read_all();
        // Of the errors of a channel that the broker closed, the one that has its reason.
        let is_reason = |c: &ConfirmedPublication| {
            let error = c.confirm.as_ref().err();
            error.is_some_and(|error| matches!(error.kind(), ErrorKind::ProtocolError(_)))
        };
        if let Some(n) = self.confirmed.iter().position(is_reason) {
            return self.confirmed.swap_remove(n).confirm.map(drop);
        }
        let mut wave = Vec::with_capacity(self.confirmed.len());
        for ConfirmedPublication {
            id,
            confirm,
            request,
        } in self.confirmed.drain(..)
        {
            let RawConfirm { stored, returned } = confirm?;
            self.returned.extend(returned);
            wave.push((id, stored, request));
        }
        for (id, stored, request) in wave {
            let confirm = match self.returned.iter().position(|returned| *returned == id) {
                Some(n) => {
                    self.returned.swap_remove(n);
                    Confirm::Unroutable
                }
                None if stored => Confirm::Stored,
                None => Confirm::Refused,
            };
            drop(request.permit);
            // The job may have given up waiting; the message is stored all the same.
            let _ = request.confirm.send(confirm);
        }
        Ok(())
    }

    /// Reads what is there, until nothing more is: the set is not ready also when it only takes a
    /// break, or while another thread is adding to it; it has then woken its reader.
    fn read_all(&mut self) {
        let waker = Waker::from(self.woken.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::SeqCst);
            while let Poll::Ready(Some(confirmed)) = self.publishing.poll_next_unpin(&mut cx) {
                self.confirmed.push(confirmed);
            }
            if !self.woken.0.load(Ordering::SeqCst) || self.publishing.is_empty() {
                return;
            }
        }
    }
}

/// Publishes; the message is on the wire once this has been polled.
fn send(
    channel: Channel,
    id: u64,
    request: &Request,
) -> impl Future<Output = lapin::Result<RawConfirm>> + Send + 'static {
    let publication = &request.publication;
    let exchange = publication.exchange.as_str().into();
    let routing_key = publication.routing_key.as_str().into();
    let body = publication.message.body.clone();
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id(id.to_string().into())
        .with_headers(to_table(&publication.message.headers));
    async move {
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let published = channel.basic_publish(exchange, routing_key, options, &body, properties);
        Ok(published.await?.await?.into())
    }
}

impl From<Confirmation> for RawConfirm {
    fn from(confirmation: Confirmation) -> Self {
        let stored = confirmation.is_ack();
        let returned = confirmation.take_message().and_then(|returned| {
            let id = returned.delivery.properties.message_id().as_ref()?;
            id.as_str().parse().ok()
        });
        Self { stored, returned }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::broker::{Publication, Publisher};
    use batch::{Headers, Message};
    use futures_util::future::poll_fn;
    use tokio::sync::oneshot;

    type Resolver = oneshot::Sender<RawConfirm>;

    const fn stored(returned: Option<u64>) -> RawConfirm {
        RawConfirm {
            stored: true,
            returned,
        }
    }

    /// Some outstanding publications, the first with id 0: their confirms, to be given and to be received.
    async fn outstanding(
        count: u64,
    ) -> (Outstanding, Vec<Resolver>, Vec<oneshot::Receiver<Confirm>>) {
        let (publisher, mut requests) = Publisher::new(MessageLimit::default());
        let mut outstanding = Outstanding::default();
        let (mut resolvers, mut confirms) = (Vec::new(), Vec::new());
        for id in 0..count {
            let message = Message::new(Headers::new(), "body");
            let publication = Publication::to_queue("q".into(), message);
            confirms.push(publisher.publish(publication).await.unwrap());
            let (resolver, confirm) = oneshot::channel::<RawConfirm>();
            // Without tokio's budget for a task, which lapin's confirms do not draw on.
            let confirm = tokio::task::unconstrained(confirm);
            let confirm = async { Ok(confirm.await.expect("the test confirms")) };
            outstanding.begin(id, confirm, requests.recv().await.unwrap());
            resolvers.push(resolver);
        }
        (outstanding, resolvers, confirms)
    }

    #[tokio::test]
    async fn a_returned_message_fails_its_own_publication_and_not_its_carrier() {
        let (mut outstanding, resolvers, mut confirms) = outstanding(3).await;
        for (resolver, returned) in resolvers.into_iter().zip([Some(2), None, None]) {
            let _ = resolver.send(stored(returned));
        }
        outstanding.read_wave().unwrap();
        let confirms: Vec<_> = confirms.iter_mut().map(|c| c.try_recv().unwrap()).collect();
        let expected = [Confirm::Stored, Confirm::Stored, Confirm::Unroutable];
        assert_eq!(confirms, expected);
        assert!(outstanding.is_empty());
    }

    /// The carrier of a returned message completes on another thread while the wave is read, after it was
    /// polled and before the message's own confirm is: that must not pass for stored.
    #[tokio::test]
    async fn a_carrier_that_completes_while_a_wave_is_read_is_read_before_the_wave_is_passed_on() {
        let (mut outstanding, mut resolvers, mut confirms) = outstanding(1).await;
        let carrier = Mutex::new(Some(resolvers.remove(0)));
        let (publisher, mut requests) = Publisher::new(MessageLimit::default());
        let message = Message::new(Headers::new(), "body");
        let publication = Publication::to_queue("q".into(), message);
        confirms.push(publisher.publish(publication).await.unwrap());
        let mut on_the_wire = false;
        let returned = poll_fn(move |_| {
            if !std::mem::replace(&mut on_the_wire, true) {
                return Poll::Pending;
            }
            if let Some(carrier) = carrier.lock().unwrap().take() {
                let _ = carrier.send(stored(Some(1)));
            }
            Poll::Ready(Ok(stored(None)))
        });
        outstanding.begin(1, returned, requests.recv().await.unwrap());
        outstanding.read_wave().unwrap();
        assert_eq!(confirms[0].try_recv(), Ok(Confirm::Stored));
        assert_eq!(confirms[1].try_recv(), Ok(Confirm::Unroutable));
    }

    #[tokio::test]
    async fn a_wave_is_read_to_its_end_however_many_there_are() {
        let (mut outstanding, resolvers, mut confirms) = outstanding(500).await;
        outstanding.read_wave().unwrap();
        assert!(confirms.iter_mut().all(|c| c.try_recv().is_err()));
        for resolver in resolvers {
            let _ = resolver.send(stored(None));
        }
        outstanding.read_wave().unwrap();
        let all = confirms
            .iter_mut()
            .all(|c| c.try_recv() == Ok(Confirm::Stored));
        assert!(all && outstanding.is_empty());
    }
}
