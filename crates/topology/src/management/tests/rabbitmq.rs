use std::collections::BTreeSet;
use std::time::Duration;

use testkit::VirtualHost;

use super::{objects_of, shown, with_delays};
use crate::management::{
    BrokerChange, ChangeAction, Discards, Management, ManagementError, QueueFigures,
};
use crate::{Desired, PipelineSettings, desired, tests::built_in};
use pipeline::{BrokerSettings, RetrySchedule};

/// Longest that the broker's figures take to follow.
const FIGURES: Duration = Duration::from_secs(30);

fn management(host: &VirtualHost) -> Management {
    Management::from_settings(&BrokerSettings {
        url: host.url().into(),
        management_url: Some(host.management_url().into()),
        ..BrokerSettings::default()
    })
    .unwrap()
}

async fn configure(management: &Management, desired: &Desired) -> Vec<BrokerChange> {
    management
        .configure(desired, &Discards::new())
        .await
        .unwrap()
}

async fn queues(management: &Management) -> BTreeSet<String> {
    let figures = management.figures().await.unwrap();
    figures.into_iter().map(|figures| figures.queue).collect()
}

fn publish(host: &VirtualHost, exchange: &str, key: &str) {
    let body = format!(
        r#"{{"properties":{{"delivery_mode":2}},"routing_key":"{key}","payload":"x","payload_encoding":"string"}}"#
    );
    let path = format!("exchanges/{}/{exchange}/publish", host.name());
    let answer = host.api("POST", &path, &body);
    assert!(answer.contains("true"), "{exchange} {key} is not routed");
}

