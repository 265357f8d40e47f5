use std::collections::BTreeMap;

use batch::{Decision, Reason, Rows, RunId, Stage, Started};
use serde::{Deserialize, Serialize};

use crate::run::RunState;
use crate::stage_progress::{StageProgress, stage_progress};
use crate::status::{Abandoned, RunStatus};
use crate::totals::StoreTotals;

/// How far a run has come: tasks, rows read, and what each store has accounted for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub run: RunId,
    pub status: RunStatus,
    /// Absent while only later receipts of the run are known.
    pub started: Option<Started>,
    /// When it began, in milliseconds since the epoch.
    pub started_ms: Option<i64>,
    /// Time of the latest receipt, in milliseconds since the epoch.
    pub latest_ms: i64,
    /// Absent until all tasks are published.
    pub tasks_planned: Option<u64>,
    pub tasks_fetched: u64,
    /// Failed at least once, neither fetched nor given up yet.
    pub tasks_failed: u64,
    pub tasks_quarantined: u64,
    /// Rows that the primary index counts in all ranges: an estimate from above.
    pub estimated_rows: Option<u64>,
    /// Rows, batches and bytes of the first successful attempt of each task fetched.
    pub rows_fetched: u64,
    pub batches_fetched: u64,
    pub bytes_fetched: u64,
    /// By name; every store that must account for the run, and any other that a receipt names.
    pub stores: Vec<StoreProgress>,
    /// In their order; none in a pipeline without gates.
    #[serde(default)]
    pub stages: Vec<StageProgress>,
    /// Why an incremental run that begins where this one ended would miss rows.
    #[serde(default)]
    pub gap: Option<String>,
    /// How the run was given up, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abandoned: Option<Abandoned>,
}

/// What one store has accounted for, of the rows fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreProgress {
    /// The program that writes to it, by its process name.
    pub store: String,
    /// Whether the run is complete only when this store has accounted for every row.
    pub required: bool,
    pub batches: u64,
    /// Sum of `rows`.
    pub rows_accounted: u64,
    pub rows: Rows,
    /// The same by index; empty where the store has but one target.
    pub targets: BTreeMap<String, Rows>,
    /// Quarantined rows by reason.
    pub reasons: BTreeMap<Reason, u64>,
    /// It has accounted for the whole run, and has passed its gate where there is one.
    #[serde(default)]
    pub complete: bool,
    /// As [`Progress::gap`], of this store.
    #[serde(default)]
    pub gap: Option<String>,
}

impl Progress {
    pub fn new(run: &RunState) -> Self {
        let tasks = &run.tasks.totals;
        let manifest = run.manifest;
        Self {
            run: run.run().clone(),
            status: run.status(),
            started: run.started().cloned(),
            started_ms: run.started_ms(),
            latest_ms: run.latest_ms,
            tasks_planned: manifest.map(|manifest| manifest.tasks),
            tasks_fetched: tasks.fetched,
            tasks_failed: tasks.failed,
            tasks_quarantined: tasks.quarantined,
            estimated_rows: manifest.map(|manifest| manifest.estimated_rows),
            rows_fetched: tasks.rows,
            batches_fetched: tasks.batches,
            bytes_fetched: tasks.bytes,
            stores: store_progress(run),
            stages: stage_progress(run),
            gap: gap(run),
            abandoned: run.abandoned().cloned(),
        }
    }

    /// How far the run has come, in one sentence for a person.
    pub fn summary(&self) -> String {
        let planned = self.tasks_planned.map(|tasks| format!(" of {tasks}"));
        let planned = planned.unwrap_or_default();
        let (fetched, rows) = (self.tasks_fetched, self.rows_fetched);
        let mut parts = vec![format!("{fetched}{planned} tasks fetched ({rows} rows)")];
        if self.tasks_failed > 0 {
            parts.push(format!("{} failed and waiting", self.tasks_failed));
        }
        if self.tasks_quarantined > 0 {
            parts.push(format!("{} in quarantine", self.tasks_quarantined));
        }
        for store in &self.stores {
            let (name, rows) = (&store.store, &store.rows);
            let (stored, unchanged) = (rows.stored, rows.unchanged);
            let mut part = format!("{name}: {stored} rows stored, {unchanged} unchanged");
            for (n, what) in [(rows.skipped, "skipped"), (rows.quarantined, "quarantined")] {
                if n > 0 {
                    part.push_str(&format!(", {n} {what}"));
                }
            }
            parts.push(part);
        }
        format!("run {} is {}: {}", self.run, self.status, parts.join("; "))
    }

