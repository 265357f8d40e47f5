use std::collections::HashMap;
use std::sync::Arc;

use batch::{BatchId, Fact, Receipt, RunId, RunMode, TaskHash};
use serde::Serialize;

use crate::tally::Tally;
use crate::task::{Answer, Read, Standing, TaskState};

/// What was said when the run began.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Started {
    pub at_ms: i64,
    pub pipeline: String,
    pub mode: RunMode,
    pub until_ms: i64,
    pub shards: u32,
    /// Programs that must account for every row.
    pub stores: Vec<String>,
    /// No later run may begin where this one ended.
    pub partial: bool,
}

impl Started {
    fn of(receipt: &Receipt) -> Option<Self> {
        let Fact::Started {
            pipeline,
            mode,
            until_ms,
            shards,
            stores,
            partial,
        } = &receipt.fact
        else {
            return None;
        };
        Some(Self {
            at_ms: receipt.at_ms,
            pipeline: pipeline.clone(),
            mode: *mode,
            until_ms: *until_ms,
            shards: *shards,
            stores: stores.clone(),
            partial: *partial,
        })
    }
}

/// The state of one run, as far as its receipts tell.
#[derive(Debug)]
pub struct RunState {
    pub(crate) run: RunId,
    pub(crate) started: Option<Started>,
    /// Tasks planned and rows that the plan counted.
    pub(crate) manifest: Option<(u64, u64)>,
    /// When, by whom and why the run was given up.
    pub(crate) abandoned: Option<(i64, String, String)>,
    pub(crate) latest_ms: i64,
    pub(crate) tasks: HashMap<TaskHash, TaskState>,
    /// Tasks by where they stand.
    standings: [u64; Standing::COUNT],
    /// Counted attempts that found rows.
    pub(crate) reads_with_rows: u64,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) batches: u64,
    pub(crate) tallies: Vec<Tally>,
    /// Names of indices, so that a hundred thousand answers share a handful of them.
    names: Vec<Arc<str>>,
}

impl RunState {
    pub fn new(run: RunId) -> Self {
        Self {
            run,
            started: None,
            manifest: None,
            abandoned: None,
            latest_ms: i64::MIN,
            tasks: HashMap::new(),
            standings: [0; Standing::COUNT],
            reads_with_rows: 0,
            rows: 0,
            bytes: 0,
            batches: 0,
            tallies: Vec::new(),
            names: Vec::new(),
        }
    }

    pub fn run(&self) -> &RunId {
        &self.run
    }

    /// `None` while only later receipts of the run are known.
    pub fn started(&self) -> Option<&Started> {
        self.started.as_ref()
    }

    /// Takes one receipt of this run in.
    pub fn apply(&mut self, receipt: &Receipt) {
        debug_assert_eq!(receipt.run, self.run);
        let at_ms = receipt.at_ms;
        self.latest_ms = self.latest_ms.max(at_ms);
        match &receipt.fact {
            Fact::Started { .. } => {
                if let Some(started) = Started::of(receipt) {
                    least(&mut self.started, started);
                }
            }
            Fact::Manifest {
                tasks,
                estimated_rows,
            } => self.manifest = self.manifest.max(Some((*tasks, *estimated_rows))),
            Fact::Fetched {
                task,
                attempt,
                batches,
                rows,
                bytes,
                ..
            } => self.fetched(
                *task,
                Read {
                    attempt: *attempt,
                    batches: *batches,
                    rows: *rows,
                    bytes: *bytes,
                },
            ),
            Fact::FetchFailed {
                task,
                attempt,
                error,
            } => self.change(*task, |task| {
                if task.read.is_none() {
                    greatest(&mut task.failure, (*attempt, error.clone()));
                }
            }),
            Fact::TaskQuarantined {
                task,
                program,
                reason,
            } => self.change(*task, |task| {
                greatest(&mut task.quarantined, (*reason, program.clone()));
            }),
            Fact::Stored {
                store,
                batch,
                rows,
                targets,
                reasons,
                ..
            } => {
                let answer = Answer::new(rows, targets, reasons, |name| self.share(name));
                self.stored(store, *batch, answer);
            }
            Fact::Abandoned { who, why } => {
                least(&mut self.abandoned, (at_ms, who.clone(), why.clone()));
            }
        }
    }

