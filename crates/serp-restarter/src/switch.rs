use pipeline::broker::{Broker, BrokerError, Session};
use pipeline::names;
use tokio::sync::Mutex;

/// The pause switch, which lives in the broker so that every process sees it: the SERP service is paused while an
/// exchange of that name exists.
pub(crate) struct Switch {
    broker: Broker,
    /// Name of its connection in the broker's own tools.
    connection: String,
    session: Mutex<Option<Session>>,
}

impl Switch {
    pub fn new(broker: Broker, program: &str) -> Self {
        Self {
            broker,
            connection: format!("{program} (pause switch)"),
            session: Mutex::default(),
        }
    }

    pub async fn is_paused(&self) -> Result<bool, BrokerError> {
        let mut kept = self.session.lock().await;
        // A session that was kept may have ended unseen; a new one has not.
        if let Some(session) = kept.take().filter(|session| !session.is_lost())
            && let Ok(paused) = session.exchange_exists(names::SERP_PAUSED).await
        {
            *kept = Some(session);
            return Ok(paused);
        }
        let session = self.broker.connect(&self.connection).await?;
        let paused = session.exchange_exists(names::SERP_PAUSED).await?;
        *kept = Some(session);
        Ok(paused)
    }
}
