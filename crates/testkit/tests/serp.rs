//! The demo's SERP service on a real dictionary.

use std::time::{Duration, Instant};

use testkit::serp::{Prober, Supervisor, free_ports};
use testkit::{Database, http};

/// Not a test: the program of the SERP processes, which the supervisor starts by this name.
#[test]
#[ignore = "it is the SERP process of the other tests"]
fn serp_process() {
    testkit::serp::main();
}

fn create_dictionary(database: &Database, name: &str, version: i64, volume: u64) {
    let table = format!(
        "CREATE TABLE {{db}}.of_{name} (country String, keyword String, volume UInt64) \
                         ENGINE = MergeTree ORDER BY (country, keyword)"
    );
    let rows = format!(
        "INSERT INTO {{db}}.of_{name} SETTINGS async_insert = 0 \
         VALUES ('us', 'running shoes', {volume}), ('jp', '東京 ラーメン', 7)"
    );
    let dictionary = format!(
        "CREATE DICTIONARY {{db}}.{name} (country String, keyword String, volume UInt64) \
         PRIMARY KEY country, keyword SOURCE(CLICKHOUSE(DB '{{db}}' TABLE 'of_{name}')) \
         LAYOUT(COMPLEX_KEY_HASHED()) LIFETIME(0) \
         COMMENT '{{\"run\":\"r-{version}\",\"version\":{version}}}'"
    );
    for sql in [table, rows, dictionary] {
        database.run(0, &sql);
    }
}

#[test]
fn a_process_serves_the_dictionary_that_was_there_when_it_started() {
    let database = Database::create();
    let source = format!("{}/{}.live", database.shards()[0], database.name());
    let ports = free_ports(1);
    let arguments = ["--exact", "serp_process", "--ignored"];
    let supervisor = Supervisor::start(&arguments, &ports, &source);
    supervisor.wait_until_up(Duration::from_secs(20));
    let address = format!("http://127.0.0.1:{}", ports[0]);
    let get = |path: &str| http("GET", &format!("{address}{path}"), "");
    let volume = || {
        let (_, answer) = get("/keyword?country=us&keyword=running%20shoes");
        let row: serde_json::Value = serde_json::from_str(&answer).unwrap_or_default();
        row["volume"].as_u64()
    };
    let exit = |expected: Option<u64>| {
        assert!(http("POST", &format!("{address}/exit"), "").0);
        let deadline = Instant::now() + Duration::from_secs(20);
        while volume() != expected {
            assert!(Instant::now() < deadline, "the process does not come back");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    // Before the first refresh there is none.
    assert_eq!(get("/version").1, r#"{"run":"","version":0}"#);
    assert_eq!(volume(), None);
    create_dictionary(&database, "live", 1, 100);
    create_dictionary(&database, "next", 2, 200);
    exit(Some(100));
    assert_eq!(get("/health").1, "ok\n");
    assert_eq!(get("/version").1, r#"{"run":"r-1","version":1}"#);
    assert_eq!(volume(), Some(100));
    assert!(!get("/keyword?country=us&keyword=x").0);
    let ramen =
        "/keyword?country=jp&keyword=%E6%9D%B1%E4%BA%AC%20%E3%83%A9%E3%83%BC%E3%83%A1%E3%83%B3";
    assert!(get(ramen).0);

    database.run(0, "EXCHANGE DICTIONARIES {db}.live AND {db}.next");
    assert_eq!(volume(), Some(100));
    exit(Some(200));
    assert_eq!(get("/version").1, r#"{"run":"r-2","version":2}"#);
    assert_eq!(supervisor.starts(ports[0]), 3);
}

#[test]
fn a_prober_counts_the_reads_that_no_port_answers() {
    let prober = Prober::start(&free_ports(2), "/health");
    std::thread::sleep(Duration::from_millis(100));
    let probed = prober.stop();
    assert!(probed.asked > 0);
    assert_eq!((probed.failed, probed.most_down), (probed.asked, 2));
    assert_eq!(probed.retried, 2 * probed.asked);
}
