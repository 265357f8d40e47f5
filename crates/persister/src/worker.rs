use std::sync::Arc;

use pipeline::broker::BrokerError;
use pipeline::{BATCHES, Program, Sessions, history, names, run_worker_while};
use topology::Topology;

use crate::config::{GateSettings, PersisterSettings};
use crate::gate_controller::GateController;
use crate::release::Release;
use crate::shared_ledger::SharedLedger;

/// The queues around a persister.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersisterInputs {
    /// Batches are sent to it, and wait there.
    pub holds: bool,
    /// Queues that released batches go to.
    pub release_queues: Vec<String>,
}

impl PersisterInputs {
    /// Of the persister named `program`.
    pub fn new(topology: &Topology, program: &str) -> Self {
        let readers = topology.readers(program, BATCHES);
        Self {
            holds: topology.has_input(program),
            release_queues: readers.map(names::input_queue).collect(),
        }
    }
}

/// Decides on runs, and releases what is held, until the program is stopped. Fails when the broker refuses the program,
/// or cannot be reached for longer than `broker.give_up_seconds`.
pub async fn run(
    program: &Program,
    inputs: &PersisterInputs,
    gates: &GateSettings,
    settings: &PersisterSettings,
) -> Result<(), BrokerError> {
    let ledger = SharedLedger::default();
    let intake = ledger.intake();
    let deciding = decide(program, inputs, gates, settings, &ledger);
    if !inputs.holds {
        return deciding.await;
    }
    let (app, ledger) = (program.app.clone(), ledger.clone());
    let release = Release { app, ledger };
    let releasing = run_worker_while(program, release, intake);
    tokio::try_join!(deciding, releasing).map(|_| ())
}

/// Takes the lease, reads the ledger and decides on runs, again whenever the lease is lost.
async fn decide(
    program: &Program,
    inputs: &PersisterInputs,
    gates: &GateSettings,
    settings: &PersisterSettings,
    shared: &SharedLedger,
) -> Result<(), BrokerError> {
    let mut sessions = Sessions::new(program);
    while let Some(leader) = sessions.elect().await? {
        let followed = tokio::select! {
            followed = history::follow(&program.broker) => followed,
            () = program.app.shutdown.triggered() => break,
        };
        let made_progress = followed.is_ok();
        let cause = match followed {
            Ok((ledger, consumer)) => {
                shared.begin(ledger);
                let mut controller = GateController {
                    program,
                    inputs,
                    gates,
                    settings,
                    ledger: shared,
                    leader,
                    replay: Arc::default(),
                };
                let ended = controller.run(consumer).await;
                shared.end();
                controller.leader.close().await;
                ended.err().map(|error| error.to_string())
            }
            Err(error) => {
                leader.close().await;
                Some(error.to_string())
            }
        };
        let Some(cause) = cause else { break };
        sessions.lost(&cause, made_progress).await;
    }
    Ok(())
}
