//! `fleet runs`: what is drawn of a run, and what an operator decides, on a real ledger.

use batch::{
    BatchId, Decision, Fact, Reason, Receipt, Rows, RunId, RunMode, RunPlan, Stage, Started,
    TaskHash,
};
use pipeline::broker::{Broker, Confirm, Publication, RabbitMq};
use testkit::VirtualHost;

use crate::golden::{Answer, Folder};

struct Runs {
    folder: Folder,
    host: VirtualHost,
}

const AT: i64 = 1_767_323_045_000;

fn run(hours: i64) -> RunId {
    RunId::new("direct", AT + hours * 3_600_000).unwrap()
}

impl Runs {
    fn new() -> Self {
        let (folder, host) = (Folder::new(), VirtualHost::create());
        let text = format!(
            "[broker]\nurl = \"{}\"\nmanagement_url = \"{}\"\n",
            host.url(),
            host.management_url()
        );
        folder.write("fleet.toml", &text);
        let runs = Self { folder, host };
        let configured = runs.fleet(&["pipeline", "configure", "--type", "direct"]);
        assert_eq!(configured.code, Some(0), "{}", configured.stderr);
        runs
    }

    fn fleet(&self, arguments: &[&str]) -> Answer {
        self.folder.fleet(arguments, &[])
    }

    /// Puts receipts of a run on the ledger, a second after each other.
    #[tokio::main(flavor = "current_thread")]
    async fn publish(&self, hours: i64, facts: Vec<Fact>) {
        let broker = Broker::RabbitMq(RabbitMq::new(self.host.url()).unwrap());
        let session = broker.connect("test").await.unwrap();
        for (n, fact) in (0..).zip(facts) {
            let receipt = Receipt {
                run: run(hours),
                at_ms: AT + hours * 3_600_000 + n * 1000,
                fact,
            };
            let publication = Publication::to_queue("ledger".to_owned(), receipt.to_message());
            let answer = session.publisher.publish(publication).await.unwrap();
            assert_eq!(answer.await.unwrap(), Confirm::Stored);
        }
        session.close().await;
    }
}

/// A run that ClickHouse has, and of which Elasticsearch refused too much.
fn receipts(hours: i64, es: [u64; 2]) -> Vec<Fact> {
    let task = TaskHash::new([b"t".as_slice()]);
    let stored = |store: &str, [stored, quarantined]: [u64; 2]| Fact::Stored {
        store: store.into(),
        batch: BatchId {
            task,
            attempt: 1,
            sequence: 0,
        },
        shard: 0,
        rows: Rows {
            stored,
            quarantined,
            ..Rows::default()
        },
        targets: [].into(),
        reasons: (quarantined > 0)
            .then_some((Reason::RefusedRows, quarantined))
            .into_iter()
            .collect(),
    };
    let decided = |stage: &str, decision, why: &str| Fact::GateDecided {
        stage: Stage::from(stage.to_owned()),
        decision,
        why: why.into(),
        operator_decisions: 0,
    };
    let es_decision = match es[1] {
        0 => Decision::Passed,
        _ => Decision::Rejected,
    };
    vec![
        Fact::Started(Started {
            pipeline: "direct".into(),
            mode: RunMode::Full,
            until_ms: AT + hours * 3_600_000,
            shards: 1,
            stores: vec!["ch-writer".into(), "es-writer".into()],
            partial: false,
            source: "s".into(),
            nonce: String::new(),
            differences: Vec::new(),
            run_plan: Some(RunPlan {
                dictionary_after: Some("ch-writer".into()),
                serp: true,
                overrides: [("max_failed_task_ratio".into(), "0.2".into())].into(),
            }),
        }),
        Fact::Manifest {
            tasks: 1,
            estimated_rows: 1000,
        },
        Fact::Fetched {
            task,
            attempt: 1,
            shard: 0,
            batches: 1,
            rows: 1000,
            bytes: 66_000,
        },
        stored("ch-writer", [1000, 0]),
        stored("es-writer", es),
        decided(
            "plan",
            Decision::Passed,
            "1 tasks published, 1000 rows at most",
        ),
        decided(
            "fetch",
            Decision::Passed,
            "1 of 1 tasks fetched, 0 given up, 1000 rows",
        ),
        decided(
            "ch-writer",
            Decision::Passed,
            "1000 rows read = 1000 stored",
        ),
        decided("es-writer", es_decision, "by the rows refused"),
        Fact::Ordered {
            shards: vec![0],
            operator_decisions: 0,
        },
    ]
}

