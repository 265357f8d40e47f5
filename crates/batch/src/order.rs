use serde::{Deserialize, Serialize};

use crate::message::{from_json, to_json};
use crate::{Headers, Invalid, Message, MessageKind, RunId, header};

/// What is to be done once for a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Load what is in the shard's table into its dictionary, on every replica.
    RefreshDictionary,
    /// Restart the SERP service of this node, port by port.
    RestartSerp { node: String },
}

/// A message that asks for one thing to be done once for a run.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Order {
    pub run: RunId,
    /// The run's version: the end of its data, in milliseconds since the epoch. An order of a lower version than the
    /// present one is stale.
    pub version: i64,
    /// When it is too late, in milliseconds since the epoch: the run's gate has rejected it by then, and the next run
    /// may write to the same tables. Also tells an order from one that was given again for the same run.
    pub expires_at_ms: i64,
    /// The shard that it is about, from 0.
    pub shard: u32,
    pub command: Command,
}

impl Order {
    pub fn to_message(&self) -> Message {
        let mut headers = Headers::for_run(&self.run, MessageKind::Order);
        headers.set(header::SHARD, i64::from(self.shard));
        Message::new(headers, to_json(MessageKind::Order, self))
    }

    pub fn from_message(message: &Message) -> Result<Self, Invalid> {
        from_json(MessageKind::Order, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Reason;
    use proptest::prelude::*;

    fn order() -> Order {
        Order {
            run: "r-1".parse().unwrap(),
            version: 7,
            expires_at_ms: 9,
            shard: 1,
            command: Command::RestartSerp {
                node: "hotdog001.int.example".into(),
            },
        }
    }

    #[test]
    fn an_order_survives_its_message() {
        let refresh = Order {
            command: Command::RefreshDictionary,
            ..order()
        };
        for order in [order(), refresh] {
            assert_eq!(Order::from_message(&order.to_message()).unwrap(), order);
        }
    }

    #[test]
    fn an_order_of_another_version_is_refused_by_name() {
        let mut message = order().to_message();
        let text = String::from_utf8(message.body.to_vec()).unwrap();
        message.body = text.replace("\"schema\":2", "\"schema\":9").into();
        let error = Order::from_message(&message).unwrap_err();
        assert_eq!(error.reason, Reason::UnknownVersion);
    }

    proptest! {
        #[test]
        fn any_bytes_are_an_order_or_a_named_refusal(body: Vec<u8>) {
            let message = Message::new(Headers::for_run(&"r-1".parse().unwrap(), MessageKind::Order), body);
            prop_assert!(Order::from_message(&message).is_err());
        }
    }
}
