use std::collections::BTreeMap;

use batch::RunId;
use ledger::Ledger;
use pipeline::broker::BrokerError;
use pipeline::{Producer, ProducerError, Program, history, now_ms};
use stores::clickhouse::{Cluster, ConfigError, SourceSettings};
use stores::contract::{self, Comparison, ContractDifference, Unreachable};
use tokio::time::Instant;

use crate::TASKS;
use crate::admission::{AdmissionError, admit};
use crate::baseline::History;
use crate::clock::{CycleStart, Cycles, wait_until};
use crate::config::QueuerSettings;
use crate::downstream::Downstream;
use crate::first_seen::FirstSeen;
use crate::options::Options;
use crate::plan::{PlanError, PlannedRun, Planner};
use crate::publisher::{Published, RunPublisher};
use crate::report::PlanReport;

/// Why the queuer ended without doing what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum QueuerError {
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Plan(PlanError),
    #[error(transparent)]
    Producer(#[from] ProducerError),
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(
        "the run would lose or change values, and does not begin:{}\nRepair it and run fleet check again, or publish all the same with --force: the run keeps a record of that",
        lines(.0)
    )]
    Differs(Vec<ContractDifference>),
    #[error(
        "whether the run would lose or change values is not known, and it does not begin:{}\nStart it again when they answer, or publish all the same with --force: the run keeps a record of that",
        lines(.0)
    )]
    Unknown(Vec<String>),
    #[error(
        "the ledger cannot be read, which tells where the last run ended: {0}. With --full it is not needed"
    )]
    Ledger(#[source] BrokerError),
}

impl From<PlanError> for QueuerError {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Admission(error) => Self::Admission(error),
            other => Self::Plan(other),
        }
    }
}

/// Differences that a run which is published all the same tells: they are in one receipt.
const TOLD: usize = 50;

fn lines(items: &[impl std::fmt::Display]) -> String {
    items.iter().map(|item| format!("\n  {item}")).collect()
}

/// What the queuer did.
#[derive(Debug)]
pub enum QueuerExit {
    Published(Published),
    /// A dry run: the plan, of which nothing was published.
    Planned(Box<PlanReport>),
    /// It was stopped.
    Stopped,
}

/// Does what `options` ask: plans and publishes one run, or one at every start of the loop, or only plans.
/// A loop logs and skips a run that is not admitted or that cannot be planned.
pub async fn run(
    program: &Program,
    downstream: &Downstream,
    source: &SourceSettings,
    settings: &QueuerSettings,
    options: &Options,
) -> Result<QueuerExit, QueuerError> {
    let queuer = Queuer {
        program,
        downstream,
        planner: Planner {
            cluster: &Cluster::new(&source.connection())?,
            source,
            settings,
            options,
        },
    };
    downstream.check_gates(&options.gates)?;
    if options.dry_run {
        return Ok(QueuerExit::Planned(Box::new(queuer.dry_run().await?)));
    }
    match queuer.publish().await {
        Err(QueuerError::Producer(ProducerError::Stopped)) => Ok(QueuerExit::Stopped),
        exit => exit,
    }
}

pub(crate) struct Queuer<'a> {
    pub program: &'a Program,
    pub downstream: &'a Downstream,
    pub planner: Planner<'a>,
}

