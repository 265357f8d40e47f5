//! A worker process that is killed at any statement of a refresh, before the server gets it or before the worker gets the answer.

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use app::App;
use pipeline::Outcome;
use tokio::process::Command;

use crate::proxy::{Action, Proxy};
use crate::support::{Done, KEYS, Tables, order, process, worker_for};

/// Variable that hands a worker process its cluster, its database and the version to refresh to.
const ARGUMENTS: &str = "DICT_REFRESHER_TEST";

/// More statements than a refresh of two replicas takes.
const MAX_STATEMENTS: usize = 100;

struct Killer {
    proxies: [Proxy; 2],
    left: Arc<AtomicUsize>,
}

impl Killer {
    async fn start(tables: &Tables, after: bool) -> Self {
        let left = Arc::new(AtomicUsize::new(usize::MAX));
        let proxy = async |server: usize| {
            let left = left.clone();
            let url = tables.database.shards()[server].clone();
            Proxy::start(&url, move |_| match left.fetch_sub(1, Ordering::SeqCst) {
                0 if after => Action::KillAfter,
                0 => Action::KillBefore,
                _ => Action::Forward,
            })
            .await
        };
        Self {
            proxies: [proxy(0).await, proxy(1).await],
            left,
        }
    }

    /// Kills a worker, a process of its own, at the `n`-th statement; false when it was done before.
    async fn kill_at(&self, n: usize, tables: &Tables, version: i64) -> bool {
        self.left.store(n, Ordering::SeqCst);
        let [a, b] = &self.proxies;
        let arguments = [
            format!("{}|{}", a.url(), b.url()),
            tables.database.name().to_owned(),
            version.to_string(),
        ];
        let mut worker = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "killed::worker_process", "--ignored"])
            .env(ARGUMENTS, arguments.join(" "))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let died = tokio::select! {
            ended = worker.wait() => {
                assert!(ended.unwrap().success(), "a worker that was not killed failed");
                false
            }
            () = a.killed() => true,
            () = b.killed() => true,
        };
        // SIGKILL.
        worker.kill().await.unwrap();
        // What the other replica's request does after the death is as it may be.
        self.left.store(usize::MAX, Ordering::SeqCst);
        died
    }
}

/// Not a test: the worker that the tests kill.
#[tokio::test]
#[ignore = "it is the process that the other tests kill"]
async fn worker_process() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        return;
    };
    let arguments: Vec<&str> = arguments.split(' ').collect();
    let [cluster, database, version] = arguments[..] else {
        panic!("{arguments:?}")
    };
    let worker = worker_for(cluster, database);
    let message = order(0, version.parse().unwrap()).to_message();
    let done = process(&App::detached("dict-refresher"), &worker, message).await;
    assert_eq!(done.outcome, Outcome::Done, "{:?}", done.facts());
}

/// Has a fresh worker process the order; what the dead one's last statement still does may cost it a try.
async fn resume(tables: &Tables, version: i64) -> Done {
    for _ in 0..3 {
        let done = tables.refresh(0, version).await;
        if !matches!(done.outcome, Outcome::Retry { .. }) {
            return done;
        }
    }
    panic!(
        "it cannot be resumed: {:?}",
        tables.refresh(0, version).await.facts()
    )
}

async fn killed_everywhere(after: bool, first: bool) {
    let mut tables = Tables::create();
    tables.as_replicas();
    if !first {
        assert_eq!(tables.refresh(0, 11).await.outcome, Outcome::Done);
    }
    let killer = Killer::start(&tables, after).await;
    let mut previous = 11;
    for n in 0..MAX_STATEMENTS {
        if first {
            for server in 0..2 {
                tables.run(server, "DROP DICTIONARY IF EXISTS {db}.metrics SYNC");
                tables.run(server, "DROP DICTIONARY IF EXISTS {db}.metrics_next SYNC");
            }
        }
        let version = 100 + n as i64;
        let died = killer.kill_at(n, &tables, version).await;
        let done = resume(&tables, version).await;
        assert_eq!(done.outcome, Outcome::Done, "killed at statement {n}");
        assert_eq!(
            done.applied(version).map(|(entries, _)| entries),
            Some(KEYS)
        );
        assert_eq!(done.restarts(), ["serp-a", "serp-b"]);
        for server in 0..2 {
            let live = format!("r-{version} LOADED {KEYS}");
            let before = if first {
                "-".to_owned()
            } else {
                format!("r-{previous} LOADED {KEYS}")
            };
            assert_eq!(
                tables.dictionaries(server),
                [live, before],
                "killed at statement {n}"
            );
        }
        previous = version;
        if !died {
            assert!(n > 15, "only {n} statements");
            return;
        }
    }
    panic!("a refresh takes more than {MAX_STATEMENTS} statements");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_dies_before_any_of_its_statements_continues_and_keeps_the_old_dictionary() {
    killed_everywhere(false, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_that_dies_after_any_of_its_statements_does_none_of_them_twice_harmfully() {
    killed_everywhere(true, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_refresh_of_all_can_die_anywhere_too() {
    killed_everywhere(true, true).await;
}

#[tokio::test]
async fn a_shard_of_which_one_replica_has_the_new_dictionary_already_converges() {
    let mut tables = Tables::create();
    let one = tables.database.shards()[0].clone();
    tables.target.cluster = one;
    tables.refresh(0, 10).await;
    tables.refresh(0, 20).await;
    tables.as_replicas();
    let done = tables.refresh(0, 20).await;
    assert_eq!(done.outcome, Outcome::Done);
    for server in 0..2 {
        assert!(tables.dictionaries(server)[0].starts_with("r-20 LOADED"));
    }
    assert!(tables.dictionaries(0)[1].starts_with("r-10 LOADED"));
}
