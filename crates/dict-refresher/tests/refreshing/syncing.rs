//! Replicas that are in sync, and that are not. The engine of these tests has no replicated tables, no `ON CLUSTER` and
//! no `system.replicas` with rows: these statements are answered by the server before it, as a real one answers them, and
//! their text is checked (`formatQuery` of the engine takes it). Everything else reaches the engine.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use batch::{Fact, Reason, header};
use pipeline::{Outcome, Worker};

use crate::proxy::{Action, Proxy, Statement};
use crate::support::{Done, KEYS, Tables, facts, order, process};

/// What `SYSTEM SYNC REPLICA` is answered with.
type Answer = fn(&Statement) -> Action;

fn in_sync(_: &Statement) -> Action {
    Action::Rows(String::new())
}

fn timed_out(_: &Statement) -> Action {
    let text = "SYNC REPLICA db.t: command timed out. See the 'receive_timeout' setting";
    Action::Exception(159, text.into())
}

struct Replicated {
    tables: Tables,
    proxies: [Proxy; 2],
}

impl Replicated {
    /// One shard with two replicas of a replicated table, each of which answers a sync so.
    async fn create(answers: [Answer; 2]) -> Self {
        let mut tables = Tables::create();
        let proxy = async |n: usize| {
            let url = tables.database.shards()[n].clone();
            let answer = answers[n];
            Proxy::start(&url, move |statement| {
                let sql = statement.sql.as_str();
                if let Some(described) = statement.described_as_replicated() {
                    described
                } else if sql.starts_with("SELECT absolute_delay") {
                    Action::Rows(
                        "{\"absolute_delay\":340,\"queue_size\":12,\"is_readonly\":0}\n".into(),
                    )
                } else if sql.starts_with("SYSTEM SYNC REPLICA") {
                    answer(statement)
                } else {
                    Action::Forward
                }
            })
            .await
        };
        let proxies = [proxy(0).await, proxy(1).await];
        tables.target.cluster = format!("{}|{}", proxies[0].url(), proxies[1].url());
        Self { tables, proxies }
    }

    fn syncs(&self) -> Vec<Statement> {
        let both = self.proxies.iter();
        both.flat_map(|proxy| proxy.beginning("SYSTEM SYNC"))
            .collect()
    }

    /// Nothing was done to any dictionary.
    fn untouched(&self) {
        for (server, proxy) in self.proxies.iter().enumerate() {
            for statement in ["CREATE", "DROP", "SYSTEM RELOAD", "EXCHANGE", "RENAME"] {
                assert!(proxy.beginning(statement).is_empty(), "{statement}");
            }
            assert_eq!(self.tables.dictionaries(server), ["-", "-"]);
        }
    }
}

struct LateReplica {
    replica: String,
    behind_seconds: Option<u64>,
    error: String,
}

fn late(done: &Done) -> Vec<LateReplica> {
    let late = |fact| match fact {
        Fact::ReplicaLate {
            replica,
            behind_seconds,
            error,
            ..
        } => Some(LateReplica {
            replica,
            behind_seconds,
            error,
        }),
        _ => None,
    };
    done.facts().into_iter().filter_map(late).collect()
}

fn synced(done: &Done) -> Vec<String> {
    let synced = |fact| match fact {
        Fact::ReplicaSynced { replica, .. } => Some(replica),
        _ => None,
    };
    done.facts().into_iter().filter_map(synced).collect()
}

#[tokio::test]
async fn each_replica_is_brought_into_sync_before_anything_is_loaded() {
    let shard = Replicated::create([in_sync, in_sync]).await;
    let done = shard.tables.refresh(0, 10).await;
    assert_eq!(done.outcome, Outcome::Done, "{:?}", done.facts());
    assert_eq!(synced(&done).len(), 2);
    assert!(done.facts().contains(&Fact::ShardSynced {
        shard: 0,
        replicas: 2
    }));
    assert_eq!(done.applied(10).unwrap().0, KEYS);
    let database = shard.tables.database.name();
    let syncs = shard.syncs();
    assert_eq!(syncs.len(), 2);
    for statement in syncs {
        let expected =
            format!("SYSTEM SYNC REPLICA `{database}`.`keywords_metrics_local` LIGHTWEIGHT");
        assert_eq!(statement.sql, expected);
        assert!(
            statement.options.contains("receive_timeout=3600"),
            "{}",
            statement.options
        );
        let parsed = format!("SELECT formatQuery('{}')", statement.sql);
        shard.tables.run(0, &parsed);
    }
    for proxy in &shard.proxies {
        let order: Vec<_> = proxy.seen().iter().map(|s| s.sql.clone()).collect();
        let at = |with: &str| order.iter().position(|sql| sql.starts_with(with)).unwrap();
        assert!(at("SYSTEM SYNC") < at("CREATE DICTIONARY"));
    }
}

