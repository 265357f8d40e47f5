use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes of the largest body that a broker takes, by its own word. It tells them nowhere but when it refuses one, which
/// ends the session; all later sessions know them.
#[derive(Debug, Clone)]
pub(crate) struct MessageLimit(Arc<AtomicUsize>);

impl Default for MessageLimit {
    fn default() -> Self {
        Self(Arc::new(AtomicUsize::new(usize::MAX)))
    }
}

impl MessageLimit {
    /// `None` while no message was too large.
    pub fn bytes(&self) -> Option<usize> {
        Some(self.0.load(Ordering::Relaxed)).filter(|bytes| *bytes < usize::MAX)
    }

    pub fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// Learns from the text of an error, if it is this refusal; what to tell an operator then.
    pub fn learn(&self, error: &str) -> Option<String> {
        let (size, limit) = (
            number_after(error, "message size ")?,
            number_after(error, "max size ")?,
        );
        self.set(limit);
        Some(format!(
            "the broker refuses a message of {size} bytes: it takes {limit} at most (max_message_size). Lower \
             fetcher.batch_bytes to that, or raise the broker's limit"
        ))
    }
}

fn number_after(text: &str, words: &str) -> Option<usize> {
    let (_, rest) = text.split_once(words)?;
    let end = rest.find(|c: char| !c.is_ascii_digit());
    rest[..end.unwrap_or(rest.len())].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sizes_are_read_from_the_refusals_of_all_releases() {
        for text in [
            "PRECONDITION_FAILED - message size 200000 is larger than max size 100000",
            "PRECONDITION_FAILED - message size 200000 is larger than configured max size 100000",
        ] {
            let limit = MessageLimit::default();
            let told = limit.learn(text).unwrap();
            assert!(told.contains("200000") && told.contains("100000"), "{told}");
            assert_eq!(limit.bytes(), Some(100_000));
        }
        let limit = MessageLimit::default();
        assert_eq!(limit.learn("NOT_FOUND - no exchange 'a'"), None);
        assert_eq!(limit.bytes(), None);
    }
}