/// Waits until the broker's count so many messages in `queue`.
async fn figures_say(management: &Management, queue: &str, messages: u64) {
    let start = std::time::Instant::now();
    loop {
        let figures = management.figures().await.unwrap();
        let found = figures.iter().find(|figures| figures.queue == queue);
        let held = found.and_then(QueueFigures::held);
        if held == Some(messages) {
            return;
        }
        assert!(
            start.elapsed() < FIGURES,
            "{queue} holds {held:?}, not {messages}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
async fn configuring_twice_changes_nothing_and_the_diff_is_empty() {
    let host = VirtualHost::create();
    let management = management(&host);
    assert_eq!(management.configured().await.unwrap(), None);
    let wanted = objects_of("direct");
    let expected = management.diff(&wanted).await.unwrap();
    let changes = configure(&management, &wanted).await;
    assert_eq!(changes, expected);
    assert!(
        changes
            .iter()
            .all(|change| change.action == ChangeAction::Create)
    );
    assert_eq!(
        management.configured().await.unwrap().as_deref(),
        Some("direct")
    );
    assert_eq!(shown(&management.diff(&wanted).await.unwrap()), [""; 0]);
    assert_eq!(shown(&configure(&management, &wanted).await), [""; 0]);
}

#[tokio::test]
async fn another_type_removes_what_it_does_not_have() {
    let host = VirtualHost::create();
    let management = management(&host);
    configure(&management, &objects_of("direct")).await;
    let wanted = objects_of("clickhouse-only");
    let changes = configure(&management, &wanted).await;
    let removed = |name: &str| {
        let mut changes = changes.iter();
        changes.any(|change| change.action == ChangeAction::Remove && change.name == name)
    };
    for name in [
        "es-writer-in",
        "es-writer-delay-1h",
        "es-writer-quar",
        "es-writer-out",
        "fleet-es-writer-in",
    ] {
        assert!(
            removed(name),
            "{name} is still there: {:#?}",
            shown(&changes)
        );
    }
    let names: BTreeSet<String> = wanted
        .queues
        .iter()
        .map(|queue| queue.name.clone())
        .collect();
    assert_eq!(queues(&management).await, names);
    assert_eq!(shown(&management.diff(&wanted).await.unwrap()), [""; 0]);
    assert_eq!(
        management.configured().await.unwrap().as_deref(),
        Some("clickhouse-only")
    );
    // What is left works: a batch still reaches its one reader.
    publish(&host, "fetcher-out", "batches");
}

#[tokio::test]
async fn batches_that_are_held_outlive_a_change_of_type_and_their_queues_do_not() {
    let host = VirtualHost::create();
    let management = management(&host);
    configure(&management, &objects_of("direct")).await;
    configure(&management, &objects_of("batched")).await;
    publish(&host, "fetcher-out", "batches");
    configure(&management, &objects_of("direct")).await;
    let actual = queues(&management).await;
    assert!(actual.contains("persister-in") && actual.contains("persister-lease"));
    // What is read from now on passes them by.
    publish(&host, "fetcher-out", "batches");
    figures_say(&management, "persister-in", 1).await;
    let wanted = objects_of("batched");
    configure(&management, &wanted).await;
    assert_eq!(shown(&management.diff(&wanted).await.unwrap()), [""; 0]);
    host.api(
        "DELETE",
        &format!("queues/{}/persister-in/contents", host.name()),
        "",
    );
    figures_say(&management, "persister-in", 0).await;
    let wanted = objects_of("direct");
    configure(&management, &wanted).await;
    let names = wanted.queues.iter().map(|queue| queue.name.clone());
    assert_eq!(queues(&management).await, names.collect());
    assert_eq!(shown(&management.diff(&wanted).await.unwrap()), [""; 0]);
}

#[tokio::test]
async fn a_queue_with_a_message_stays_unless_told_so_with_its_count() {
    let host = VirtualHost::create();
    let management = management(&host);
    configure(&management, &objects_of("direct")).await;
    // Published just now, so that the broker's figures cannot show it yet.
    publish(&host, "amq.default", "es-writer-in");
    let wanted = objects_of("clickhouse-only");
    let changes = configure(&management, &wanted).await;
    let blocked: Vec<&str> = changes
        .iter()
        .filter(|change| change.action == ChangeAction::Blocked)
        .map(|change| change.name.as_str())
        .collect();
    assert_eq!(
        blocked,
        ["es-writer-in", "es-writer-quar"],
        "{:#?}",
        shown(&changes)
    );

    figures_say(&management, "es-writer-in", 1).await;
    let discard = |count| Discards::from_iter([("es-writer-in".to_owned(), count)]);
    let error = management
        .configure(&wanted, &discard(2))
        .await
        .unwrap_err();
    assert!(
        matches!(error, ManagementError::DiscardCount { held: 1, .. }),
        "{error}"
    );
    assert!(queues(&management).await.contains("es-writer-in"));
    management.configure(&wanted, &discard(1)).await.unwrap();
    assert!(!queues(&management).await.contains("es-writer-in"));
    assert_eq!(shown(&management.diff(&wanted).await.unwrap()), [""; 0]);
}

#[tokio::test]
async fn another_schedule_replaces_the_delays() {
    let host = VirtualHost::create();
    let management = management(&host);
    configure(&management, &objects_of("direct")).await;
    let wanted = with_delays("direct", &[1, 60, 7200]);
    configure(&management, &wanted).await;
    let queues = queues(&management).await;
    assert!(queues.contains("ch-writer-delay-1s") && queues.contains("ch-writer-delay-2h"));
    assert!(!queues.contains("ch-writer-delay-10s") && !queues.contains("ch-writer-delay-1h"));
    assert_eq!(shown(&management.diff(&wanted).await.unwrap()), [""; 0]);
    // A delay is as long as its name.
    publish(&host, "amq.default", "ch-writer-delay-1s");
    figures_say(&management, "ch-writer-in", 1).await;
}

#[tokio::test]
async fn a_deleted_pipeline_leaves_nothing_but_what_holds_messages() {
    let host = VirtualHost::create();
    let management = management(&host);
    configure(&management, &objects_of("direct")).await;
    publish(&host, "queuer-out", "receipts");
    let error = management
        .delete_pipeline("clickhouse-only", &Discards::new())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("use --type direct"), "{error}");
    // The receipt is so new that the figures do not show it yet.
    management
        .delete_pipeline("direct", &Discards::new())
        .await
        .unwrap();
    assert_eq!(
        queues(&management).await,
        BTreeSet::from(["ledger".to_owned()])
    );
    assert_eq!(management.configured().await.unwrap(), None);
    let discards = Discards::from_iter([("ledger".to_owned(), 1)]);
    management
        .delete_pipeline("direct", &discards)
        .await
        .unwrap();
    assert_eq!(queues(&management).await, BTreeSet::new());
    let policies = host.api("GET", &format!("policies/{}", host.name()), "");
    assert_eq!(policies, "[]");
}

#[tokio::test]
async fn a_queue_that_the_broker_cannot_change_is_refused_until_the_pipeline_is_deleted() {
    let host = VirtualHost::create();
    let management = management(&host);
    configure(&management, &objects_of("clickhouse-only")).await;
    let mut topology = built_in("clickhouse-only");
    for program in &mut topology.programs {
        if program.name == "ch-writer" || program.name == "ledger" {
            program.queues.replicas = Some(1);
        }
    }
    let settings = PipelineSettings::default();
    let wanted = desired(&topology, &settings, &RetrySchedule::default());
    let error = management.configure(&wanted, &Discards::new()).await;
    let Err(ManagementError::ArgumentsChanged { pipeline, queues }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(pipeline, "clickhouse-only");
    // Quarantine, input, four delays; the ledger.
    assert_eq!(queues.len(), 7, "{queues:#?}");
    assert_eq!(
        management.configured().await.unwrap().as_deref(),
        Some("clickhouse-only")
    );
    management
        .delete_pipeline(&pipeline, &Discards::new())
        .await
        .unwrap();
    configure(&management, &wanted).await;
    assert_eq!(shown(&management.diff(&wanted).await.unwrap()), [""; 0]);
    publish(&host, "fetcher-out", "batches");
    figures_say(&management, "ch-writer-in", 1).await;
}

#[tokio::test]
async fn a_full_quarantine_refuses_and_loses_nothing() {
    let host = VirtualHost::create();
    let management = management(&host);
    let settings = PipelineSettings {
        quarantine_max_messages: 2,
        ..PipelineSettings::default()
    };
    configure(
        &management,
        &desired(&built_in("direct"), &settings, &RetrySchedule::default()),
    )
    .await;
    let uri = host.url();
    let connection = lapin::Connection::connect(uri, lapin::ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let confirms = lapin::options::ConfirmSelectOptions::default();
    channel.confirm_select(confirms).await.unwrap();
    let mut acks = 0;
    // A quorum queue may take a little more than its limit before it refuses.
    for _ in 0..50 {
        let options = lapin::options::BasicPublishOptions {
            mandatory: true,
            ..Default::default()
        };
        let properties = lapin::BasicProperties::default().with_delivery_mode(2);
        let confirm = channel
            .basic_publish("".into(), "fetcher-quar".into(), options, b"x", properties)
            .await
            .unwrap()
            .await
            .unwrap();
        if !confirm.is_ack() {
            break;
        }
        acks += 1;
    }
    assert!((2..50).contains(&acks), "{acks} messages were taken");
    figures_say(&management, "fetcher-quar", acks).await;
    connection.close(0, "".into()).await.unwrap();
}

#[tokio::test]
async fn a_virtual_host_that_does_not_exist_is_told_from_one_without_a_pipeline() {
    let host = VirtualHost::create();
    let management = management(&host);
    assert_eq!(management.configured().await.unwrap(), None);
    drop(host);
    let error = management.configured().await.unwrap_err();
    assert!(
        matches!(error, ManagementError::NoVirtualHost { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn a_wrong_password_is_refused_with_the_advice() {
    let services = testkit::Services::start(&["rabbitmq"]);
    let url = services.get("FLEET__BROKER__MANAGEMENT_URL");
    let mut url = url::Url::parse(url).unwrap();
    url.set_password(Some("wrong")).unwrap();
    let management =
        Management::new(services.get("FLEET__BROKER__URL"), Some(url.as_str())).unwrap();
    let error = management.configured().await.unwrap_err();
    assert!(matches!(error, ManagementError::Refused { .. }), "{error}");
}
