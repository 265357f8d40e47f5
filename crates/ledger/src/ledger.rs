use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use batch::{Fact, Receipt, RunId};

use crate::progress::Progress;
use crate::record::{RecordContent, RunRecord};
use crate::run::RunState;
use crate::status::RunStatus;

/// All runs: those that ended by their records, the others by their receipts.
#[derive(Debug, Default)]
pub struct Ledger {
    runs: BTreeMap<RunId, RunState>,
    /// Offset in the ledger of each run's first receipt, where offsets are known.
    first_offsets: BTreeMap<RunId, u64>,
    records: BTreeMap<RunId, RunRecord>,
    /// Offset in the ledger after everything that was taken in.
    next_offset: u64,
    /// Ended runs with a decision that their records do not know, and the offsets of their first receipts.
    to_reopen: BTreeMap<RunId, u64>,
}

/// The record of a run that has ended.
#[derive(Clone, Copy, Debug)]
pub struct EndedRun<'a> {
    /// How the run ended.
    pub progress: &'a Progress,
    /// Offset in the ledger of its first receipt.
    pub first_offset: u64,
    /// Offset in the ledger from which on a decision on the run is not in the record.
    pub at_offset: u64,
}

impl Ledger {
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a record of a run in. Records come before receipts, of which they spare most.
    pub fn take_record(&mut self, record: RunRecord) {
        if let RecordContent::Finished { at_offset, .. } = record.content {
            self.next_offset = self.next_offset.max(at_offset);
        }
        let known = self.records.get(&record.run);
        if known.is_none_or(|known| known.revision < record.revision) {
            self.records.insert(record.run.clone(), record);
        }
    }

    /// Offset in the ledger from which on it has to be read: everything before is of runs that have records. `None`:
    /// from its beginning.
    pub fn resume_offset(&self) -> Option<u64> {
        let (mut resume, mut first_reopened) = (None, u64::MAX);
        for record in self.records.values() {
            match record.content {
                RecordContent::Finished { resume_offset, .. } => {
                    resume = resume.max(Some(resume_offset));
                }
                RecordContent::Reopened => first_reopened = first_reopened.min(record.first_offset),
            }
        }
        resume.map(|resume| resume.min(first_reopened))
    }

    /// Takes the receipt at an offset of the ledger in. One of a run that has ended changes nothing; but a
    /// decision that its record does not know opens it again ([`Self::take_reopened`]).
    pub fn apply_at(&mut self, offset: u64, receipt: &Receipt) {
        self.next_offset = self.next_offset.max(offset + 1);
        if let Some(run) = self.runs.get_mut(&receipt.run) {
            return run.apply(receipt);
        }
        if let Some(ended) = self.record(&receipt.run) {
            let decision = matches!(receipt.fact, Fact::OperatorDecided { .. });
            if decision && offset >= ended.at_offset {
                let first_offset = ended.first_offset;
                self.to_reopen.insert(receipt.run.clone(), first_offset);
            }
            return;
        }
        let first = self.first_offsets.entry(receipt.run.clone());
        first.or_insert(offset);
        self.begin(receipt);
    }

    /// Ended runs that an operator decided on since the last call, and where on the ledger their receipts begin. They
    /// are known by their records until they are given to [`Self::reopen`].
    pub fn take_reopened(&mut self) -> BTreeMap<RunId, u64> {
        std::mem::take(&mut self.to_reopen)
    }

    /// As [`Self::apply_at`], for receipts whose offsets are not known.
    pub fn apply(&mut self, receipt: &Receipt) {
        if let Some(run) = self.runs.get_mut(&receipt.run) {
            run.apply(receipt);
        } else if self.record(&receipt.run).is_none() {
            self.begin(receipt);
        }
    }

    fn begin(&mut self, receipt: &Receipt) {
        let mut run = RunState::new(receipt.run.clone());
        run.apply(receipt);
        self.runs.insert(receipt.run.clone(), run);
    }

    /// The record that ends `run`, from what is known of it; and the run is known by it alone from here on. `None`
    /// while it has not ended.
    pub fn finish(&mut self, run: &RunId) -> Option<RunRecord> {
        let offset = self.next_offset;
        let state = self.runs.get(run)?;
        if state.status().is_unfinished() {
            return None;
        }
        let progress = Box::new(Progress::new(state));
        let first_offset = self.first_offsets.get(run).copied().unwrap_or(0);
        let unfinished = self.runs.keys().filter(|other| *other != run);
        let firsts = unfinished.filter_map(|other| self.first_offsets.get(other));
        let content = RecordContent::Finished {
            at_offset: offset,
            resume_offset: firsts.min().map_or(offset, |first| offset.min(*first)),
            progress,
        };
        let revision = self.records.get(run).map_or(1, |known| known.revision + 1);
        let record = RunRecord::new(run, revision, first_offset, content);
        self.runs.remove(run);
        self.first_offsets.remove(run);
        self.take_record(record.clone());
        Some(record)
    }

