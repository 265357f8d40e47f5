use std::cmp::Reverse;
use std::collections::BTreeMap;

use batch::{Invalid, Message, Receipt, RunId};

use crate::run::RunState;

/// All runs that the ledger still tells of.
#[derive(Debug, Default)]
pub struct Ledger {
    runs: BTreeMap<RunId, RunState>,
}

impl Ledger {
    pub fn new() -> Self {
        Self::default()
    }

    /// Folds messages of the ledger. Those that are no receipts of this release are handed back with
    /// the reason: one of them must not keep a pipeline from running, but whoever asks should say so.
    pub fn read<'a>(messages: impl IntoIterator<Item = &'a Message>) -> (Self, Vec<Invalid>) {
        let mut ledger = Self::new();
        let mut refused = Vec::new();
        for message in messages {
            refused.extend(ledger.take(message).err());
        }
        (ledger, refused)
    }

    /// Takes one message of the ledger in. An error: it is no receipt of this release.
    pub fn take(&mut self, message: &Message) -> Result<(), Invalid> {
        self.apply(&Receipt::from_message(message)?);
        Ok(())
    }

    pub fn apply(&mut self, receipt: &Receipt) {
        // Looked up before it is inserted: the name is copied once for each run, not for each receipt.
        match self.runs.get_mut(&receipt.run) {
            Some(run) => run.apply(receipt),
            None => {
                let mut run = RunState::new(receipt.run.clone());
                run.apply(receipt);
                self.runs.insert(receipt.run.clone(), run);
            }
        }
    }

    pub fn run(&self, run: &RunId) -> Option<&RunState> {
        self.runs.get(run)
    }

    /// All runs, by name.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &RunState> {
        self.runs.values()
    }

    /// Runs of the pipeline that stand in the way of the next one.
    pub fn unfinished<'a, 'p>(
        &'a self,
        pipeline: &'p str,
    ) -> impl Iterator<Item = &'a RunState> + use<'a, 'p> {
        self.of(pipeline).filter(|r| r.state().is_unfinished())
    }

    /// Complete runs of the pipeline, the latest first. [`RunState::leaves_out`] says which of them a run
    /// of changes must not follow.
    pub fn complete(&self, pipeline: &str) -> Vec<&RunState> {
        let complete = self.of(pipeline).filter(|run| run.state().is_complete());
        let mut runs: Vec<&RunState> = complete.collect();
        runs.sort_by_key(|run| Reverse(run.started().map(|s| (s.until_ms, s.at_ms))));
        runs
    }

    /// The latest run that a run of changes may follow: complete, and leaving nothing out.
    pub fn last_complete(&self, pipeline: &str) -> Option<&RunState> {
        let mut runs = self.complete(pipeline).into_iter();
        runs.find(|run| run.leaves_out().is_none())
    }

    fn of<'a, 'p>(&'a self, pipeline: &'p str) -> impl Iterator<Item = &'a RunState> + use<'a, 'p> {
        let of_pipeline =
            move |run: &&RunState| run.started().is_some_and(|s| s.pipeline == pipeline);
        self.runs.values().filter(of_pipeline)
    }
}
