use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use batch::{Fact, RunId, RunPlan, Started};
use pipeline::broker::{Confirm, Publication};
use pipeline::{Producer, ProducerError, Program, RECEIPTS, receipt};

use crate::TASKS;
use crate::admission::AdmissionError;
use crate::first_seen::FirstSeen;
use crate::plan::{PlannedRun, describe};
use crate::worker::{Queuer, QueuerError};

/// Time for abandoning a run when the queuer stops: well within any grace period.
const ABANDON_TIMEOUT: Duration = Duration::from_secs(5);

/// A run whose tasks and manifest are stored by the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub run: RunId,
    pub tasks: u64,
    pub estimated_rows: u64,
}

/// Publishes planned runs.
pub(crate) struct RunPublisher<'a> {
    pub queuer: &'a Queuer<'a>,
    pub producer: &'a mut Producer,
}

impl RunPublisher<'_> {
    /// Publishes the announcement, the tasks and the manifest. A run that cannot be published to its end would keep the
    /// next one from starting: it is abandoned, if there is still a broker.
    /// `differences`: those that it is published in spite of.
    pub async fn publish(
        &mut self,
        plan: &PlannedRun,
        differences: &[String],
    ) -> Result<Published, QueuerError> {
        let published = async {
            self.announce(plan, differences).await?;
            Ok(self.publish_tasks(plan).await?)
        };
        let published = published.await;
        if let Err(error @ QueuerError::Producer(_)) = &published {
            self.abandon_unpublished(&plan.run, error).await;
        }
        published
    }

    pub async fn abandon(&mut self, run: &RunId, why: String) -> Result<(), ProducerError> {
        tracing::warn!(%run, why, "abandoning the run");
        let abandoned = abandoned(self.queuer.program, why);
        self.publish_receipt(run, abandoned).await
    }

    /// Publishes that the run has started, then checks in the ledger that it came first: two queuers may have read the
    /// ledger at the same moment. All read the same order there, so one of them continues. If their clocks agree, both
    /// runs have the same name, and only the nonces tell which came first.
    async fn announce(
        &mut self,
        plan: &PlannedRun,
        differences: &[String],
    ) -> Result<(), QueuerError> {
        let reads = describe(plan.read.mode, plan.read.until_ms);
        tracing::info!(run = %plan.run, reads, because = plan.because, partial = plan.partial, "starting");
        let nonce = format!("{:016x}", RandomState::new().hash_one(&plan.run));
        let run_plan = self.queuer.downstream.run_plan.clone();
        let started = Fact::Started(Started {
            pipeline: self.queuer.downstream.pipeline.clone(),
            mode: plan.read.mode,
            until_ms: plan.read.until_ms,
            shards: plan.shard_count,
            stores: self.queuer.downstream.stores.clone(),
            partial: plan.partial,
            source: plan.source.clone(),
            nonce: nonce.clone(),
            differences: differences.to_vec(),
            run_plan: run_plan.map(|run_plan| RunPlan {
                overrides: self.queuer.planner.options.gates.iter().cloned().collect(),
                ..run_plan
            }),
        });
        self.publish_receipt(&plan.run, started).await?;
        let (ledger, seen) = FirstSeen::read(self.queuer.program).await?;
        if ledger.record(&plan.run).is_some() {
            return Err(AdmissionError::AlreadyEnded(plan.run.clone()).into());
        }
        if !seen.is_first(&plan.run, &nonce) {
            // The run belongs to the other queuer: this one must not abandon it.
            return Err(AdmissionError::Simultaneous(plan.run.clone()).into());
        }
        let first = match seen.first_unfinished(&ledger, &self.queuer.downstream.pipeline) {
            Some(first) if *first != plan.run => first.clone(),
            _ => return Ok(()),
        };
        let why = format!("run {first} started at the same moment");
        self.abandon(&plan.run, why).await?;
        let progress = ledger.progress(&first).map(|run| run.summary());
        let unfinished = AdmissionError::Unfinished {
            pipeline: self.queuer.downstream.pipeline.clone(),
            run: first,
            progress: progress.unwrap_or_default(),
        };
        Err(unfinished.into())
    }

    async fn publish_tasks(&mut self, plan: &PlannedRun) -> Result<Published, ProducerError> {
        for task in plan.tasks() {
            if self.queuer.program.app.shutdown.is_triggered() {
                return Err(ProducerError::Stopped);
            }
            self.producer.send(TASKS, task.to_message()).await?;
        }
        // The manifest stands for all tasks: it must not come before they are stored.
        self.producer.flush().await?;
        let (run, tasks, estimated_rows) = (plan.run.clone(), plan.task_count(), plan.rows());
        let manifest = Fact::Manifest {
            tasks,
            estimated_rows,
        };
        self.publish_receipt(&run, manifest).await?;
        tracing::info!(%run, tasks, estimated_rows, "published");
        Ok(Published {
            run,
            tasks,
            estimated_rows,
        })
    }

    /// Publishes a receipt and waits until it is stored.
    async fn publish_receipt(&mut self, run: &RunId, fact: Fact) -> Result<(), ProducerError> {
        let message = receipt(run, fact).to_message();
        self.producer.send(RECEIPTS, message).await?;
        self.producer.flush().await
    }

    /// Abandons a run whose tasks could not all be published, on a session of its own, because that of the producer has
    /// ended.
    async fn abandon_unpublished(&self, run: &RunId, error: &QueuerError) {
        let (program, name) = (self.queuer.program, self.queuer.program.name());
        let why = format!("not all tasks could be published: {error}");
        let message = receipt(run, abandoned(program, why)).to_message();
        let publish = async {
            let session = program.broker.connect(name).await.ok()?;
            let publication = Publication::to_output(name, RECEIPTS, message);
            let confirm = session.publisher.publish_and_wait(publication).await;
            session.close().await;
            confirm.ok()
        };
        match tokio::time::timeout(ABANDON_TIMEOUT, publish).await {
            Ok(Some(Confirm::Stored)) => tracing::warn!(%run, "the run was abandoned"),
            _ => {
                tracing::warn!(%run, "the run stays unfinished; the next one needs --abandon {run}")
            }
        }
    }
}

fn abandoned(program: &Program, why: String) -> Fact {
    let app = &program.app;
    let who = format!("{} on {}", app.name, app.host);
    Fact::Abandoned { who, why }
}
