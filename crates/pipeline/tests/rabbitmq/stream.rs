use std::time::{Duration, Instant};

use pipeline::broker::{Broker, BrokerError, RabbitMq};
use testkit::VirtualHost;

use crate::support::{Pipeline, numbered, numbers, publish, read_stream};

/// A virtual host with one stream, `ledger`.
fn stream(arguments: &str) -> (VirtualHost, Broker) {
    let host = VirtualHost::create();
    let body = format!(r#"{{"durable":true,"arguments":{{"x-queue-type":"stream"{arguments}}}}}"#);
    host.api("PUT", &format!("queues/{}/ledger", host.name()), &body);
    let broker = Broker::RabbitMq(RabbitMq::new(host.url()).unwrap());
    (host, broker)
}

async fn read(broker: &Broker) -> Vec<usize> {
    numbers(&read_stream(broker, "ledger").await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_has_everything_confirmed_before_it() {
    let (_host, broker) = stream("");
    let began = Instant::now();
    assert_eq!(read_stream(&broker, "ledger").await.unwrap(), []);
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "an empty stream is read at once"
    );
    let mut there = 0;
    for total in [1, 5_000, 100_000] {
        publish(&broker, "ledger", numbered(there, total)).await;
        there = total;
        let began = Instant::now();
        let found = read(&broker).await;
        println!("{total} messages read in {:?}", began.elapsed());
        assert!(
            found.iter().copied().eq(0..total),
            "{} of {total} in order",
            found.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_read_as_they_were_published() {
    let (_host, broker) = stream("");
    let messages: Vec<_> = numbered(0, 3).collect();
    publish(&broker, "ledger", messages.clone()).await;
    assert_eq!(read_stream(&broker, "ledger").await.unwrap(), messages);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_stream_cut_by_retention_the_rest_is_read() {
    let (_host, broker) =
        stream(r#","x-max-length-bytes":200000,"x-stream-max-segment-size-bytes":50000"#);
    publish(&broker, "ledger", numbered(0, 10_000)).await;
    let found = read(&broker).await;
    let first = found[0];
    assert!(first > 0, "the beginning is cut off");
    assert!(found.into_iter().eq(first..10_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_ends_while_others_publish_and_read() {
    let (_host, broker) = stream("");
    publish(&broker, "ledger", numbered(0, 100)).await;
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, "ledger", numbered(100, 5_000)).await }
    });
    let readings = (0..4).map(|_| {
        let broker = broker.clone();
        tokio::spawn(async move { read(&broker).await })
    });
    for reading in readings.collect::<Vec<_>>() {
        let found = reading.await.unwrap();
        assert!(found.len() >= 100);
        assert!(
            found.iter().copied().eq(0..found.len()),
            "no gaps, and no reader's end marker"
        );
    }
    publishing.await.unwrap();
    assert_eq!(read(&broker).await.len(), 5_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reading_from_an_offset_ends_however_much_is_added_meanwhile() {
    let (_host, broker) = stream("");
    publish(&broker, "ledger", numbered(0, 100)).await;
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move {
            // One by one: many small chunks behind each reader's end marker.
            for n in 100..3_000 {
                publish(&broker, "ledger", numbered(n, n + 1)).await;
                if n % 50 == 0 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
    });
    for _ in 0..40 {
        let mut places = Vec::new();
        let read = broker.read_stream_from("ledger", 40, |offset, _| places.push(offset));
        let read = tokio::time::timeout(Duration::from_secs(10), read);
        read.await.expect("it ends").unwrap();
        assert!(places.len() >= 60 && places[0] >= 40, "{places:?}");
    }
    publishing.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_consumer_has_what_comes_after_its_reading_each_once() {
    let (_host, broker) = stream("");
    publish(&broker, "ledger", numbered(0, 10)).await;
    let mut found = Vec::new();
    let consumer =
        broker.follow_stream("ledger", 0, |offset, message| found.push((offset, message)));
    let mut consumer = consumer.await.unwrap();
    let found: Vec<_> = found.into_iter().map(|(_, message)| message).collect();
    assert_eq!(numbers(&found), (0..10).collect::<Vec<_>>());
    // Another reader's end marker is between.
    read(&broker).await;
    publish(&broker, "ledger", numbered(10, 2_000)).await;
    for n in 10..2_000 {
        // Waits that are cut off lose nothing.
        let added = loop {
            let short = Duration::from_micros(20);
            if let Ok(added) = tokio::time::timeout(short, consumer.next()).await {
                break added.unwrap();
            }
        };
        assert_eq!(numbers(&[added.message]), [n]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_consumer_says_that_its_stream_is_gone() {
    let (host, broker) = stream("");
    let mut consumer = broker.follow_stream("ledger", 0, |_, _| {}).await.unwrap();
    host.api("DELETE", &format!("queues/{}/ledger", host.name()), "");
    let error = consumer.next().await.unwrap_err();
    assert!(error.to_string().contains("ledger"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_does_not_exist_is_named() {
    let host = VirtualHost::create();
    let broker = Broker::RabbitMq(RabbitMq::new(host.url()).unwrap());
    let error = read_stream(&broker, "ledger").await.unwrap_err();
    assert!(matches!(error, BrokerError::NotFound { .. }), "{error:?}");
    assert!(error.to_string().contains("no queue 'ledger'"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_read_reads_as_well() {
    let (host, broker) = stream("");
    publish(&broker, "ledger", numbered(0, 500)).await;
    let user = testkit::unique("reader");
    host.api(
        "PUT",
        &format!("users/{user}"),
        r#"{"password":"reader","tags":""}"#,
    );
    let may = r#"{"configure":"^$","write":"^$","read":".*"}"#;
    host.api("PUT", &format!("permissions/{}/{user}", host.name()), may);
    let mut url = url::Url::parse(host.url()).unwrap();
    url.set_username(&user).unwrap();
    url.set_password(Some("reader")).unwrap();
    let reader = Broker::RabbitMq(RabbitMq::new(url.as_str()).unwrap());
    let found = read_stream(&reader, "ledger").await;
    host.api("DELETE", &format!("users/{user}"), "");
    assert_eq!(found.unwrap().len(), 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_of_a_configured_pipeline_can_be_read() {
    let pipeline = Pipeline::create();
    pipeline.publish("ledger", numbered(0, 3)).await;
    assert_eq!(read(&pipeline.broker).await, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_an_offset_that_retention_cut_off_the_first_that_is_left_is_read() {
    let (_host, broker) =
        stream(r#","x-max-length-bytes":200000,"x-stream-max-segment-size-bytes":50000"#);
    publish(&broker, "ledger", numbered(0, 10_000)).await;
    let read_from = async |from: u64| {
        let mut found = Vec::new();
        let read = broker.read_stream_from("ledger", from, |offset, message| {
            found.push((offset, numbers(&[message])[0]));
        });
        read.await.unwrap();
        found
    };
    let found = read_from(1).await;
    let (offset, number) = found[0];
    assert!(offset > 1, "the offset is cut off");
    assert!(found.iter().map(|(_, n)| *n).eq(number..10_000));
    // The broker's own entries between files take places too, so these have gaps; each still leads to its message.
    assert!(found.windows(2).all(|two| two[0].0 < two[1].0));
    let middle = found.len() / 2;
    assert_eq!(read_from(found[middle].0).await, found[middle..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_continue_over_the_markers_of_readers() {
    let (_host, broker) = stream("");
    publish(&broker, "ledger", numbered(0, 3)).await;
    read(&broker).await;
    publish(&broker, "ledger", numbered(3, 6)).await;
    let mut found = Vec::new();
    let reading = broker.read_stream_from("ledger", 2, |offset, message| {
        found.push((offset, numbers(&[message])[0]));
    });
    reading.await.unwrap();
    assert_eq!(found, [(2, 2), (4, 3), (5, 4), (6, 5)]);
}
