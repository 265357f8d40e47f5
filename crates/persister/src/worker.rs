use pipeline::broker::BrokerError;
use pipeline::{Program, Sessions, history, names, run_worker_while};
use topology::Topology;

use crate::BATCHES;
use crate::config::{GateSettings, PersisterSettings};
use crate::gate_controller::{GateController, ReleaseQueues};
use crate::release::Release;
use crate::shared_ledger::SharedLedger;

/// What the topology says to the persister of a pipeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersisterInputs {
    /// Batches are sent to it, and wait there.
    pub holds: bool,
    /// Queues that released batches go to.
    pub release_queues: Vec<String>,
}

impl PersisterInputs {
    /// What the topology says to the persister named `program`.
    pub fn new(topology: &Topology, program: &str) -> Self {
        let readers = topology.readers(program, BATCHES);
        Self {
            holds: topology.has_input(program),
            release_queues: readers.map(names::input_queue).collect(),
        }
    }
}

/// Decides on runs, and releases what is held, until told to stop. Fails when the broker refuses the program, or cannot be
/// reached for longer than `broker.give_up_seconds`.
pub async fn run(
    program: &Program,
    inputs: &PersisterInputs,
    gates: &GateSettings,
    settings: &PersisterSettings,
) -> Result<(), BrokerError> {
    let ledger = SharedLedger::new();
    let deciding = decide(program, inputs, gates, settings, &ledger);
    if !inputs.holds {
        return deciding.await;
    }
    let release = Release::new(&program.app, &ledger);
    let releasing = run_worker_while(program, release, ledger.intake());
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
    let queues = ReleaseQueues {
        names: &inputs.release_queues,
        max_len: settings.max_queue_len,
    };
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
                let mut controller = GateController::new(program, gates, shared, leader);
                let ended = controller.run(consumer, &queues, inputs.holds).await;
                shared.end();
                controller.close().await;
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
