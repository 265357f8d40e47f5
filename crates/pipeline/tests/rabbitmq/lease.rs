use std::time::Duration;

use app::App;
use pipeline::broker::{Broker, RabbitMq};
use pipeline::{Leader, LoopOptions, Program, RetrySchedule, Sessions, names};
use testkit::VirtualHost;

use crate::support::{TEST_TIMEOUT, eventually};

/// A virtual host with the lease of the program `persister`, as the topology declares it.
fn with_lease() -> (VirtualHost, Broker) {
    let host = VirtualHost::create();
    let vhost = host.name();
    let queue =
        r#"{"durable":true,"arguments":{"x-queue-type":"quorum","x-single-active-consumer":true}}"#;
    host.api("PUT", &format!("queues/{vhost}/persister-lease"), queue);
    let policy =
        r#"{"pattern":"^persister-lease$","definition":{"max-length":0},"apply-to":"queues"}"#;
    host.api("PUT", &format!("policies/{vhost}/lease"), policy);
    let exchange = format!("exchanges/{vhost}/{}", names::CONFIGURED);
    host.api("PUT", &exchange, r#"{"type":"direct","durable":true}"#);
    let broker = Broker::RabbitMq(RabbitMq::new(host.url()).unwrap());
    (host, broker)
}

fn program(broker: &Broker) -> Program {
    let app = App::detached("persister");
    let options = LoopOptions::default();
    Program::with_broker(&app, broker.clone(), &options, RetrySchedule::default())
}

async fn elected(program: Program) -> Leader {
    let elected = tokio::time::timeout(TEST_TIMEOUT, Sessions::new(&program).elect()).await;
    elected
        .expect("it leads")
        .unwrap()
        .expect("it is not stopped")
}

/// Names of the connections that there are.
fn connections(host: &VirtualHost) -> Vec<String> {
    let listed = host.api("GET", &format!("vhosts/{}/connections", host.name()), "");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let names = listed.as_array().into_iter().flatten();
    names
        .filter_map(|connection| Some(connection["name"].as_str()?.to_owned()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_connection_of_the_active_process_is_killed_it_is_told_and_another_takes_over() {
    let (host, broker) = with_lease();
    let first = elected(program(&broker)).await;
    // The broker lists a connection some seconds after it was made.
    assert!(eventually(async || !connections(&host).is_empty()).await);
    let of_first = connections(&host);
    let mut second = tokio::spawn(elected(program(&broker)));
    let waited = tokio::time::timeout(Duration::from_secs(5), &mut second).await;
    assert!(waited.is_err(), "two are active");
    for name in of_first {
        let name = name.replace(' ', "%20").replace('>', "%3E");
        host.api("DELETE", &format!("connections/{name}"), "");
    }
    let lost = tokio::time::timeout(TEST_TIMEOUT, first.session().lost()).await;
    assert!(!lost.expect("it ends").is_empty());
    let second = second.await.unwrap();
    assert!(!second.session().is_lost());
    let length = second.session().queue_length("persister-lease").await;
    assert_eq!(length.unwrap(), 0, "nothing is left in it");
    second.close().await;
}