    /// Rows that some store of the run has not accounted for yet, of those fetched so far.
    pub fn rows_outstanding(&self) -> u64 {
        let stores = self.stores.iter().filter(|store| store.required);
        let open = stores.map(|s| self.rows_fetched.saturating_sub(s.rows_accounted));
        open.max().unwrap_or(0)
    }
}

fn store_progress(run: &RunState) -> Vec<StoreProgress> {
    let named = run.tasks.stores().iter().map(|t| (&*t.name, false));
    let mut stores: BTreeMap<&str, bool> = named.collect();
    let required = run.started().into_iter().flat_map(|s| &s.stores);
    stores.extend(required.map(|store| (store.as_str(), true)));
    let progress = |(store, required): (&str, bool)| {
        let totals = run.tasks.store(store);
        let rows = totals.map(|t| t.rows.clone()).unwrap_or_default();
        StoreProgress {
            store: store.to_owned(),
            required,
            batches: totals.map_or(0, |t| t.batches),
            rows_accounted: rows.total(),
            rows,
            targets: totals.map(StoreTotals::targets).unwrap_or_default(),
            reasons: totals.map(StoreTotals::reasons).unwrap_or_default(),
            complete: store_has_the_run(run, store),
            gap: common_gap(run).or_else(|| store_gap(run, store)),
        }
    };
    stores.into_iter().map(progress).collect()
}

/// Whether the store has the whole run, by its gate where there is one.
fn store_has_the_run(run: &RunState, store: &str) -> bool {
    let stage = Stage::Store(store.to_owned());
    if run.stages().contains(&stage) {
        run.decision(&stage) == Some(Decision::Passed)
    } else {
        run.is_fetched() && run.store_is_complete(store)
    }
}

/// Why an incremental run that begins where this one ended would miss rows. `None`: such a run may follow it. Rows that
/// a store itself refused are no reason: it would refuse them again.
fn gap(run: &RunState) -> Option<String> {
    let mut stores = run.started().into_iter().flat_map(|s| &s.stores);
    common_gap(run).or_else(|| stores.find_map(|store| store_gap(run, store)))
}

/// What is left out for all stores alike.
fn common_gap(run: &RunState) -> Option<String> {
    if run.started().is_some_and(|started| started.partial) {
        return Some("it was partial".to_owned());
    }
    if run
        .started()
        .is_some_and(|started| !started.differences.is_empty())
    {
        return Some("it was published although its stores differed from the hub".to_owned());
    }
    if run.contested {
        return Some("two queuers began it, each with a plan of its own".to_owned());
    }
    let totals = &run.tasks.totals;
    if totals.quarantined > 0 {
        let given_up = totals.quarantined;
        return Some(format!("tasks in quarantine, not fetched: {given_up}"));
    }
    let Some(manifest) = run.manifest else {
        return Some("not all of its tasks were published".to_owned());
    };
    // An operator may have passed the stage without them.
    let unread = manifest.tasks.saturating_sub(totals.fetched);
    (unread > 0).then(|| format!("tasks not fetched: {unread}"))
}

fn store_gap(run: &RunState, store: &str) -> Option<String> {
    if !run.store_is_complete(store) {
        return Some(format!("rows that {store} has not accounted for"));
    }
    let totals = run.tasks.store(store)?;
    let refused = totals.reasons().get(&Reason::RefusedRows).copied();
    let rows = totals.rows.quarantined.saturating_sub(refused.unwrap_or(0));
    (rows > 0).then(|| format!("rows in quarantine that {store} did not refuse: {rows}"))
}
