use std::sync::atomic::{AtomicUsize, Ordering};

/// The largest request that a store, or a proxy before it, is known to take. It begins without a bound, and is learnt
/// from the requests that were too large, so that each limit is run into once and not by every batch. A limit that was
/// raised is found out when the program starts again.
#[derive(Debug)]
pub struct RequestLimit {
    store: &'static str,
    bytes: AtomicUsize,
}

impl RequestLimit {
    /// `store` names it in the log.
    pub fn new(store: &'static str) -> Self {
        Self {
            store,
            bytes: AtomicUsize::new(usize::MAX),
        }
    }

    /// Whether a request of so many bytes is worth a try.
    pub fn allows(&self, bytes: usize) -> bool {
        bytes <= self.bytes()
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    /// A request of so many bytes was too large ([`crate::Class::TooLarge`]): from now on they have half of it at most.
    /// Not to be told of a single row, which says nothing of the others.
    pub fn lower(&self, bytes: usize, why: &dyn std::fmt::Display) {
        let half = bytes / 2;
        if self.bytes.fetch_min(half, Ordering::Relaxed) > half {
            let (store, request_bytes, limit_bytes) = (self.store, bytes, half);
            tracing::warn!(store, request_bytes, limit_bytes, error = %why, "a request was too large: sending smaller ones");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_too_large_is_halved_and_nothing_raises_it_again() {
        let limit = RequestLimit::new("clickhouse");
        assert!(limit.allows(usize::MAX));
        limit.lower(1000, &"413");
        assert!(limit.allows(500) && !limit.allows(501));
        limit.lower(2000, &"413, of a request that was on its way");
        assert_eq!(limit.bytes(), 500);
        limit.lower(500, &"413");
        assert_eq!(limit.bytes(), 250);
    }
}
