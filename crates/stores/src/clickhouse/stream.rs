use std::sync::Arc;
use std::time::Duration;

use ::clickhouse::query::BytesCursor;
use bytes::Bytes;
use tokio::time::timeout;

use super::replica::Endpoint;
use super::{Error, ErrorKind};

/// The body of an answer, piece by piece as it comes from the network, uncopied.
pub struct ByteStream {
    /// What was read ahead.
    pub(super) first: Option<Bytes>,
    pub(super) cursor: BytesCursor,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) idle_timeout: Duration,
}

impl ByteStream {
    /// The next piece; `None` only when the server ended the body properly. A broken connection, a timeout or an
    /// exception in mid-stream is an error, after which there is nothing more to read. A reader of a format with an
    /// end marker should check for it all the same. A failure that may be the replica's fault starts its cooldown.
    pub async fn try_next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        // The wait begins when a piece is asked for, so that a slow reader is no timeout.
        let kind = match timeout(self.idle_timeout, self.cursor.next()).await {
            Ok(Ok(piece)) => {
                if piece.is_none() {
                    self.endpoint.health.mark_up();
                }
                return Ok(piece);
            }
            Ok(Err(error)) => error.into(),
            Err(_) => ErrorKind::Timeout {
                what: "waiting for the next piece of the answer",
                after: self.idle_timeout,
            },
        };
        Err(self.endpoint.failed(kind))
    }
}

impl std::fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ByteStream")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
