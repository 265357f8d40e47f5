//! Runs that are planned on the real engine and published to a broker in memory.

use std::time::Duration;

use app::App;
use batch::{Fact, Message, Receipt, RunId, Started, Task};
use ledger::{Ledger, RunStatus};
use pipeline::broker::{Broker, Confirm, Memory, Publication, QueueOptions};
use pipeline::{LoopOptions, Program, RetrySchedule, names};
use queuer::{AdmissionError, Downstream, Options, Published, QueuerError, QueuerExit, run};

use super::Hub;

const FETCHER: &str = "fetcher-in";
const STORE: &str = "es-writer-in";

pub struct Fleet {
    pub hub: Hub,
    broker: Memory,
    pub downstream: Downstream,
}

impl Fleet {
    /// A hub of 600 rows and a broker with the pipeline `direct`.
    pub fn new() -> Self {
        Self::with_hub(Hub::new(
            "country String, keyword String",
            "(country, keyword)",
        ))
    }

    fn with_hub(hub: Hub) -> Self {
        for shard in 0..hub.database.shards().len() {
            hub.database.run(
                shard,
                "INSERT INTO {db}.hub SELECT 'us', toString(number), number, now64(3) - 1 FROM numbers(600)",
            );
        }
        let broker = Memory::new();
        let exchange = names::output_exchange("queuer");
        for (output, queue) in [("tasks", FETCHER), ("receipts", names::LEDGER)] {
            broker.declare_queue(queue, QueueOptions::default());
            broker.bind(&exchange, output, queue);
        }
        broker.declare_queue(STORE, QueueOptions::default());
        broker.declare_exchange(names::CONFIGURED);
        let downstream = Downstream {
            pipeline: "direct".to_owned(),
            stores: vec!["ch-writer".to_owned(), "es-writer".to_owned()],
            targets: Vec::new(),
            task_queues: vec![FETCHER.to_owned()],
            batch_queues: vec![STORE.to_owned()],
            run_plan: None,
        };
        Self {
            hub,
            broker,
            downstream,
        }
    }

    fn app() -> App {
        App::detached("queuer")
    }

    async fn run_as(&self, app: &App, options: &Options) -> Result<QueuerExit, QueuerError> {
        let broker = Broker::Memory(self.broker.clone());
        let program = Program::with_broker(
            app,
            broker,
            &LoopOptions::default(),
            RetrySchedule::default(),
        );
        let Hub {
            source, settings, ..
        } = &self.hub;
        run(&program, &self.downstream, source, settings, options).await
    }

    pub async fn run(&self, options: &Options) -> Result<QueuerExit, QueuerError> {
        self.run_as(&Self::app(), options).await
    }

    /// Publishes a run; panics when none is.
    pub async fn publish(&self, options: &Options) -> Published {
        match self.run(options).await {
            Ok(QueuerExit::Published(published)) => published,
            other => panic!("{other:?}"),
        }
    }

    pub fn receipts(&self) -> Vec<Receipt> {
        let messages = self.broker.ready(names::LEDGER);
        let receipts = messages.iter().map(Receipt::from_message);
        receipts.collect::<Result<_, _>>().unwrap()
    }

    pub fn ledger(&self) -> Ledger {
        let mut ledger = Ledger::new();
        self.receipts().iter().for_each(|r| ledger.apply(r));
        ledger
    }

    fn state(&self, run: &RunId) -> RunStatus {
        self.ledger().run(run).unwrap().status()
    }

    pub fn tasks(&self) -> Vec<Task> {
        let messages = self.broker.ready(FETCHER);
        let tasks = messages.iter().map(Task::from_message);
        tasks.collect::<Result<_, _>>().unwrap()
    }

    async fn put(&self, queue: &str, message: Message) {
        let broker = Broker::Memory(self.broker.clone());
        let session = broker.connect("test").await.unwrap();
        let publication = Publication::to_queue(queue.to_owned(), message);
        let confirm = session.publisher.publish(publication).await.unwrap();
        assert_eq!(confirm.await.unwrap(), Confirm::Stored);
    }

    /// Publishes for every task of the run the receipt that it was read and had no rows.
    pub async fn complete(&self, run: &RunId) {
        for task in self.tasks().into_iter().filter(|task| task.run == *run) {
            let fact = Fact::Fetched {
                task: task.task,
                attempt: 1,
                shard: task.shard,
                batches: 0,
                rows: 0,
                bytes: 0,
            };
            let receipt = Receipt {
                run: run.clone(),
                at_ms: 1,
                fact,
            };
            self.put(names::LEDGER, receipt.to_message()).await;
        }
    }
}

fn dry_run() -> Options {
    Options {
        dry_run: true,
        ..Options::default()
    }
}