impl Queuer<'_> {
    async fn dry_run(&self) -> Result<PlanReport, QueuerError> {
        let ledger = if self.planner.options.full {
            None
        } else {
            let read = history::read(&self.program.broker, |_| {});
            Some(read.await.map_err(QueuerError::Ledger)?)
        };
        let history = ledger.as_ref().map(|ledger| self.history(ledger));
        let plan = self
            .planner
            .plan(&self.downstream.pipeline, history)
            .await?;
        let Comparison {
            differences,
            unreachable,
        } = self.compare(&plan).await?;
        Ok(PlanReport {
            differences,
            not_compared: unreachable
                .iter()
                .map(|target| target.error.to_string())
                .collect(),
            ..PlanReport::new(&plan)?
        })
    }

    async fn publish(&self) -> Result<QueuerExit, QueuerError> {
        // Every task becomes batches for every store: one that is behind would only fall further behind.
        let Downstream {
            task_queues,
            batch_queues,
            ..
        } = self.downstream;
        let queues = [&task_queues[..], batch_queues].concat();
        let readers = BTreeMap::from([(TASKS.to_owned(), queues)]);
        let max_queue_len = self.planner.settings.max_queue_len;
        let mut producer = Producer::open(self.program, readers, max_queue_len).await?;
        let abandon = self.planner.options.abandon.as_ref();
        let exit = match self.planner.options.every_seconds {
            None => QueuerExit::Published(self.cycle(&mut producer, abandon).await?),
            Some(seconds) => self.repeat(&mut producer, seconds, abandon).await?,
        };
        producer.close().await?;
        Ok(exit)
    }

    /// A cycle at every start, until stopped.
    async fn repeat(
        &self,
        producer: &mut Producer,
        every_seconds: u64,
        mut abandon: Option<&RunId>,
    ) -> Result<QueuerExit, QueuerError> {
        let mut cycles = Cycles::every(every_seconds);
        loop {
            let CycleStart { at_ms, missed } = cycles.next(now_ms());
            if missed > 0 {
                tracing::warn!(
                    missed,
                    "the last cycle took longer than the loop: its starts are skipped"
                );
            }
            tokio::select! {
                () = self.program.app.shutdown.triggered() => return Ok(QueuerExit::Stopped),
                () = wait_until(at_ms) => {}
            }
            match self.cycle(producer, abandon.take()).await {
                Ok(_) => {}
                Err(QueuerError::Admission(error)) => tracing::warn!(%error, "cycle skipped"),
                Err(
                    error @ (QueuerError::Plan(_)
                    | QueuerError::Differs(_)
                    | QueuerError::Unknown(_)),
                ) => tracing::error!(%error, "cycle skipped"),
                Err(error) => return Err(error),
            }
        }
    }

    async fn cycle(
        &self,
        producer: &mut Producer,
        abandon: Option<&RunId>,
    ) -> Result<Published, QueuerError> {
        let started = Instant::now();
        let result = self.plan_and_publish(producer, abandon).await;
        self.program
            .app
            .stats
            .time("main_loop", &[], started.elapsed());
        result
    }

    /// Compares the hub with every target. What differs, or cannot be asked, refuses the run, or is returned if it is to
    /// be published all the same.
    async fn check_contract(&self, plan: &PlannedRun) -> Result<Vec<String>, QueuerError> {
        let found = self.compare(plan).await?;
        let mut unknown = Vec::new();
        for Unreachable {
            error,
            has_substitute,
        } in &found.unreachable
        {
            if *has_substitute {
                tracing::warn!(%error, "a replica is not compared with the hub");
            } else {
                unknown.push(error.to_string());
            }
        }
        if self.planner.options.force {
            let differences = found.differences.iter().map(ToString::to_string);
            let unknown = unknown.into_iter();
            let all = differences.chain(unknown.map(|error| format!("not compared: {error}")));
            let mut told: Vec<String> = all.collect();
            let more = told.split_off(told.len().min(TOLD)).len();
            if more > 0 {
                told.push(format!("{more} more"));
            }
            return Ok(told);
        }
        if !found.differences.is_empty() {
            return Err(QueuerError::Differs(found.differences));
        }
        if !unknown.is_empty() {
            return Err(QueuerError::Unknown(unknown));
        }
        Ok(Vec::new())
    }

    async fn compare(&self, plan: &PlannedRun) -> Result<Comparison, ConfigError> {
        let (targets, shards) = (&self.downstream.targets, &self.planner.options.shards);
        contract::survey(&plan.hub, targets, shards).await
    }

    /// One run: the ledger admits it, the source's index is cut into tasks, the tasks and their number are published.
    async fn plan_and_publish(
        &self,
        producer: &mut Producer,
        abandon: Option<&RunId>,
    ) -> Result<Published, QueuerError> {
        let pipeline = &self.downstream.pipeline;
        let (ledger, _) = FirstSeen::read(self.program).await?;
        let unfinished = admit(&ledger, pipeline, abandon)?;
        let history = Some(self.history(&ledger));
        let plan = self.planner.plan(pipeline, history).await?;
        if ledger.knows(&plan.run) {
            return Err(AdmissionError::AlreadyExists(plan.run).into());
        }
        let differences = self.check_contract(&plan).await?;
        let queuer = self;
        let mut publisher = RunPublisher { queuer, producer };
        if let Some(run) = unfinished {
            let why = format!("--abandon, for run {}", plan.run);
            publisher.abandon(&run, why).await?;
        }
        publisher.publish(&plan, &differences).await
    }

    fn history<'a>(&'a self, ledger: &'a Ledger) -> History<'a> {
        History {
            ledger,
            stores: &self.downstream.stores,
        }
    }
}
