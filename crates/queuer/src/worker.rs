use std::collections::BTreeMap;

use batch::RunId;
use ledger::Ledger;
use pipeline::broker::BrokerError;
use pipeline::{Producer, ProducerError, Program, history, now_ms};
use stores::clickhouse::{Cluster, ConfigError, SourceSettings};
use tokio::time::Instant;

use crate::TASKS;
use crate::admission::{AdmissionError, admit};
use crate::baseline::History;
use crate::clock::{CycleStart, Cycles, wait_until};
use crate::config::QueuerSettings;
use crate::downstream::Downstream;
use crate::first_seen::FirstSeen;
use crate::options::Options;
use crate::plan::{PlanError, Planner};
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

/// What the queuer did.
#[derive(Debug)]
pub enum QueuerExit {
    Published(Published),
    /// A dry run: the plan, of which nothing was published.
    Planned(PlanReport),
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
        return Ok(QueuerExit::Planned(queuer.dry_run().await?));
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
        let plan = self.planner.plan(&self.downstream.pipeline, history);
        Ok(PlanReport::new(&plan.await?)?)
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
        let force = self.planner.options.force.as_ref();
        let exit = match self.planner.options.every_seconds {
            None => QueuerExit::Published(self.cycle(&mut producer, force).await?),
            Some(seconds) => self.repeat(&mut producer, seconds, force).await?,
        };
        producer.close().await?;
        Ok(exit)
    }

    /// A cycle at every start, until stopped.
    async fn repeat(
        &self,
        producer: &mut Producer,
        every_seconds: u64,
        mut force: Option<&RunId>,
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
            match self.cycle(producer, force.take()).await {
                Ok(_) => {}
                Err(QueuerError::Admission(error)) => tracing::warn!(%error, "cycle skipped"),
                Err(QueuerError::Plan(error)) => tracing::error!(%error, "cycle skipped"),
                Err(error) => return Err(error),
            }
        }
    }

    async fn cycle(
        &self,
        producer: &mut Producer,
        force: Option<&RunId>,
    ) -> Result<Published, QueuerError> {
        let started = Instant::now();
        let result = self.plan_and_publish(producer, force).await;
        self.program
            .app
            .stats
            .time("main_loop", &[], started.elapsed());
        result
    }

    /// One run: the ledger admits it, the source's index is cut into tasks, the tasks and their number are published.
    async fn plan_and_publish(
        &self,
        producer: &mut Producer,
        force: Option<&RunId>,
    ) -> Result<Published, QueuerError> {
        let pipeline = &self.downstream.pipeline;
        let (ledger, _) = FirstSeen::read(self.program).await?;
        let unfinished = admit(&ledger, pipeline, force)?;
        let history = Some(self.history(&ledger));
        let plan = self.planner.plan(pipeline, history).await?;
        if ledger.knows(&plan.run) {
            return Err(AdmissionError::AlreadyExists(plan.run).into());
        }
        let queuer = self;
        let mut publisher = RunPublisher { queuer, producer };
        if let Some(run) = unfinished {
            let why = format!("--force, for run {}", plan.run);
            publisher.abandon(&run, why).await?;
        }
        publisher.publish(&plan).await
    }

    fn history<'a>(&'a self, ledger: &'a Ledger) -> History<'a> {
        History {
            ledger,
            stores: &self.downstream.stores,
        }
    }
}
