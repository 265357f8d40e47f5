//! The programs that a run goes to, by the topology.

use batch::{RunPlan, Stage};
use pipeline::{BATCHES, ORDERS, RECEIPTS, RoleKind, names};
use stores::contract::StoreTarget;
use topology::{Edge, ProgramSpec, Topology};

use crate::TASKS;
use crate::admission::AdmissionError;

/// The role whose store has the dictionaries.
const CH_WRITER: &str = "ch-writer";

/// The part of a pipeline that the queuer sends to.
#[derive(Debug, Clone, PartialEq)]
pub struct Downstream {
    /// Name of the pipeline type.
    pub pipeline: String,
    /// Programs that must account for every row, by their process names.
    pub stores: Vec<String>,
    /// What the stores write to, and the dictionary: the contract with the hub is checked for these before a run begins.
    pub targets: Vec<StoreTarget>,
    /// Queues that tasks go to.
    pub task_queues: Vec<String>,
    /// Queues that batches of these tasks wait in, on their way into the stores. Without that of a program which holds
    /// them until the run is read: it has to take them all.
    pub batch_queues: Vec<String>,
    /// What a run must pass beyond the stores; absent in a pipeline without gates.
    pub run_plan: Option<RunPlan>,
}

impl Downstream {
    /// What follows the queuer named `program`, without the targets, which settings tell. Stores are the programs that read batches, send none, and report in
    /// receipts.
    pub fn from_topology(topology: &Topology, program: &str) -> Self {
        let programs = &topology.programs;
        let stores = programs.iter().filter(|program| {
            let reads = |edge: &Edge| edge.reader == program.name && edge.output == BATCHES;
            let outputs = program.role.outputs;
            topology.edges.iter().any(reads)
                && outputs.contains(&RECEIPTS)
                && !outputs.contains(&BATCHES)
        });
        let is_controller = |program: &&ProgramSpec| program.role.kind == RoleKind::Controller;
        let controller = programs.iter().find(is_controller);
        let controller = controller.map(|controller| controller.name.as_str());
        let fetchers: Vec<&str> = topology.readers(program, TASKS).collect();
        let mut batch_readers = batch_readers(topology, &fetchers);
        batch_readers.retain(|reader| Some(*reader) != controller);
        let queues = |programs: &[&str]| programs.iter().copied().map(names::input_queue).collect();
        Self {
            pipeline: topology.name.clone(),
            run_plan: controller.map(|controller| run_plan(topology, controller, stores.clone())),
            stores: stores.map(|program| program.name.clone()).collect(),
            targets: Vec::new(),
            task_queues: queues(&fetchers),
            batch_queues: queues(&batch_readers),
        }
    }

    /// Refuses a rule for a stage that the run will not have.
    pub fn check_gates(&self, gates: &[(String, String)]) -> Result<(), AdmissionError> {
        let Some(run_plan) = &self.run_plan else {
            return Ok(());
        };
        let stages = run_plan.stages(&self.stores);
        let stages: Vec<&str> = stages.iter().map(Stage::as_str).collect();
        for (rule, _) in gates {
            let stage = rule.rsplit_once('.').map(|(stage, _)| stage);
            if let Some(stage) = stage.filter(|stage| !stages.contains(stage)) {
                return Err(AdmissionError::UnknownStage {
                    rule: rule.clone(),
                    stage: stage.to_owned(),
                    stages: stages.join(", "),
                });
            }
        }
        Ok(())
    }
}

/// Every program that batches of the fetchers reach: some send on what they make of them.
fn batch_readers<'a>(topology: &'a Topology, fetchers: &[&'a str]) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    let mut senders = fetchers.to_vec();
    while let Some(sender) = senders.pop() {
        for reader in topology.readers(sender, BATCHES) {
            if !found.contains(&reader) {
                found.push(reader);
                senders.push(reader);
            }
        }
    }
    found
}

/// The stages after the stores, by the edges: the dictionaries are those of the ClickHouse that ch-writer fills.
fn run_plan<'a>(
    topology: &'a Topology,
    controller: &str,
    mut stores: impl Iterator<Item = &'a ProgramSpec>,
) -> RunPlan {
    let refreshers: Vec<&str> = topology.readers(controller, ORDERS).collect();
    let restarts = |refresher: &&str| topology.readers(refresher, ORDERS).next().is_some();
    let store = stores.find(|store| store.role.name == CH_WRITER);
    let store = store.filter(|_| !refreshers.is_empty());
    RunPlan {
        dictionary_after: store.map(|store| store.name.clone()),
        serp: refreshers.iter().any(restarts),
        ..RunPlan::default()
    }
}