fn late() -> Vec<Fact> {
    vec![
        Fact::ReplicaLate {
            shard: 0,
            replica: "http://metrics001-b:8123".into(),
            behind_seconds: Some(4_200),
            error: "timed out after 3600 s, 812 entries in its queue".into(),
        },
        Fact::OrderFailed {
            stage: Stage::Sync,
            target: "0".into(),
            step: "sync".into(),
            error: "1 of 2 replicas is late".into(),
            given_up: false,
        },
    ]
}

#[test]
fn a_run_is_drawn_as_its_stages_with_what_went_wrong_in_each() {
    let runs = Runs::new();
    runs.publish(0, [receipts(0, [1000, 0]), late()].concat());
    let name = run(0).to_string();
    runs.fleet(&["runs", "show", &name])
        .must_be("runs-show-late.txt");
    runs.fleet(&["runs", "show", &name, "--json"])
        .must_be("runs-show-late-json.txt");
}

#[test]
fn runs_are_listed_with_their_rate_and_the_skew_between_the_stores() {
    let runs = Runs::new();
    runs.publish(0, receipts(0, [1000, 0]));
    runs.publish(1, receipts(1, [500, 500]));
    runs.fleet(&["runs", "list"]).must_be("runs-list.txt");
    runs.fleet(&["runs", "list", "--limit", "1"])
        .must_be("runs-list-latest.txt");
    runs.fleet(&["runs", "list", "--type", "batched"])
        .must_be("runs-list-none.txt");
}

#[test]
fn decisions_are_on_the_ledger_with_who_and_why() {
    let runs = Runs::new();
    runs.publish(0, receipts(0, [500, 500]));
    let name = run(0).to_string();
    let approve = |stage: &str| {
        let words = ["runs", "approve", &name, "--stage", stage];
        let because = ["--reason", "the index is repaired", "--who", "ada"];
        runs.fleet(&[&words[..], &because].concat())
    };
    approve("es-writr").must_be("runs-approve-unknown-stage.txt");
    approve("es-writer").must_be("runs-approve.txt");
    let words = ["runs", "reject", &name, "--stage", "dictionary"];
    let because = ["--reason", "wrong table", "--who", "ada"];
    runs.fleet(&[&words[..], &because].concat())
        .must_be("runs-reject.txt");
    // Decided now, long after the run: its times are others at every look.
    let shown = runs.fleet(&["runs", "show", &name]).stdout;
    for why in ["the index is repaired", "wrong table"] {
        let line = shown.lines().find(|line| line.ends_with(why));
        assert!(line.is_some_and(|line| line.contains("ada, 20")), "{shown}");
    }
}

#[test]
fn an_approval_names_a_stage_before_it_that_keeps_anything_from_following_and_none_behind_it() {
    let runs = Runs::new();
    let mut facts = receipts(0, [1000, 0]);
    facts.truncate(5);
    facts.extend(
        [
            ("fetch", Decision::Rejected),
            ("ch-writer", Decision::Skipped),
        ]
        .map(|(stage, decision)| Fact::GateDecided {
            stage: Stage::from(stage.to_owned()),
            decision,
            why: String::new(),
            operator_decisions: 0,
        }),
    );
    runs.publish(0, facts);
    let name = run(0).to_string();
    let approve = |stage: &str| {
        let words = ["runs", "approve", &name, "--stage", stage];
        let because = ["--reason", "repaired", "--who", "ada"];
        runs.fleet(&[&words[..], &because].concat()).stdout
    };
    let text = approve("sync");
    assert!(text.contains("Nothing follows while fetch"), "{text}");
    let text = approve("fetch");
    assert!(!text.contains("Nothing follows"), "{text}");
}

#[test]
fn an_unfinished_run_is_abandoned_by_name_and_an_ended_one_is_refused() {
    let runs = Runs::new();
    runs.publish(0, receipts(0, [1000, 0]));
    let name = run(0).to_string();
    let abandon = |name: &str| {
        let because = ["--reason", "the hub is rebuilt", "--who", "ada"];
        runs.fleet(&[&["runs", "abandon", name][..], &because].concat())
    };
    abandon("direct-nothing").must_be("runs-abandon-unknown.txt");
    abandon(&name).must_be("runs-abandon.txt");
    abandon(&name).must_be("runs-abandon-again.txt");
    let shown = runs.fleet(&["runs", "show", &name]).stdout;
    assert!(shown.contains("by ada: the hub is rebuilt"), "{shown}");
}

#[test]
fn a_decision_needs_a_stage_and_a_reason() {
    Folder::new()
        .fleet(&["runs", "approve", "direct-1"], &[])
        .must_be("runs-approve-usage.txt");
}