#[tokio::test]
async fn a_run_is_announced_then_its_tasks_then_its_manifest() {
    let fleet = Fleet::new();
    let published = fleet.publish(&Options::default()).await;
    let tasks = fleet.tasks();
    assert_eq!(tasks.len() as u64, published.tasks);
    assert!(published.tasks >= 18, "{published:?}");
    assert!(tasks.iter().all(|task| task.run == published.run));
    let receipts = fleet.receipts();
    assert!(
        matches!(&receipts[0].fact, Fact::Started(Started { stores, partial: false, .. }) if stores.len() == 2)
    );
    let manifest = Fact::Manifest {
        tasks: published.tasks,
        estimated_rows: 1_200,
    };
    assert_eq!((receipts.len(), &receipts[1].fact), (2, &manifest));
    assert_eq!(fleet.state(&published.run), RunStatus::Running);
}

#[tokio::test]
async fn the_manifest_waits_until_every_task_is_confirmed() {
    let fleet = Fleet::new();
    let Ok(QueuerExit::Planned(plan)) = fleet.run(&dry_run()).await else {
        panic!("no plan");
    };
    let room = plan.ranges as usize - 1;
    fleet.broker.declare_queue(
        FETCHER,
        QueueOptions {
            max_length: Some(room),
            ..QueueOptions::default()
        },
    );
    let app = Fleet::app();
    let options = Options::default();
    let running = fleet.run_as(&app, &options);
    let full = async {
        while fleet.broker.ready(FETCHER).len() < room {
            tokio::task::yield_now().await;
        }
        assert_eq!(fleet.receipts().len(), 1);
        fleet.broker.declare_queue(FETCHER, QueueOptions::default());
    };
    let (finished, ()) = tokio::join!(running, full);
    let Ok(QueuerExit::Published(published)) = finished else {
        panic!("{finished:?}");
    };
    assert_eq!(fleet.tasks().len() as u64, published.tasks);
    assert!(matches!(fleet.receipts()[1].fact, Fact::Manifest { .. }));
}

#[tokio::test]
async fn an_unfinished_run_refuses_the_next_one_until_it_is_abandoned_by_name() {
    let fleet = Fleet::new();
    let first = fleet.publish(&Options::default()).await;
    let Err(QueuerError::Admission(AdmissionError::Unfinished { run, progress, .. })) =
        fleet.run(&Options::default()).await
    else {
        panic!("a second run began");
    };
    assert_eq!(run, first.run);
    assert!(progress.contains("0 of"), "{progress}");
    assert_eq!(fleet.receipts().len(), 2);
    let abandon = Options {
        abandon: Some(first.run.clone()),
        ..Options::default()
    };
    let second = fleet.publish(&abandon).await;
    assert_eq!(fleet.state(&first.run), RunStatus::Abandoned);
    assert_eq!(fleet.state(&second.run), RunStatus::Running);
}

#[tokio::test]
async fn a_default_run_begins_where_the_last_complete_one_ended() {
    let fleet = Fleet::new();
    let first = fleet.publish(&Options::default()).await;
    fleet.complete(&first.run).await;
    let second = fleet.publish(&Options::default()).await;
    let started = |run: &RunId| fleet.ledger().run(run).unwrap().started().unwrap().clone();
    let (first, second) = (started(&first.run), started(&second.run));
    assert_eq!(first.mode, batch::RunMode::Full);
    let since_ms = first.until_ms - 300_000;
    assert_eq!(second.mode, batch::RunMode::Since { since_ms });
}

#[tokio::test]
async fn a_partial_run_is_no_baseline() {
    let fleet = Fleet::new();
    let sample = Options {
        sample: 3,
        ..Options::default()
    };
    let first = fleet.publish(&sample).await;
    fleet.complete(&first.run).await;
    let second = fleet.publish(&Options::default()).await;
    let ledger = fleet.ledger();
    let started = ledger.run(&second.run).unwrap().started().unwrap();
    assert_eq!(started.mode, batch::RunMode::Full);
}