#[tokio::test]
async fn a_late_replica_is_named_with_its_delay_and_keeps_the_shard_from_being_refreshed() {
    let shard = Replicated::create([in_sync, timed_out]).await;
    let done = shard.tables.refresh(0, 10).await;
    let url = shard.proxies[1].url();
    let late = late(&done);
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].replica, url);
    assert_eq!(late[0].behind_seconds, Some(340));
    assert!(
        late[0]
            .error
            .contains("340 s behind, with 12 entries in its queue"),
        "{}",
        late[0].error
    );
    assert_eq!(synced(&done), [shard.proxies[0].url()]);
    let error = done.retried();
    assert!(
        error.contains("1 of 2 replicas late") && error.contains(&url),
        "{error}"
    );
    let (stage, step, _, given_up) = done.failure();
    assert_eq!(
        (stage.as_str(), step.as_str(), given_up),
        ("sync", "sync", false)
    );
    shard.untouched();
}

#[tokio::test]
async fn a_replica_that_is_down_is_late_too() {
    let mut tables = Tables::create();
    let alive = tables.database.shards()[0].clone();
    tables.target.cluster = format!("{alive}|http://127.0.0.1:1");
    let done = tables.refresh(0, 10).await;
    let late = late(&done);
    assert_eq!(late.len(), 1);
    assert_eq!(late[0].replica, "http://127.0.0.1:1");
    assert_eq!(late[0].behind_seconds, None);
    assert_eq!(tables.dictionaries(0), ["-", "-"]);
}

#[tokio::test]
async fn a_shard_that_is_late_for_too_long_is_given_up_until_an_operator_brings_its_order_back() {
    let shard = Replicated::create([in_sync, timed_out]).await;
    let hours_ago = |hours: i64| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_millis() as i64 - hours * 3_600_000
    };
    // The first failure begins the time, and the same failure again is one in the history.
    let first = shard.tables.refresh(0, 10).await;
    let since = first.message.headers.int(header::FAILING_SINCE).unwrap();
    assert!((hours_ago(0) - since).abs() < 60_000, "{since}");
    let again = shard.tables.process(first.message.clone()).await;
    assert_eq!(
        again.message.headers.int(header::FAILING_SINCE),
        Some(since)
    );
    assert_eq!(again.retried(), first.retried());

    let mut message = order(0, 10).to_message();
    message.headers.set(header::FAILING_SINCE, hours_ago(3));
    let done = shard.tables.process(message.clone()).await;
    assert!(
        !done.retried().contains("failing for"),
        "{}",
        done.retried()
    );
    let since = done.message.headers.int(header::FAILING_SINCE);
    assert_eq!(since, message.headers.int(header::FAILING_SINCE));

    message.headers.set(header::FAILING_SINCE, hours_ago(5));
    let done = shard.tables.process(message).await;
    let Outcome::Quarantine(why) = done.outcome else {
        panic!("{:?}", done.outcome)
    };
    assert_eq!(why.reason, Reason::TooManyRetries);
    assert!(
        why.detail
            .contains("given up 18000 s after the first failure"),
        "{why}"
    );
    let receipt = shard
        .tables
        .worker()
        .quarantined(&done.message, &why)
        .unwrap();
    let fact = batch::Receipt::from_message(&receipt).unwrap().fact;
    assert!(
        matches!(&fact, Fact::OrderFailed { stage: batch::Stage::Sync, given_up: true, error, .. } if error.contains("340 s behind")),
        "{fact:?}"
    );

    assert!(matches!(
        shard.tables.process(done.message).await.outcome,
        Outcome::Retry { .. }
    ));
    shard.untouched();
}

