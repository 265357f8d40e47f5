use std::sync::Arc;
use std::time::Duration;

use app::App;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::broker::{Broker, BrokerError, RabbitMq, Session};
use crate::{BrokerSettings, LoopOptions, RetrySchedule, names};

/// How often the broker is asked for something that changes without notice: whether the pipeline is configured, the
/// lease is free, or there is room in a queue.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A program and its broker, which every loop works with.
#[derive(Clone)]
pub struct Program {
    pub app: App,
    pub broker: Broker,
    pub(crate) options: Arc<LoopOptions>,
    pub(crate) schedule: Arc<RetrySchedule>,
    give_up: Duration,
    #[cfg(test)]
    pub(crate) mutant: crate::conformance::Mutant,
}

impl Program {
    /// A program on RabbitMQ. Fails when a setting is not usable; nothing is connected yet.
    pub fn new(
        app: &App,
        settings: &BrokerSettings,
        options: &LoopOptions,
    ) -> anyhow::Result<Self> {
        let url = settings.url.reveal()?;
        let broker = RabbitMq::new(&url)
            .map_err(|error| anyhow::anyhow!("broker.url is not an AMQP address: {error}"))?;
        let schedule = settings.retry_schedule().map_err(anyhow::Error::msg)?;
        let mut program = Self::with_broker(app, Broker::RabbitMq(broker), options, schedule);
        program.give_up = settings.give_up();
        Ok(program)
    }

    /// A program on any broker.
    pub fn with_broker(
        app: &App,
        broker: Broker,
        options: &LoopOptions,
        schedule: RetrySchedule,
    ) -> Self {
        Self {
            app: app.clone(),
            broker,
            options: Arc::new(options.clone()),
            schedule: Arc::new(schedule),
            give_up: BrokerSettings::default().give_up(),
            #[cfg(test)]
            mutant: Default::default(),
        }
    }

    pub fn name(&self) -> &str {
        &self.app.name
    }

    /// Asks the broker for something that takes a connection of its own, until it succeeds, `broker.give_up_seconds`
    /// are over, or the program is stopped (`None`). Refused credentials end the tries at once: they would be refused
    /// again.
    pub async fn with_retries<T, F>(
        &self,
        mut ask: impl FnMut() -> F,
    ) -> Result<Option<T>, BrokerError>
    where
        F: Future<Output = Result<T, BrokerError>>,
    {
        let since = Instant::now();
        let mut backoff = Backoff::new();
        loop {
            let error = match ask().await {
                Ok(answer) => {
                    self.app.health.set("broker", Ok(()));
                    return Ok(Some(answer));
                }
                Err(error @ BrokerError::Refused { .. }) => return Err(error),
                Err(error) if since.elapsed() >= self.give_up => return Err(error),
                Err(error) => error,
            };
            let pause = backoff.next_pause();
            tracing::warn!(%error, "no connection to the broker; trying again in {pause:?}");
            self.app.health.set("broker", Err(error.to_string()));
            if !self.pause(pause).await {
                return Ok(None);
            }
        }
    }

    /// Waits until the pipeline is configured. `false` when the program is stopped or the session is lost.
    pub(crate) async fn wait_until_configured(
        &self,
        session: &Session,
    ) -> Result<bool, BrokerError> {
        let mut logged = false;
        while !session.exchange_exists(names::CONFIGURED).await? {
            if !logged {
                tracing::info!(
                    "waiting until the pipeline is configured: fleet pipeline configure --type TYPE"
                );
                logged = true;
            }
            tokio::select! {
                running = self.pause(POLL_INTERVAL) => if !running { return Ok(false) },
                _ = session.lost() => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Waits for as long as `pause`. `false` when the program is stopped before it is over.
    pub(crate) async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = self.app.shutdown.triggered() => false,
            () = tokio::time::sleep(pause) => true,
        }
    }

    /// Counts a message sent.
    pub(crate) fn count_sent(&self, destination: &str) {
        let dest = format!("{}-{destination}", self.name());
        self.app.stats.count("sent-msgs", &[("dest", &dest)], 1);
    }
}

/// Reports in the log and on the health page when the broker stops or resumes taking messages, until the session ends.
pub(crate) async fn watch_alarms(app: App, session: Session) {
    let mut blocked = session.blocked();
    let mut was_blocked = false;
    loop {
        let reason = blocked.borrow_and_update().clone();
        if let Some(error) = &reason {
            tracing::warn!(
                error,
                "the broker takes no messages: it has an alarm; waiting"
            );
        } else if was_blocked {
            tracing::info!("the broker takes messages again");
        }
        was_blocked = reason.is_some();
        let problem = reason.map(|reason| format!("the broker takes no messages: {reason}"));
        app.health.set("broker-alarm", problem.map_or(Ok(()), Err));
        tokio::select! {
            changed = blocked.changed() => if changed.is_err() { return },
            _ = session.lost() => return,
        }
    }
}