    pub(crate) fn standing(&self, standing: Standing) -> u64 {
        self.standings[standing as usize]
    }

    /// Changes a task and keeps the counts of tasks right.
    fn change(&mut self, hash: TaskHash, change: impl FnOnce(&mut TaskState)) {
        let task = self.tasks.entry(hash).or_insert_with(|| {
            self.standings[Standing::Open as usize] += 1;
            TaskState::default()
        });
        self.standings[task.standing() as usize] -= 1;
        change(task);
        self.standings[task.standing() as usize] += 1;
    }

    /// The success that counts may become another one: what was summed for the old one is taken back.
    fn fetched(&mut self, hash: TaskHash, read: Read) {
        let current = self.tasks.get(&hash).and_then(|task| task.read);
        if current.is_some_and(|current| current.rank() >= read.rank()) {
            return;
        }
        if let Some(current) = current {
            self.sum(hash, &current, false);
        }
        self.change(hash, |task| {
            task.read = Some(read);
            task.failure = None;
            // A later attempt can never count any more.
            task.answers.retain(|a| a.attempt <= read.attempt);
        });
        self.sum(hash, &read, true);
    }

    /// Adds what `read` and the answers to it come to, or takes it back.
    fn sum(&mut self, hash: TaskHash, read: &Read, add: bool) {
        let by = if add {
            u64::wrapping_add
        } else {
            u64::wrapping_sub
        };
        self.rows = by(self.rows, read.rows);
        self.bytes = by(self.bytes, read.bytes);
        self.batches = by(self.batches, read.batches.into());
        self.reads_with_rows = by(self.reads_with_rows, u64::from(!read.is_empty()));
        let task = &self.tasks[&hash];
        for answers in task.answers.iter().filter(|a| a.attempt == read.attempt) {
            let tally = &mut self.tallies[answers.store];
            for (_, answer) in &answers.batches {
                if add {
                    tally.add(answer);
                } else {
                    tally.take(answer);
                }
            }
            let closed = !read.is_empty() && answers.covers(read);
            tally.closed = by(tally.closed, closed.into());
        }
    }

    fn stored(&mut self, store: &str, batch: BatchId, answer: Answer) {
        let store = self.tally(store);
        let task = self.tasks.entry(batch.task).or_insert_with(|| {
            self.standings[Standing::Open as usize] += 1;
            TaskState::default()
        });
        let read = task.read;
        if read.is_some_and(|read| read.attempt < batch.attempt) {
            return;
        }
        let answers = task.answers_mut(store, batch.attempt);
        let Some(read) = read.filter(|read| read.attempt == batch.attempt) else {
            // Not counted, or not yet: kept for when the attempt's success is heard of.
            answers.merge(batch.sequence, answer);
            return;
        };
        let was_covered = answers.covers(&read);
        let Some((answer, replaced)) = answers.merge(batch.sequence, answer) else {
            return;
        };
        let tally = &mut self.tallies[store];
        if let Some(replaced) = replaced {
            tally.take(&replaced);
        }
        tally.add(answer);
        if !was_covered && answers.covers(&read) && !read.is_empty() {
            tally.closed += 1;
        }
    }

    /// Position of the store's tally, which is made when the store is first heard of.
    fn tally(&mut self, store: &str) -> usize {
        let found = self.tallies.iter().position(|t| &*t.name == store);
        found.unwrap_or_else(|| {
            self.tallies.push(Tally::new(store.into()));
            self.tallies.len() - 1
        })
    }

    fn share(&mut self, name: &str) -> Arc<str> {
        let found = self.names.iter().find(|known| &***known == name);
        found.cloned().unwrap_or_else(|| {
            let name: Arc<str> = name.into();
            self.names.push(name.clone());
            name
        })
    }
}

/// Two programs may say the same thing twice in different words: the earlier one counts.
fn least<T: Ord>(current: &mut Option<T>, said: T) {
    if current.as_ref().is_none_or(|current| said < *current) {
        *current = Some(said);
    }
}

fn greatest<T: Ord>(current: &mut Option<Box<T>>, said: T) {
    if current.as_deref().is_none_or(|current| said > *current) {
        *current = Some(Box::new(said));
    }
}