#[tokio::test]
async fn an_order_is_not_held_for_longer_than_the_broker_allows_and_continues_with_the_time_it_has_left()
 {
    let mut shard = Replicated::create([in_sync, |_| Action::KillBefore]).await;
    shard.tables.settings.max_in_flight_seconds = 1;
    let worker = shard.tables.worker();
    for _ in 0..2 {
        let done = process(&shard.tables.app, &worker, order(0, 10).to_message()).await;
        assert!(
            matches!(done.outcome, Outcome::Snooze { .. }),
            "{:?}",
            done.outcome
        );
        assert!(late(&done).is_empty());
        // The second begins well within the second after the first, not at its edge.
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    let limits: Vec<bool> = [3600, 3599]
        .map(|limit| {
            shard.proxies[1]
                .seen()
                .iter()
                .any(|s| s.options.contains(&format!("receive_timeout={limit}")))
        })
        .into();
    assert_eq!(limits, [true, true]);
}

#[tokio::test]
async fn a_worker_that_stops_puts_its_order_off_at_once() {
    let shard = Replicated::create([in_sync, |_| Action::KillBefore]).await;
    let worker = shard.tables.worker();
    let app = shard.tables.app.clone();
    let (mut job, sent) = pipeline::testing::job(&app, order(0, 10).to_message(), 1);
    let stop = async {
        shard.proxies[1].killed().await;
        app.shutdown.trigger();
    };
    let (outcome, ()) = tokio::join!(worker.process(&mut job), stop);
    assert!(matches!(outcome, Outcome::Snooze { .. }), "{outcome:?}");
    assert!(
        facts(&sent)
            .iter()
            .all(|fact| matches!(fact, Fact::ReplicaSynced { .. }))
    );
}

#[tokio::test]
async fn a_table_that_is_not_replicated_needs_no_sync() {
    let tables = Tables::create();
    let proxy = Proxy::start(&tables.database.shards()[0], |_| Action::Forward).await;
    let mut target = tables.target.clone();
    target.cluster = proxy.url();
    let worker = tables.worker_on(&target);
    let done = process(&tables.app, &worker, order(0, 10).to_message()).await;
    assert_eq!(done.outcome, Outcome::Done);
    assert!(proxy.beginning("SYSTEM SYNC").is_empty());
    assert!(synced(&done).is_empty());
    assert!(done.facts().contains(&Fact::ShardSynced {
        shard: 0,
        replicas: 1
    }));
}

#[tokio::test]
async fn a_late_shard_does_not_keep_the_other_shards_of_its_worker_waiting() {
    let mut shards = Replicated::create([|_| Action::KillBefore, in_sync]).await;
    let [late, other] = &shards.proxies;
    shards.tables.target.cluster = format!("{},{}", late.url(), other.url());
    shards.tables.settings.max_in_flight_seconds = 5;
    let worker = shards.tables.worker();
    let refresh =
        async |shard| process(&shards.tables.app, &worker, order(shard, 10).to_message()).await;
    let first = refresh(0);
    tokio::pin!(first);
    let done = tokio::select! {
        done = refresh(1) => done,
        _ = &mut first => panic!("the late one ended first"),
    };
    assert_eq!(done.applied(10).unwrap().0, KEYS);
    assert!(matches!(first.await.outcome, Outcome::Snooze { .. }));
    assert_eq!(shards.tables.dictionaries(0), ["-", "-"]);
}

async fn over_a_cluster(answers: [Answer; 2]) -> (Replicated, Done) {
    let mut shard = Replicated::create(answers).await;
    shard.tables.settings.sync_on_cluster = "metrics".to_owned();
    let done = shard.tables.refresh(0, 10).await;
    (shard, done)
}

#[tokio::test]
async fn one_statement_on_a_cluster_brings_all_its_replicas_into_sync() {
    let answer: Answer = |_| {
        let row = |host: &str| {
            format!("{{\"host\":\"{host}\",\"port\":9000,\"status\":0,\"error\":\"\"}}\n")
        };
        Action::Rows(row("127.0.0.1") + &row("other-shard"))
    };
    let (shard, done) = over_a_cluster([answer, answer]).await;
    assert_eq!(done.outcome, Outcome::Done, "{:?}", done.facts());
    assert_eq!(synced(&done).len(), 2);
    let syncs = shard.syncs();
    assert_eq!(syncs.len(), 1);
    let expected = format!(
        "SYSTEM SYNC REPLICA ON CLUSTER `metrics` `{}`.`keywords_metrics_local` LIGHTWEIGHT",
        shard.tables.database.name()
    );
    assert_eq!(syncs[0].sql, expected);
    shard
        .tables
        .run(0, &format!("SELECT formatQuery('{expected}')"));
    for setting in [
        "receive_timeout=3600",
        "distributed_ddl_task_timeout=3600",
        "distributed_ddl_output_mode=never_throw",
    ] {
        assert!(syncs[0].options.contains(setting), "{}", syncs[0].options);
    }
}

#[tokio::test]
async fn a_host_of_the_cluster_that_is_not_done_or_not_there_is_late() {
    let not_done: Answer =
        |_| Action::Rows("{\"host\":\"127.0.0.1\",\"status\":null,\"error\":null}\n".into());
    let failed: Answer = |_| {
        Action::Rows("{\"host\":\"127.0.0.1\",\"status\":159,\"error\":\"timed out\"}\n".into())
    };
    let unknown: Answer =
        |_| Action::Rows("{\"host\":\"laksa1\",\"status\":0,\"error\":\"\"}\n".into());
    for (answer, text) in [
        (not_done, "it was not done in time"),
        (failed, "timed out"),
        (
            unknown,
            "cluster 'metrics' has no host 127.0.0.1, only laksa1",
        ),
    ] {
        let (shard, done) = over_a_cluster([answer, answer]).await;
        let late = late(&done);
        assert_eq!(late.len(), 2);
        assert!(late[0].error.contains(text), "{}", late[0].error);
        shard.untouched();
    }
}

#[tokio::test]
async fn a_sync_that_takes_long_is_no_silence_of_the_server() {
    let mut shard = Replicated::create([in_sync, in_sync]).await;
    shard.tables.target.idle_timeout_seconds = 1;
    let slow = shard.tables.database.shards()[0].clone();
    let proxy = Proxy::start(&slow, |statement| {
        if statement.sql.starts_with("SYSTEM SYNC") {
            // Longer than the silence that a connection bears otherwise.
            return Action::Rewrite("SELECT sleep(2) FORMAT Null".into());
        }
        let described = statement.described_as_replicated();
        described.unwrap_or(Action::Forward)
    })
    .await;
    shard.tables.target.cluster = proxy.url();
    let done = tokio::time::timeout(Duration::from_secs(30), shard.tables.refresh(0, 10))
        .await
        .unwrap();
    assert_eq!(done.outcome, Outcome::Done, "{:?}", done.facts());
}
