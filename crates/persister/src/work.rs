use pipeline::broker::BrokerError;
use pipeline::{Program, Sessions, history, names, run_worker_while};
use topology::Topology;

use crate::BATCHES;
use crate::config::{GateSettings, PersisterSettings};
use crate::held::Held;
use crate::judge::Judge;
use crate::release::{Release, Shared};

/// What the persister knows of the pipeline that it judges.
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

/// Judges, and releases what is held, until told to stop. Fails when the broker refuses the program, or cannot be
/// reached for longer than `broker.give_up_seconds`.
pub async fn run(
    program: &Program,
    inputs: &PersisterInputs,
    gates: &GateSettings,
    settings: &PersisterSettings,
) -> Result<(), BrokerError> {
    let shared = Shared::new();
    let judging = judging(program, inputs, gates, settings, &shared);
    if !inputs.holds {
        return judging.await;
    }
    let release = Release::new(&program.app, &shared);
    let releasing = run_worker_while(program, release, shared.intake());
    tokio::try_join!(judging, releasing).map(|_| ())
}

/// Takes the lease, reads the ledger and judges, again whenever the lease is lost.
async fn judging(
    program: &Program,
    inputs: &PersisterInputs,
    gates: &GateSettings,
    settings: &PersisterSettings,
    shared: &Shared,
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
                shared.begin(Held::new(ledger));
                let mut judge = Judge::new(program, gates, shared, leader);
                let queues = (&inputs.release_queues[..], settings.max_queue_len);
                let ended = judge.run(consumer, queues, inputs.holds).await;
                shared.end();
                judge.close().await;
                ended.err()
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
