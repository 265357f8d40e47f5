use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pipeline::broker::{Broker, BrokerError, RabbitMq};
use pipeline::{LoopOptions, Producer, ProducerError, quarantine};
use testkit::{PrivateBroker, VirtualHost};

use crate::support::{Pipeline, Relay, Running, eventually, numbered, numbers, read_stream};

const FAST: Relay = Relay {
    delay: Duration::ZERO,
};

fn options() -> LoopOptions {
    LoopOptions {
        grace_seconds: 5.0,
        ..LoopOptions::sized(100, 10)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_broker_in_the_middle_loses_nothing() {
    const MESSAGES: usize = 2000;
    let node = PrivateBroker::start(22000);
    let pipeline = Pipeline::on(VirtualHost::on(node.services()));
    pipeline.publish("relay-in", numbered(0, MESSAGES)).await;
    pipeline.publish("ledger", numbered(0, 50)).await;
    // Five seconds of work, so that the restart falls into it on a slow machine as well.
    let worker = Relay {
        delay: Duration::from_millis(25),
    };
    let running = Running::start(pipeline.program(&options()), worker);
    let under_way = eventually(async || pipeline.length("end-in").await > 300).await;
    assert!(under_way, "the worker works");
    node.restart();
    let left = pipeline.length("relay-in").await;
    assert!(left > 0, "the restart came too late to fall into the work");
    pipeline.take("end-in", MESSAGES).await;
    let empty = eventually(async || pipeline.length("relay-in").await == 0).await;
    assert!(empty, "nothing is left unacknowledged");
    assert!(
        !running.fails("broker"),
        "the health page shows that all is well again"
    );
    running.stop().await;
    // The broker's own count of a stream begins at zero after a restart.
    let ledger = read_stream(&pipeline.broker, "ledger").await.unwrap();
    assert!(numbers(&ledger).into_iter().eq(0..50));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_there_first_waits_for_its_broker() {
    let node = PrivateBroker::start(22100);
    let pipeline = Pipeline::on(VirtualHost::on(node.services()));
    pipeline.publish("relay-in", numbered(0, 10)).await;
    node.stop();
    let running = Running::start(pipeline.program(&options()), FAST);
    assert!(eventually(async || running.fails("broker")).await);
    node.start_again();
    pipeline.take("end-in", 10).await;
    assert!(!running.fails("broker"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_credentials_end_a_worker_at_once() {
    let pipeline = Pipeline::create();
    let mut url = url::Url::parse(pipeline.host.url()).unwrap();
    url.set_password(Some("not-this-one")).unwrap();
    let refused = Pipeline {
        broker: Broker::RabbitMq(RabbitMq::new(url.as_str()).unwrap()),
        ..pipeline
    };
    let began = Instant::now();
    let running = Running::start(refused.program(&options()), FAST);
    let error = running.ended().await.unwrap_err();
    assert!(matches!(error, BrokerError::Refused { .. }), "{error:?}");
    assert!(
        !error.to_string().contains("not-this-one"),
        "no password in it: {error}"
    );
    assert!(began.elapsed() < Duration::from_secs(10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_queue_was_deleted_goes_on_once_it_is_back() {
    let pipeline = Pipeline::create();
    let path = format!("queues/{}/relay-in", pipeline.host.name());
    pipeline.publish("relay-in", numbered(0, 10)).await;
    let running = Running::start(pipeline.program(&options()), FAST);
    pipeline.take("end-in", 10).await;
    pipeline.host.api("DELETE", &path, "");
    assert!(
        eventually(async || running.fails("broker")).await,
        "it names what is missing"
    );
    let queue = r#"{"durable":true,"arguments":{"x-queue-type":"quorum"}}"#;
    pipeline.host.api("PUT", &path, queue);
    pipeline.publish("relay-in", numbered(10, 20)).await;
    pipeline.take("end-in", 10).await;
    assert!(!running.fails("broker"));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_alarm_of_the_broker_is_waited_out_and_shown() {
    let node = PrivateBroker::start(22200);
    let pipeline = Pipeline::on(VirtualHost::on(node.services()));
    pipeline.publish("relay-in", numbered(0, 500)).await;
    pipeline.publish("relay-quar", numbered(0, 5)).await;
    pipeline.publish("ledger", numbered(0, 3000)).await;
    node.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let running = Running::start(pipeline.program(&options()), FAST);
    assert!(eventually(async || running.fails("broker-alarm")).await);
    assert_eq!(pipeline.length("end-in").await, 0, "nothing is taken");
    // An operator can still see what there is.
    let ledger = read_stream(&pipeline.broker, "ledger").await.unwrap();
    assert!(numbers(&ledger).into_iter().eq(0..3000));
    let inspection = quarantine::inspect(&pipeline.broker, "relay", 10, Some).await;
    assert_eq!(inspection.unwrap().seen, 5);
    node.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "2GB"]);
    pipeline.take("end-in", 500).await;
    assert!(!running.fails("broker-alarm"));
    running.stop().await;
    let empty = eventually(async || pipeline.length("relay-in").await == 0).await;
    assert!(empty, "everything is acknowledged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_can_be_stopped_during_an_alarm() {
    let node = PrivateBroker::start(22300);
    let pipeline = Pipeline::on(VirtualHost::on(node.services()));
    pipeline.publish("relay-in", numbered(0, 50)).await;
    let program = pipeline.program(&options());
    let mut producer = Producer::open(&program, BTreeMap::new(), 0).await.unwrap();
    node.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "1"]);
    let running = Running::start(pipeline.program(&options()), FAST);
    assert!(eventually(async || running.fails("broker-alarm")).await);
    let message = numbered(50, 51).next().unwrap();
    producer.send("next", message).await.unwrap();
    let sending = tokio::spawn(async move { producer.flush().await });
    let began = Instant::now();
    program.app.shutdown.trigger();
    running.stop().await;
    let stopped = sending.await.unwrap();
    assert!(
        matches!(stopped, Err(ProducerError::Stopped)),
        "{stopped:?}"
    );
    assert!(
        began.elapsed() < Duration::from_secs(30),
        "it took {:?}",
        began.elapsed()
    );
    node.rabbitmqctl(&["set_vm_memory_high_watermark", "absolute", "2GB"]);
    let back = eventually(async || {
        pipeline.length("relay-in").await + pipeline.length("end-in").await >= 50
    });
    assert!(back.await, "what was in flight is in the queue again");
}
