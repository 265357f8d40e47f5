//! A look at the ledger: the state of all runs, and who came first. Pure.

use std::collections::BTreeMap;

use batch::{Fact, Invalid, Message, Receipt, RunId};
use ledger::Ledger;

/// The ledger's receipts, taken in one by one in the order in which all see them.
#[derive(Debug, Default)]
pub(crate) struct Look {
    pub ledger: Ledger,
    /// Runs by their first receipts.
    order: Vec<RunId>,
    /// What the first announcement of each run has as its nonce.
    announced: BTreeMap<RunId, String>,
    /// Messages that are no receipts, and the first of them.
    refused: (u64, Option<Invalid>),
}

impl Look {
    pub fn take(&mut self, message: Message) {
        let receipt = match Receipt::from_message(&message) {
            Ok(receipt) => receipt,
            Err(invalid) => {
                self.refused.0 += 1;
                self.refused.1.get_or_insert(invalid);
                return;
            }
        };
        if self.ledger.run(&receipt.run).is_none() {
            self.order.push(receipt.run.clone());
        }
        self.ledger.apply(&receipt);
        if let Fact::Started { nonce, .. } = receipt.fact {
            self.announced.entry(receipt.run).or_insert(nonce);
        }
    }

    /// One of them must not keep a pipeline from running, but it should be said.
    pub fn warn_of_refused(&self) {
        if let (count, Some(first)) = &self.refused {
            tracing::warn!(count, %first, "messages in the ledger that are no receipts of this release");
        }
    }

    /// Whether the run was first announced with this nonce.
    pub fn is_first(&self, run: &RunId, nonce: &str) -> bool {
        self.announced.get(run).is_some_and(|first| first == nonce)
    }

    /// The unfinished run of the pipeline whose first receipt comes first.
    pub fn first_unfinished(&self, pipeline: &str) -> Option<&RunId> {
        let unfinished: Vec<&RunId> = self
            .ledger
            .unfinished(pipeline)
            .map(|run| run.run())
            .collect();
        self.order.iter().find(|run| unfinished.contains(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batch::RunMode;

    fn started(run: &str, at_ms: i64, nonce: &str) -> Message {
        let receipt = Receipt {
            run: run.parse().unwrap(),
            at_ms,
            fact: Fact::Started {
                pipeline: "direct".into(),
                mode: RunMode::Full,
                until_ms: 1,
                shards: 1,
                stores: vec!["ch-writer".into()],
                partial: false,
                source: "s".into(),
                nonce: nonce.into(),
            },
        };
        receipt.to_message()
    }

    #[test]
    fn of_two_announcements_of_one_run_the_first_in_the_ledger_counts_whatever_their_clocks_say() {
        let mut look = Look::default();
        for message in [
            started("r-1", 2, "mine"),
            started("r-1", 1, "yours"),
            started("r-1", 2, "mine"),
        ] {
            look.take(message);
        }
        let run = "r-1".parse().unwrap();
        assert!(look.is_first(&run, "mine"));
        assert!(!look.is_first(&run, "yours"));
        assert!(!look.is_first(&"r-2".parse().unwrap(), "mine"));
    }

    #[test]
    fn the_first_unfinished_run_is_the_one_that_was_heard_of_first() {
        let mut look = Look::default();
        look.take(Message::default());
        look.take(started("r-2", 9, "b"));
        look.take(started("r-1", 1, "a"));
        assert_eq!(look.first_unfinished("direct").unwrap().as_str(), "r-2");
        assert_eq!(look.first_unfinished("other"), None);
        assert_eq!(look.refused.0, 1);
    }
}
