use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use batch::{Fact, RunId, RunPlan, Stage};
use ledger::Ledger;
use pipeline::broker::{BrokerError, Confirm, Publication};
use pipeline::{Producer, ProducerError, Program, RoleKind, history, names, now_ms, receipt};
use stores::clickhouse::{Cluster, ConfigError, SourceSettings};
use tokio::time::Instant;
use topology::{Edge, Topology};

use crate::admission::{Refused, admit};
use crate::clock::{Cycles, wait_until};
use crate::config::QueuerSettings;
use crate::follow::Past;
use crate::look::Order;
use crate::options::Options;
use crate::plan::{Plan, PlanError, Planner, describe};
use crate::report::Report;
use crate::{BATCHES, CH_WRITER, ORDERS, RECEIPTS, TASKS};

/// Time for giving a run up when the queuer is told to stop: well within any grace period.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// Why the queuer ended without doing what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    #[error(transparent)]
    Plan(PlanError),
    #[error(transparent)]
    Producer(#[from] ProducerError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "the ledger cannot be read, which tells where the last run ended: {0}. With --full it is not needed"
    )]
    Ledger(#[source] BrokerError),
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Refused(refused) => Self::Refused(refused),
            other => Self::Plan(other),
        }
    }
}

/// What the queuer did.
#[derive(Debug)]
pub enum Finished {
    Published(Published),
    /// A dry run: the plan, of which nothing was published.
    Planned(Report),
    /// It was told to stop.
    Stopped,
}

/// A run whose tasks and manifest are stored by the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub run: RunId,
    pub tasks: u64,
    pub estimated_rows: u64,
}

/// What the queuer knows of the pipeline that it feeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pipeline {
    /// Name of the pipeline type.
    pub name: String,
    /// Programs that must account for every row, by their process names.
    pub stores: Vec<String>,
    /// Queues that tasks go to.
    pub task_queues: Vec<String>,
    /// Queues that batches of these tasks wait in, on their way into the stores. Not that of a program which holds
    /// them until the run is read: it has to take them all.
    pub batch_queues: Vec<String>,
    /// What a run must pass beyond the stores; absent where no program decides its gates.
    pub run_plan: Option<RunPlan>,
}

impl Pipeline {
    /// What the topology says to the queuer named `program`: the stores are the programs that batches
    /// end at, and that say so in receipts.
    pub fn of(topology: &Topology, program: &str) -> Self {
        let ends = topology.programs.iter().filter(|program| {
            let reads = |edge: &&Edge| edge.reader == program.name;
            let outputs = program.role.outputs;
            topology
                .edges
                .iter()
                .filter(reads)
                .any(|e| e.output == BATCHES)
                && outputs.contains(&RECEIPTS)
                && !outputs.contains(&BATCHES)
        });
        let queues = |programs: &[&str]| programs.iter().copied().map(names::input_queue).collect();
        let fetchers: Vec<&str> = topology.readers(program, TASKS).collect();
        let mut batches: Vec<&str> = Vec::new();
        let mut senders = fetchers.clone();
        while let Some(producer) = senders.pop() {
            for reader in topology.readers(producer, BATCHES) {
                // Batches may go through further programs, which send what they make of them.
                if !batches.contains(&reader) {
                    batches.push(reader);
                    senders.push(reader);
                }
            }
        }
        let judge = topology
            .programs
            .iter()
            .find(|program| program.role.kind == RoleKind::Controller);
        batches.retain(|program| judge.is_none_or(|judge| judge.name != *program));
        Self {
            name: topology.name.clone(),
            run_plan: judge.map(|judge| run_plan(topology, &judge.name, ends.clone())),
            stores: ends.map(|program| program.name.clone()).collect(),
            task_queues: queues(&fetchers),
            batch_queues: queues(&batches),
        }
    }
}

impl Pipeline {
    /// Refuses a rule for a stage that the run will not have.
    pub fn check_gates(&self, gates: &[(String, String)]) -> Result<(), Refused> {
        let Some(run_plan) = &self.run_plan else {
            return Ok(());
        };
        let stages = run_plan.stages(&self.stores);
        let stages: Vec<&str> = stages.iter().map(Stage::as_str).collect();
        for (rule, _) in gates {
            let stage = rule.rsplit_once('.').map(|(stage, _)| stage);
            if let Some(stage) = stage.filter(|stage| !stages.contains(stage)) {
                return Err(Refused::NoStage {
                    rule: rule.clone(),
                    stage: stage.to_owned(),
                    stages: stages.join(", "),
                });
            }
        }
        Ok(())
    }
}

/// What follows the stores, as the edges have it: the dictionaries are those of the ClickHouse that ch-writer fills.
fn run_plan<'a>(
    topology: &'a Topology,
    judge: &str,
    mut stores: impl Iterator<Item = &'a topology::Program>,
) -> RunPlan {
    let refreshers: Vec<&str> = topology
        .edges
        .iter()
        .filter(|edge| edge.program == judge && edge.output == ORDERS)
        .map(|edge| edge.reader.as_str())
        .collect();
    let store = stores.find(|store| store.role.name == CH_WRITER);
    let serp = refreshers
        .iter()
        .any(|refresher| topology.readers(refresher, ORDERS).next().is_some());
    RunPlan {
        dictionary_after: store
            .filter(|_| !refreshers.is_empty())
            .map(|store| store.name.clone()),
        serp,
        ..RunPlan::default()
    }
}

