//! Which of several runs came first in the ledger.

use std::collections::BTreeMap;

use batch::{Fact, Receipt, RunId, Started};
use ledger::Ledger;
use pipeline::{ProducerError, Program, history};

/// The order of the runs' first receipts, which is the same for every reader of the ledger.
#[derive(Debug, Default)]
pub(crate) struct FirstSeen {
    /// Runs in the order of their first receipts.
    runs: Vec<RunId>,
    /// The nonce of the first announcement of each run.
    nonces: BTreeMap<RunId, String>,
}

impl FirstSeen {
    /// Reads the ledger up to now: its runs, and which of them came first. A reading that is cut off begins again.
    pub async fn read(program: &Program) -> Result<(Ledger, Self), ProducerError> {
        let read = || async {
            let mut seen = Self::default();
            let ledger = history::read(&program.broker, |receipt| seen.record(receipt)).await?;
            Ok((ledger, seen))
        };
        let read = program.with_retries(read).await?;
        read.ok_or(ProducerError::Stopped)
    }

    pub fn record(&mut self, receipt: &Receipt) {
        if self.runs.last() != Some(&receipt.run) && !self.runs.contains(&receipt.run) {
            self.runs.push(receipt.run.clone());
        }
        if let Fact::Started(Started { nonce, .. }) = &receipt.fact {
            let run = receipt.run.clone();
            self.nonces.entry(run).or_insert_with(|| nonce.clone());
        }
    }

    /// Whether the first announcement of the run has this nonce.
    pub fn is_first(&self, run: &RunId, nonce: &str) -> bool {
        self.nonces.get(run).is_some_and(|first| first == nonce)
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
            fact: Fact::Started(Started {
                pipeline: "direct".into(),
                mode: RunMode::Full,
                until_ms: 1,
                shards: 1,
                stores: vec!["ch-writer".into()],
                partial: false,
                source: "s".into(),
                nonce: nonce.into(),
                differences: Vec::new(),
                run_plan: None,
            }),
        }
    }

    #[test]
    fn of_two_announcements_of_one_run_the_first_in_the_ledger_counts_however_their_clocks_differ()
    {
        let mut seen = FirstSeen::default();
        for receipt in [
            started("r-1", 2, "mine"),
            started("r-1", 1, "yours"),
            started("r-1", 2, "mine"),
        ] {
            seen.record(&receipt);
        }
        let run = "r-1".parse().unwrap();
        assert!(seen.is_first(&run, "mine"));
        assert!(!seen.is_first(&run, "yours"));
        assert!(!seen.is_first(&"r-2".parse().unwrap(), "mine"));
    }

    #[test]
    fn the_first_unfinished_run_is_the_one_whose_receipt_came_first() {
        let (mut seen, mut ledger) = (FirstSeen::default(), Ledger::new());
        for receipt in [started("r-2", 9, "b"), started("r-1", 1, "a")] {
            ledger.apply(&receipt);
            seen.record(&receipt);
        }
        let first = seen.first_unfinished(&ledger, "direct").unwrap();
        assert_eq!(first.as_str(), "r-2");
        assert_eq!(seen.first_unfinished(&ledger, "other"), None);
    }
}
