use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::actual::ActualExchange;
use super::{Management, ManagementError};
use pipeline::names;
use pipeline::now_ms;

/// Arguments of the exchange [`names::SERP_PAUSED`]. Only operators read them.
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

impl Management {
    /// The pause that is in effect, if one is.
    pub async fn serp_pause(&self) -> Result<Option<Pause>, ManagementError> {
        let exchanges: Vec<ActualExchange> = self.list("exchanges").await?;
        let mut pauses = exchanges.iter().filter_map(pause_of);
        Ok(pauses.next())
    }

    /// Pauses the restarts of the SERP service. A pause that is already in effect stays as it is, and is returned.
    pub async fn pause_serp(&self, reason: &str, who: &str) -> Result<Pause, ManagementError> {
        if let Some(pause) = self.serp_pause().await? {
            return Ok(pause);
        }
        let pause = Pause {
            reason: reason.to_owned(),
            who: who.to_owned(),
            since_ms: now_ms(),
        };
        let arguments = json!({ REASON: pause.reason, WHO: pause.who, SINCE: pause.since_ms });
        // Nothing is ever sent to it: a type that no program's exchange has.
        let body = json!({"type": "fanout", "durable": true, "arguments": arguments});
        let path = ["exchanges", self.vhost(), names::SERP_PAUSED];
        let what = "pause the SERP service";
        self.send(Method::PUT, &path, Some(body), what).await?;
        Ok(pause)
    }

    /// Ends a pause and returns it; `None` when there was none.
    pub async fn resume_serp(&self) -> Result<Option<Pause>, ManagementError> {
        let pause = self.serp_pause().await?;
        let path = ["exchanges", self.vhost(), names::SERP_PAUSED];
        self.send(Method::DELETE, &path, None, "resume the SERP service")
            .await?;
        Ok(pause)
    }
}

/// The pause that an exchange stands for, if it is [`names::SERP_PAUSED`].
fn pause_of(exchange: &ActualExchange) -> Option<Pause> {
    let argument = |name: &str| exchange.arguments.get(name);
    let text = |name| argument(name).and_then(Value::as_str).unwrap_or_default();
    (exchange.name == names::SERP_PAUSED).then(|| Pause {
        reason: text(REASON).to_owned(),
        who: text(WHO).to_owned(),
        since_ms: argument(SINCE).and_then(Value::as_i64).unwrap_or(0),
    })
}