/// Does what `options` ask: plans and publishes one run, or one at every start of the loop, or only plans.
/// In a loop a run that is refused, or that cannot be planned, is skipped and said; the loop goes on.
pub async fn run(
    program: &Program,
    pipeline: &Pipeline,
    source: &SourceSettings,
    settings: &QueuerSettings,
    options: &Options,
) -> Result<Finished, Error> {
    let queuer = Queuer {
        program,
        pipeline,
        planner: Planner {
            cluster: &Cluster::new(&source.connection())?,
            source,
            settings,
            options,
        },
    };
    pipeline.check_gates(&options.gates)?;
    if options.dry_run {
        return Ok(Finished::Planned(queuer.dry_run().await?));
    }
    // Every task becomes batches for every store: one that is behind would only fall further behind.
    let queues = [&pipeline.task_queues[..], &pipeline.batch_queues].concat();
    let readers = BTreeMap::from([(TASKS.to_owned(), queues)]);
    let finished = async {
        let mut producer = Producer::open(program, readers, settings.max_queue_len).await?;
        let finished = match options.every_seconds {
            None => Finished::Published(queuer.cycle(&mut producer, options.force.as_ref()).await?),
            Some(seconds) => queuer.repeat(&mut producer, seconds).await?,
        };
        producer.close().await?;
        Ok(finished)
    };
    match finished.await {
        Err(Error::Producer(ProducerError::Stopped)) => Ok(Finished::Stopped),
        finished => finished,
    }
}

struct Queuer<'a> {
    program: &'a Program,
    pipeline: &'a Pipeline,
    planner: Planner<'a>,
}

