//! What a look at the ledger tells beside the state of its runs: who came first. Pure.

use std::collections::BTreeMap;

use batch::{Fact, Receipt, RunId};
use ledger::Ledger;

/// The order in which all see the runs' first receipts, taken in one by one.
#[derive(Debug, Default)]
pub(crate) struct Order {
    /// Runs by their first receipts.
    runs: Vec<RunId>,
    /// What the first announcement of each run has as its nonce.
    announced: BTreeMap<RunId, String>,
}

impl Order {
    pub fn see(&mut self, receipt: &Receipt) {
        if self.runs.last() != Some(&receipt.run) && !self.runs.contains(&receipt.run) {
            self.runs.push(receipt.run.clone());
        }
        if let Fact::Started { nonce, .. } = &receipt.fact {
            let run = receipt.run.clone();
            self.announced.entry(run).or_insert_with(|| nonce.clone());
        }
    }

    /// Whether the run was first announced with this nonce.
    pub fn is_first(&self, run: &RunId, nonce: &str) -> bool {
        self.announced.get(run).is_some_and(|first| first == nonce)
    }

    /// The unfinished run of the pipeline whose first receipt comes first.
    pub fn first_unfinished(&self, ledger: &Ledger, pipeline: &str) -> Option<&RunId> {
        let unfinished: Vec<&RunId> = ledger.unfinished(pipeline).map(|run| run.run()).collect();
        self.runs.iter().find(|run| unfinished.contains(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use batch::RunMode;

    fn started(run: &str, at_ms: i64, nonce: &str) -> Receipt {
        Receipt {
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
                run_plan: None,
            },
        }
    }

    #[test]
    fn of_two_announcements_of_one_run_the_first_in_the_ledger_counts_whatever_their_clocks_say() {
        let mut order = Order::default();
        for receipt in [
            started("r-1", 2, "mine"),
            started("r-1", 1, "yours"),
            started("r-1", 2, "mine"),
        ] {
            order.see(&receipt);
        }
        let run = "r-1".parse().unwrap();
        assert!(order.is_first(&run, "mine"));
        assert!(!order.is_first(&run, "yours"));
        assert!(!order.is_first(&"r-2".parse().unwrap(), "mine"));
    }

    #[test]
    fn the_first_unfinished_run_is_the_one_that_was_heard_of_first() {
        let (mut order, mut ledger) = (Order::default(), Ledger::new());
        for receipt in [started("r-2", 9, "b"), started("r-1", 1, "a")] {
            ledger.apply(&receipt);
            order.see(&receipt);
        }
        let first = order.first_unfinished(&ledger, "direct").unwrap();
        assert_eq!(first.as_str(), "r-2");
        assert_eq!(order.first_unfinished(&ledger, "other"), None);
    }
}
