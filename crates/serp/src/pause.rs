//! The pause of the restarts: it lives in the broker, so that every serp-restarter sees it, as an exchange that exists
//! while no port is to be restarted.

use pipeline::broker::{Broker, BrokerError, Session};
use pipeline::now_ms;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use topology::ObjectArguments;
use topology::management::{Management, ManagementError};

/// Exchange that exists while the SERP service is not to be restarted.
pub const SERP_PAUSED: &str = "fleet-serp-paused";

/// Arguments of the exchange. Only operators read them.
const REASON: &str = "fleet-reason";
const WHO: &str = "fleet-who";
const SINCE: &str = "fleet-since-ms";

/// Why the SERP service is not to be restarted for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    pub reason: String,
    /// The user and machine that paused it.
    pub who: String,
    /// Milliseconds since the epoch.
    pub since_ms: i64,
}

impl Pause {
    /// The pause that is in effect, if one is.
    pub async fn current(management: &Management) -> Result<Option<Self>, ManagementError> {
        let arguments = management.marker(SERP_PAUSED).await?;
        Ok(arguments.as_ref().map(Self::from_arguments))
    }

    /// Pauses the restarts. A pause that is already in effect stays as it is, and is returned.
    pub async fn begin(
        management: &Management,
        reason: &str,
        who: &str,
    ) -> Result<Self, ManagementError> {
        if let Some(pause) = Self::current(management).await? {
            return Ok(pause);
        }
        let pause = Self {
            reason: reason.to_owned(),
            who: who.to_owned(),
            since_ms: now_ms(),
        };
        let arguments = pause.to_arguments();
        management.put_marker(SERP_PAUSED, arguments).await?;
        Ok(pause)
    }

    /// Ends the pause and returns it; `None` when there was none.
    pub async fn end(management: &Management) -> Result<Option<Self>, ManagementError> {
        let pause = Self::current(management).await?;
        management.delete_marker(SERP_PAUSED).await?;
        Ok(pause)
    }

    fn to_arguments(&self) -> ObjectArguments {
        let Self {
            reason,
            who,
            since_ms,
        } = self;
        let entries = [
            (REASON, json!(reason)),
            (WHO, json!(who)),
            (SINCE, json!(since_ms)),
        ];
        entries.map(|(name, value)| (name.to_owned(), value)).into()
    }

    fn from_arguments(arguments: &ObjectArguments) -> Self {
        let argument = |name: &str| arguments.get(name);
        let text = |name| argument(name).and_then(Value::as_str).unwrap_or_default();
        Self {
            reason: text(REASON).to_owned(),
            who: text(WHO).to_owned(),
            since_ms: argument(SINCE).and_then(Value::as_i64).unwrap_or(0),
        }
    }
}

/// Reads the pause for a program, which has no access to the management API.
pub struct PauseSwitch {
    broker: Broker,
    /// Name of its connection in the broker's own tools.
    connection: String,
    session: Mutex<Option<Session>>,
}

impl PauseSwitch {
    /// Connects to nothing yet.
    pub fn new(broker: Broker, program: &str) -> Self {
        Self {
            broker,
            connection: format!("{program} (pause switch)"),
            session: Mutex::default(),
        }
    }

    /// Whether a pause is in effect.
    pub async fn is_paused(&self) -> Result<bool, BrokerError> {
        let mut kept = self.session.lock().await;
        // The session of the last call may have ended since; a new one has not.
        if let Some(session) = kept.take().filter(|session| !session.is_lost())
            && let Ok(paused) = session.exchange_exists(SERP_PAUSED).await
        {
            *kept = Some(session);
            return Ok(paused);
        }
        let session = self.broker.connect(&self.connection).await?;
        let paused = session.exchange_exists(SERP_PAUSED).await?;
        *kept = Some(session);
        Ok(paused)
    }
}
