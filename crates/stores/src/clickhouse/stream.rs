use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use ::clickhouse::query::BytesCursor;
use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Sleep};

use super::replica::Origin;
use super::{Error, Summary};

/// The body of an answer, piece by piece as it comes from the network, uncopied.
///
/// Ends with `None` only when the server ended the body properly; a broken connection, a timeout or an
/// exception in mid-stream is one `Err`, and then the stream ends. A reader of a format with an end marker
/// should check for it all the same. A failure that may be the replica's fault starts its cooldown.
pub struct ByteStream {
    /// What was read ahead.
    first: Option<Bytes>,
    cursor: BytesCursor,
    origin: Arc<Origin>,
    idle: Duration,
    /// When the wait for the next piece times out. One timer for the whole stream, reset at each wait.
    deadline: Pin<Box<Sleep>>,
    /// Whether the timer runs: it starts when a piece is polled for, so that a slow reader is no timeout.
    waiting: bool,
    done: bool,
}

impl ByteStream {
    pub(super) fn new(cursor: BytesCursor, origin: Arc<Origin>, idle: Duration) -> Self {
        Self {
            first: None,
            cursor,
            origin,
            idle,
            deadline: Box::pin(tokio::time::sleep(idle)),
            waiting: false,
            done: false,
        }
    }

    /// Gives `first` before the rest.
    pub(super) fn beginning_with(self, first: Bytes) -> Self {
        Self {
            first: Some(first),
            ..self
        }
    }

    /// Address of the replica that answers.
    pub fn replica(&self) -> &str {
        &self.origin.address
    }

    /// The server's summary, once its headers have come; it may count only what was done until then.
    pub fn summary(&self) -> Option<Summary> {
        self.cursor.summary().map(Summary::from)
    }

    fn failed(&mut self, error: Error) -> Poll<Option<Result<Bytes, Error>>> {
        self.done = true;
        self.origin.note_failure(&error);
        Poll::Ready(Some(Err(error)))
    }
}

impl Stream for ByteStream {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(first)));
        }
        if self.done {
            return Poll::Ready(None);
        }
        match self.cursor.poll_next(cx) {
            Poll::Ready(Ok(Some(piece))) => {
                self.waiting = false;
                Poll::Ready(Some(Ok(piece)))
            }
            Poll::Ready(Ok(None)) => {
                self.done = true;
                self.origin.health.mark_up();
                Poll::Ready(None)
            }
            Poll::Ready(Err(error)) => {
                let error = self.origin.error(error);
                self.failed(error)
            }
            Poll::Pending => {
                if !self.waiting {
                    let deadline = Instant::now() + self.idle;
                    self.deadline.as_mut().reset(deadline);
                    self.waiting = true;
                }
                ready!(self.deadline.as_mut().poll(cx));
                let error = Error::Timeout {
                    replica: self.origin.address.clone(),
                    what: "waiting for the next piece of the answer",
                    after: self.idle,
                };
                self.failed(error)
            }
        }
    }
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteStream")
            .field("replica", &self.origin.address)
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}