impl Queuer<'_> {
    async fn dry_run(&self) -> Result<Report, Error> {
        let ledger = match self.planner.options.full {
            true => None,
            false => {
                let read = history::read(&self.program.broker, |_| {});
                Some(read.await.map_err(Error::Ledger)?)
            }
        };
        let past = ledger.as_ref().map(|ledger| self.past(ledger));
        let plan = self.planner.plan(&self.pipeline.name, past).await?;
        Ok(Report::of(&plan)?)
    }

    /// What the ledger says up to now, and whose receipts came first. A reading that is cut off begins again.
    async fn read_history(&self) -> Result<(Ledger, Order), ProducerError> {
        let broker = &self.program.broker;
        let read = || async move {
            let mut order = Order::default();
            let ledger = history::read(broker, |receipt| order.see(receipt)).await?;
            Ok((ledger, order))
        };
        let read = self.program.with_retries(read).await?;
        read.ok_or(ProducerError::Stopped)
    }

    fn past<'a>(&'a self, ledger: &'a Ledger) -> Past<'a> {
        Past {
            ledger,
            stores: &self.pipeline.stores,
        }
    }

    /// A cycle at every start, until told to stop.
    async fn repeat(&self, producer: &mut Producer, every_seconds: u64) -> Result<Finished, Error> {
        let mut cycles = Cycles::every(every_seconds);
        let mut force = self.planner.options.force.as_ref();
        loop {
            let (start_ms, missed) = cycles.next(now_ms());
            if missed > 0 {
                tracing::warn!(
                    missed,
                    "the last cycle took longer than the loop: its starts are skipped"
                );
            }
            tokio::select! {
                () = self.program.app.shutdown.triggered() => return Ok(Finished::Stopped),
                () = wait_until(start_ms) => {}
            }
            match self.cycle(producer, force.take()).await {
                Ok(_) => {}
                Err(Error::Refused(refused)) => tracing::warn!(error = %refused, "cycle skipped"),
                Err(Error::Plan(error)) => tracing::error!(%error, "cycle skipped"),
                Err(error) => return Err(error),
            }
        }
    }

    async fn cycle(
        &self,
        producer: &mut Producer,
        force: Option<&RunId>,
    ) -> Result<Published, Error> {
        let begun = Instant::now();
        let result = self.plan_and_publish(producer, force).await;
        let stats = &self.program.app.stats;
        stats.time("main_loop", &[], begun.elapsed());
        result
    }

    async fn plan_and_publish(
        &self,
        producer: &mut Producer,
        force: Option<&RunId>,
    ) -> Result<Published, Error> {
        let (ledger, _) = self.read_history().await?;
        let abandon = admit(&ledger, &self.pipeline.name, force)?;
        let past = Some(self.past(&ledger));
        let plan = self.planner.plan(&self.pipeline.name, past).await?;
        if ledger.knows(&plan.run) {
            return Err(Refused::Exists(plan.run).into());
        }
        if let Some(run) = abandon {
            self.abandon(producer, &run, format!("--force, for run {}", plan.run))
                .await?;
        }
        let published = match self.begin(producer, &plan).await {
            Ok(()) => self.publish(producer, &plan).await.map_err(Error::from),
            Err(error) => Err(error),
        };
        if let Err(error @ Error::Producer(_)) = &published {
            self.leave(&plan.run, error).await;
        }
        let published = published?;
        let Published {
            run,
            tasks,
            estimated_rows,
        } = &published;
        tracing::info!(%run, tasks, estimated_rows, "published");
        Ok(published)
    }

    /// Says that the run has started, and looks whether it was the first to say so: two queuers may have
    /// looked at the ledger at the same moment. All see the same order there, so one of them goes on. When
    /// their clocks agree, both runs have one name, and only the nonces tell whose was first.
    async fn begin(&self, producer: &mut Producer, plan: &Plan) -> Result<(), Error> {
        let carries = describe(plan.read.mode, plan.read.until_ms);
        let because = &plan.basis;
        tracing::info!(run = %plan.run, carries, because, partial = plan.partial, "starting");
        let nonce = format!("{:016x}", RandomState::new().hash_one(&plan.run));
        let started = Fact::Started {
            pipeline: self.pipeline.name.clone(),
            mode: plan.read.mode,
            until_ms: plan.read.until_ms,
            shards: plan.shard_count,
            stores: self.pipeline.stores.clone(),
            partial: plan.partial,
            source: plan.source.clone(),
            nonce: nonce.clone(),
            run_plan: self.run_plan(),
        };
        say(producer, &plan.run, started).await?;
        let (ledger, order) = self.read_history().await?;
        if ledger.record(&plan.run).is_some() {
            return Err(Refused::Ended(plan.run.clone()).into());
        }
        if !order.is_first(&plan.run, &nonce) {
            // The run is the other queuer's: not this one's to give up.
            return Err(Refused::Simultaneous(plan.run.clone()).into());
        }
        let first = match order.first_unfinished(&ledger, &self.pipeline.name) {
            Some(first) if *first != plan.run => first.clone(),
            _ => return Ok(()),
        };
        let why = format!("run {first} started at the same moment");
        self.abandon(producer, &plan.run, why).await?;
        let progress = ledger.progress(&first).map(|run| run.summary());
        Err(Error::Refused(Refused::Unfinished {
            pipeline: self.pipeline.name.clone(),
            run: first,
            progress: progress.unwrap_or_default(),
        }))
    }

    /// What the run must pass, with the rules that it alone has.
    fn run_plan(&self) -> Option<RunPlan> {
        let rules = &self.planner.options.gates;
        let run_plan = self.pipeline.run_plan.clone()?;
        Some(RunPlan {
            overrides: rules.iter().cloned().collect(),
            ..run_plan
        })
    }

    async fn publish(
        &self,
        producer: &mut Producer,
        plan: &Plan,
    ) -> Result<Published, ProducerError> {
        for task in plan.tasks() {
            if self.program.app.shutdown.is_triggered() {
                return Err(ProducerError::Stopped);
            }
            producer.send(TASKS, task.to_message()).await?;
        }
        // The manifest says that every task is there: it must not come before they are.
        producer.flush().await?;
        let published = Published {
            run: plan.run.clone(),
            tasks: plan.task_count(),
            estimated_rows: plan.rows(),
        };
        let manifest = Fact::Manifest {
            tasks: published.tasks,
            estimated_rows: published.estimated_rows,
        };
        say(producer, &plan.run, manifest).await?;
        Ok(published)
    }

    async fn abandon(
        &self,
        producer: &mut Producer,
        run: &RunId,
        why: String,
    ) -> Result<(), Error> {
        tracing::warn!(%run, why, "giving the run up");
        say(producer, run, self.abandoned(why)).await?;
        Ok(())
    }

    fn abandoned(&self, why: String) -> Fact {
        let app = &self.program.app;
        let who = format!("{} on {}", app.name, app.host);
        Fact::Abandoned { who, why }
    }

    /// A run that cannot be finished stands in the way of the next one: when there is still a broker to
    /// tell, it is given up.
    async fn leave(&self, run: &RunId, error: &Error) {
        let why = format!("not all tasks could be published: {error}");
        let told = tokio::time::timeout(ABANDON_TIMEOUT, self.abandon_apart(run, why));
        match told.await {
            Ok(Ok(Confirm::Stored)) => tracing::warn!(%run, "the run was given up"),
            _ => tracing::warn!(%run, "the run stays unfinished; the next one needs --force {run}"),
        }
    }

    /// Says on a session of its own, for the producer's has ended, that the run is given up.
    async fn abandon_apart(&self, run: &RunId, why: String) -> anyhow::Result<Confirm> {
        let program = self.program;
        let session = program.broker.connect(program.name()).await?;
        let message = receipt(run, self.abandoned(why)).to_message();
        let publication = Publication::to_output(program.name(), RECEIPTS, message);
        let confirm = session.publisher.publish_and_wait(publication).await?;
        session.close().await;
        Ok(confirm)
    }
}

/// Publishes a receipt and waits until it is stored.
async fn say(producer: &mut Producer, run: &RunId, fact: Fact) -> Result<(), ProducerError> {
    producer
        .send(RECEIPTS, receipt(run, fact).to_message())
        .await?;
    producer.flush().await
}
