use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
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
                    outstanding.begin(next, send(channel.clone(), next, &request), request);
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

/// The broker's answer to one publication, as lapin gives it.
struct Answer {
    stored: bool,
    /// Message id of a returned message that came with it. It may be another publication's.
    returned: Option<u64>,
}

/// A publication with its answer, and the request for it.
type Answered = (u64, lapin::Result<Answer>, Request);

/// Publications whose confirm has not come.
///
/// lapin hands a returned message to whichever confirm of the channel completes next, which with many in
/// flight may be another message's. The confirm that carries it never completes after the confirm
/// of the message that was returned. So confirms are read in waves, and none of a wave is passed on before
/// nothing more is there to be read: what was complete when the last one of the wave was read is in
/// the wave too. Returned messages, known by their message id, then fail the publication that they belong to.
#[derive(Default)]
struct Outstanding {
    /// Polls only those that have something new: a window full of waiting ones costs nothing.
    publishing: FuturesUnordered<BoxFuture<'static, Answered>>,
    /// The wave that is being read.
    answered: Vec<Answered>,
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
        self.publishing.is_empty() && self.answered.is_empty()
    }

    /// Puts the message on the wire; nobody waits for the answer but [`Self::settle`].
    fn begin(
        &mut self,
        id: u64,
        answer: impl Future<Output = lapin::Result<Answer>> + Send + 'static,
        request: Request,
    ) {
        let mut publishing = async move { (id, answer.await, request) }.boxed();
        match publishing.poll_unpin(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answered) => self.answered.push(answered),
            Poll::Pending => self.publishing.push(publishing),
        }
    }

    /// Reads one wave of confirms and passes it on.
    fn settle(&mut self) -> lapin::Result<()> {
        self.read();
        let mut wave = Vec::with_capacity(self.answered.len());
        for (id, answer, request) in self.answered.drain(..) {
            let answer = answer?;
            self.returned.extend(answer.returned);
            wave.push((id, answer.stored, request));
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
            drop(request.share);
            // The job may have given up waiting; the message is stored all the same.
            let _ = request.confirm.send(confirm);
        }
        Ok(())
    }

    /// Reads what is there, until nothing more is: the set answers "not yet" also when it only takes a
    /// break, or while another thread is adding to it; it has then woken its reader.
    fn read(&mut self) {
        let waker = Waker::from(self.woken.clone());
        let mut cx = Context::from_waker(&waker);
        loop {
            self.woken.0.store(false, Ordering::SeqCst);
            while let Poll::Ready(Some(answered)) = self.publishing.poll_next_unpin(&mut cx) {
                self.answered.push(answered);
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
) -> impl Future<Output = lapin::Result<Answer>> + Send + 'static {
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

impl From<Confirmation> for Answer {
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

    type Resolver = oneshot::Sender<Answer>;

    const fn stored(returned: Option<u64>) -> Answer {
        Answer {
            stored: true,
            returned,
        }
    }

    /// Some outstanding publications, the first with id 0: their answers to be given, and to be heard.
    async fn outstanding(
        count: u64,
    ) -> (Outstanding, Vec<Resolver>, Vec<oneshot::Receiver<Confirm>>) {
        let (publisher, mut requests) = Publisher::new();
        let mut outstanding = Outstanding::default();
        let (mut resolvers, mut confirms) = (Vec::new(), Vec::new());
        for id in 0..count {
            let message = Message::new(Headers::new(), "body");
            let publication = Publication::to_queue("q".into(), message);
            confirms.push(publisher.publish(publication).await.unwrap());
            let (resolver, answer) = oneshot::channel::<Answer>();
            // Without tokio's budget for a task, which lapin's answers do not draw on.
            let answer = tokio::task::unconstrained(answer);
            let answer = async { Ok(answer.await.expect("the test answers")) };
            outstanding.begin(id, answer, requests.recv().await.unwrap());
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
        outstanding.settle().unwrap();
        let confirms: Vec<_> = confirms.iter_mut().map(|c| c.try_recv().unwrap()).collect();
        let expected = [Confirm::Stored, Confirm::Stored, Confirm::Unroutable];
        assert_eq!(confirms, expected);
        assert!(outstanding.is_empty());
    }

    /// The carrier of a returned message completes on another thread while the wave is read, after it was
    /// looked at and before the message's own confirm is: that must not pass for stored.
    #[tokio::test]
    async fn a_carrier_that_completes_while_a_wave_is_read_is_read_before_the_wave_goes_on() {
        let (mut outstanding, mut resolvers, mut confirms) = outstanding(1).await;
        let carrier = Mutex::new(Some(resolvers.remove(0)));
        let (publisher, mut requests) = Publisher::new();
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
        outstanding.settle().unwrap();
        assert_eq!(confirms[0].try_recv(), Ok(Confirm::Stored));
        assert_eq!(confirms[1].try_recv(), Ok(Confirm::Unroutable));
    }

    #[tokio::test]
    async fn a_wave_is_read_to_its_end_however_many_there_are() {
        let (mut outstanding, resolvers, mut confirms) = outstanding(500).await;
        outstanding.settle().unwrap();
        assert!(confirms.iter_mut().all(|c| c.try_recv().is_err()));
        for resolver in resolvers {
            let _ = resolver.send(stored(None));
        }
        outstanding.settle().unwrap();
        let all = confirms
            .iter_mut()
            .all(|c| c.try_recv() == Ok(Confirm::Stored));
        assert!(all && outstanding.is_empty());
    }
}