    /// The record that opens a run that has ended, and `state` for it, folded from its receipts.
    pub fn reopen(&mut self, state: RunState) -> Option<RunRecord> {
        let known = self.records.get(state.run())?;
        let (revision, first) = (known.revision + 1, known.first_offset);
        let record = RunRecord::new(state.run(), revision, first, RecordContent::Reopened);
        self.first_offsets.insert(state.run().clone(), first);
        self.take_record(record.clone());
        self.runs.insert(state.run().clone(), state);
        Some(record)
    }

    /// The record of a run, if it has ended.
    pub fn record(&self, run: &RunId) -> Option<EndedRun<'_>> {
        let record = self.records.get(run)?;
        match record.content {
            RecordContent::Finished {
                ref progress,
                at_offset,
                ..
            } => Some(EndedRun {
                progress,
                first_offset: record.first_offset,
                at_offset,
            }),
            RecordContent::Reopened => None,
        }
    }

    /// The state of a run that has no record; see [`Self::progress`] for any run.
    pub fn run(&self, run: &RunId) -> Option<&RunState> {
        self.runs.get(run)
    }

    pub fn knows(&self, run: &RunId) -> bool {
        self.runs.contains_key(run) || self.records.contains_key(run)
    }

    /// How far a run has come, or how it ended.
    pub fn progress(&self, run: &RunId) -> Option<Cow<'_, Progress>> {
        match self.record(run) {
            Some(ended) => Some(Cow::Borrowed(ended.progress)),
            None => Some(Cow::Owned(Progress::new(self.runs.get(run)?))),
        }
    }

    /// Runs that have no record, by name.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = &RunState> {
        self.runs.values()
    }

    /// All runs, by name.
    pub fn all(&self) -> Vec<Cow<'_, Progress>> {
        let names: BTreeSet<&RunId> = self.runs.keys().chain(self.records.keys()).collect();
        let all = names.into_iter().filter_map(|run| self.progress(run));
        all.collect()
    }

    /// Runs of the pipeline that block the next one.
    pub fn unfinished<'a, 'p>(
        &'a self,
        pipeline: &'p str,
    ) -> impl Iterator<Item = &'a RunState> + use<'a, 'p> {
        let of_pipeline =
            move |run: &&RunState| run.started().is_some_and(|s| s.pipeline == pipeline);
        let runs = self.runs.values().filter(of_pipeline);
        runs.filter(|run| run.status().blocks_the_next())
    }

    /// How far each store of the latest run of the pipeline is: the end of the latest run that passed in it, in
    /// milliseconds since the epoch. What they differ by is the skew between the stores. `None`: in one of them none
    /// has.
    pub fn watermarks(&self, pipeline: &str) -> Option<BTreeMap<String, i64>> {
        let ended = self.ended(pipeline);
        let stores = &ended.first()?.started.as_ref()?.stores;
        let watermark = |store: &String| {
            let mut runs = ended.iter().filter_map(|run| {
                let started = run.started.as_ref().filter(|started| !started.partial)?;
                let known = run.stores.iter().find(|known| known.store == *store)?;
                known.complete.then_some(started.until_ms)
            });
            Some((store.clone(), runs.next()?))
        };
        stores.iter().map(watermark).collect()
    }

    /// Runs of the pipeline whose stores have ended, the latest first, without those that were abandoned. What each
    /// store has of them, and what a run that follows must know, is in [`Progress::stores`].
    pub fn ended(&self, pipeline: &str) -> Vec<Cow<'_, Progress>> {
        let mut runs = self.all();
        runs.retain(|run| {
            let started = run.started.as_ref();
            let of_pipeline = started.is_some_and(|started| started.pipeline == pipeline);
            let over = run.status.is_complete()
                || matches!(run.status, RunStatus::Restarting | RunStatus::Rejected);
            of_pipeline && over
        });
        runs.sort_by_key(|run| Reverse(run.started.as_ref().map(|s| (s.until_ms, run.started_ms))));
        runs
    }
}
