use crate::Program;
use crate::backoff::Backoff;
use crate::broker::{BrokerError, Session};

/// The sessions of a program with the broker, one after the other: the loop in which every program reconnects.
pub struct Sessions {
    pub(crate) program: Program,
    backoff: Backoff,
    without_progress: u32,
}

impl Sessions {
    pub fn new(program: &Program) -> Self {
        Self {
            program: program.clone(),
            backoff: Backoff::new(),
            without_progress: 0,
        }
    }

    /// Begins a session, and waits until the pipeline is configured. `None` when the program is stopped.
    pub(crate) async fn next(&mut self) -> Result<Option<Session>, BrokerError> {
        let program = self.program.clone();
        let connect = || program.broker.connect(program.name());
        while let Some(session) = program.with_retries(connect).await? {
            let cause = match self.program.wait_until_configured(&session).await {
                Ok(true) => return Ok(Some(session)),
                Ok(false) if self.program.app.shutdown.is_triggered() => break,
                Ok(false) => session.lost().await,
                Err(error) => error.to_string(),
            };
            session.close().await;
            self.lost(&cause, false).await;
        }
        Ok(None)
    }

    /// Sessions in a row in which nothing was achieved.
    pub(crate) const fn without_progress(&self) -> u32 {
        self.without_progress
    }

    pub(crate) fn made_progress(&mut self) {
        self.without_progress = 0;
        self.backoff = Backoff::new();
    }

    /// Reports the loss of a session, and pauses before the next one: longer with every one that made no progress.
    pub async fn lost(&mut self, cause: &str, made_progress: bool) {
        if made_progress {
            self.made_progress();
        } else {
            self.without_progress += 1;
        }
        let pause = self.backoff.next_pause();
        tracing::warn!(
            error = cause,
            pause_ms = pause.as_millis() as u64,
            "session with the broker lost; beginning a new one"
        );
        let health = &self.program.app.health;
        health.set("broker", Err(cause.to_owned()));
        // These were of the session that is gone.
        health.set("broker-alarm", Ok(()));
        health.set("publishing", Ok(()));
        self.program.pause(pause).await;
    }
}
