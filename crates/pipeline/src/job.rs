use std::time::Duration;

use batch::Message;

/// The connection to the broker went away while a message was in work. It will be delivered again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the connection to the broker was lost while the message was in work; it will be delivered again"
)]
pub struct Lost;

/// One delivered message in the hands of a role, with the way to its outputs.
pub struct Job {
    message: Message,
    attempt: u32,
}

impl Job {
    pub fn message(&self) -> &Message {
        &self.message
    }

    /// Which try at this message this is, from 1. Grows with every retry, snooze and redelivery.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Publishes `message` to the named output, waiting while too many confirms are outstanding.
    /// The job's own message is acknowledged only after the confirm.
    pub async fn send(&mut self, output: &str, message: Message) -> Result<(), Lost> {
        let _ = (output, message);
        Err(Lost)
    }

    /// Resolves when the program is told to stop: long waits should end then with [`crate::Outcome::Snooze`].
    pub async fn stopping(&self) {
        tokio::time::sleep(Duration::MAX).await
    }
}
