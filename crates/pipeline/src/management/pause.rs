use reqwest::Method;
use serde::Serialize;
use serde_json::{Value, json};

use super::present::PresentExchange;
use super::{Management, ManagementError};
use crate::names;
use crate::now_ms;

/// Arguments of the exchange [`names::SERP_PAUSED`]: for people, and for nothing else.
const REASON: &str = "fleet-reason";
const WHO: &str = "fleet-who";
const SINCE: &str = "fleet-since-ms";

/// Why the SERP service is not to be restarted for now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pause {
    pub reason: String,
    /// Who paused it.
    pub who: String,
    /// Milliseconds since the epoch.
    pub since_ms: i64,
}

impl Management {
    /// The pause that is in effect, if one is.
    pub async fn serp_pause(&self) -> Result<Option<Pause>, ManagementError> {
        let exchanges: Vec<PresentExchange> = self.list("exchanges").await?;
        let mut pauses = exchanges.iter().filter_map(pause_of);
        Ok(pauses.next())
    }

    /// Pauses the restarts of the SERP service. A pause that is in effect already stays as it is, and is the answer.
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

    /// Ends a pause; answers with it, or with `None` when there was none.
    pub async fn resume_serp(&self) -> Result<Option<Pause>, ManagementError> {
        let pause = self.serp_pause().await?;
        let path = ["exchanges", self.vhost(), names::SERP_PAUSED];
        self.send(Method::DELETE, &path, None, "resume the SERP service")
            .await?;
        Ok(pause)
    }
}

/// What the exchange says, whoever made it.
fn pause_of(exchange: &PresentExchange) -> Option<Pause> {
    let argument = |name: &str| exchange.arguments.get(name);
    let text = |name| argument(name).and_then(Value::as_str).unwrap_or_default();
    (exchange.name == names::SERP_PAUSED).then(|| Pause {
        reason: text(REASON).to_owned(),
        who: text(WHO).to_owned(),
        since_ms: argument(SINCE).and_then(Value::as_i64).unwrap_or(0),
    })
}