#[tokio::test]
async fn of_two_queuers_at_the_same_moment_one_continues() {
    let fleet = Fleet::new();
    let options = Options::default();
    let (a, b) = tokio::join!(fleet.run(&options), fleet.run(&options));
    let runs: Vec<RunId> = [&a, &b]
        .into_iter()
        .filter_map(|finished| match finished {
            Ok(QueuerExit::Published(published)) => Some(published.run.clone()),
            Err(QueuerError::Admission(_)) => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(runs.len(), 1, "{a:?} {b:?}");
    let ledger = fleet.ledger();
    let unfinished: Vec<_> = ledger.unfinished("direct").map(|run| run.run()).collect();
    assert_eq!(unfinished, [&runs[0]]);
    let published = fleet.tasks();
    assert!(published.iter().all(|task| task.run == runs[0]));
}

#[tokio::test]
async fn of_two_queuers_whose_runs_have_one_name_one_publishes_and_the_other_abandons_nothing() {
    // Change times in whole seconds: within one, both runs have the same name.
    let fleet = Fleet::with_hub(Hub::with_change_column(
        "country String, keyword String",
        "(country, keyword)",
        "changed_at DateTime",
    ));
    let options = Options::default();
    let (a, b) = tokio::join!(fleet.run(&options), fleet.run(&options));
    let published = match (&a, &b) {
        (Ok(QueuerExit::Published(one)), Err(QueuerError::Admission(_))) => one,
        (Err(QueuerError::Admission(_)), Ok(QueuerExit::Published(one))) => one,
        other => panic!("{other:?}"),
    };
    assert_eq!(fleet.tasks().len() as u64, published.tasks);
    assert_eq!(fleet.state(&published.run), RunStatus::Running);
}

#[tokio::test]
async fn a_run_after_a_column_was_added_is_full_and_says_why() {
    let fleet = Fleet::new();
    let first = fleet.publish(&Options::default()).await;
    fleet.complete(&first.run).await;
    for shard in 0..fleet.hub.database.shards().len() {
        let sql = "ALTER TABLE {db}.hub ADD COLUMN processed_clicks UInt64";
        fleet.hub.database.run(shard, sql);
    }
    let Ok(QueuerExit::Planned(report)) = fleet.run(&dry_run()).await else {
        panic!("no plan");
    };
    assert_eq!(report.mode, batch::RunMode::Full);
    let why = format!("run {} read another table", first.run);
    assert!(report.to_string().contains(&why), "{report}");
}

#[tokio::test]
async fn a_queuer_that_is_stopped_while_held_back_abandons_its_run() {
    let mut fleet = Fleet::new();
    fleet.hub.settings.max_queue_len = 0;
    fleet.put(FETCHER, Message::default()).await;
    let app = Fleet::app();
    let options = Options::default();
    let stop = async {
        while fleet.receipts().is_empty() {
            tokio::task::yield_now().await;
        }
        app.shutdown.trigger();
    };
    let (finished, ()) = tokio::join!(fleet.run_as(&app, &options), stop);
    assert!(matches!(finished, Ok(QueuerExit::Stopped)), "{finished:?}");
    assert_eq!(fleet.broker.ready(FETCHER).len(), 1);
    let run = fleet.receipts()[0].run.clone();
    assert_eq!(fleet.state(&run), RunStatus::Abandoned);
}

#[tokio::test]
async fn no_task_is_sent_while_batches_wait_for_a_store_that_is_behind() {
    let mut fleet = Fleet::new();
    fleet.hub.settings.max_queue_len = 0;
    fleet.put(STORE, Message::default()).await;
    let app = Fleet::app();
    let options = Options::default();
    let stop = async {
        while !app
            .health
            .failures()
            .values()
            .any(|why| why.contains(STORE))
        {
            tokio::task::yield_now().await;
        }
        app.shutdown.trigger();
    };
    let (finished, ()) = tokio::join!(fleet.run_as(&app, &options), stop);
    assert!(matches!(finished, Ok(QueuerExit::Stopped)), "{finished:?}");
    assert!(fleet.tasks().is_empty());
}

#[tokio::test]
async fn a_loop_skips_refused_cycles_and_continues() {
    let fleet = Fleet::new();
    let app = Fleet::app();
    let every = Options {
        every_seconds: Some(1),
        ..Options::default()
    };
    let cycles = async |wanted| {
        while app.stats.observations("main_loop", &[]) < wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let watch = async {
        cycles(2).await;
        // The second cycle found an unfinished run.
        let runs: Vec<RunId> = fleet.ledger().runs().map(|run| run.run().clone()).collect();
        assert_eq!((runs.len(), fleet.receipts().len()), (1, 2));
        fleet.complete(&runs[0]).await;
        cycles(4).await;
        app.shutdown.trigger();
    };
    let (finished, ()) = tokio::join!(fleet.run_as(&app, &every), watch);
    assert!(matches!(finished, Ok(QueuerExit::Stopped)), "{finished:?}");
    assert_eq!(fleet.ledger().runs().count(), 2);
}

#[tokio::test]
async fn a_dry_run_publishes_nothing() {
    let fleet = Fleet::new();
    let Ok(QueuerExit::Planned(report)) = fleet.run(&dry_run()).await else {
        panic!("no plan");
    };
    assert_eq!(report.rows, 1_200);
    assert!(fleet.receipts().is_empty() && fleet.tasks().is_empty());
}
