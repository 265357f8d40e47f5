use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// What a shell reports for a process that a signal ended: 128 and the signal's number.
const EXIT_BY_SIGINT: i32 = 130;
const EXIT_BY_SIGTERM: i32 = 143;

/// The request that the program ends. Clones share it; once triggered it stays so.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// One that only [`Shutdown::trigger`] triggers.
    pub fn new() -> Self {
        Self::default()
    }

    /// One that the first SIGTERM or SIGINT triggers too. The second ends the process at once,
    /// with exit code 143 or 130: a signal that is repeated means that the drain takes too long.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::new();
        // Registered before this returns, so that a signal sent right after is not fatal.
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(shutdown.clone().follow(terminate, interrupt));
        Ok(shutdown)
    }

    pub fn trigger(&self) {
        self.0.cancel();
    }

    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves when the program should end, at once if it should already.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }

    async fn follow(self, mut terminate: Signal, mut interrupt: Signal) {
        loop {
            let (name, exit_code) = tokio::select! {
                _ = terminate.recv() => ("SIGTERM", EXIT_BY_SIGTERM),
                _ = interrupt.recv() => ("SIGINT", EXIT_BY_SIGINT),
            };
            if self.is_triggered() {
                tracing::warn!("{name} again: ending at once");
                std::process::exit(exit_code);
            }
            tracing::info!("{name}: finishing what is in flight; send it again to end at once");
            self.trigger();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_clone_sees_the_trigger() {
        let shutdown = Shutdown::new();
        let other = shutdown.clone();
        assert!(!other.is_triggered());
        shutdown.trigger();
        other.triggered().await;
        assert!(other.is_triggered());
    }
}
