use super::memory::Host;
use super::{configure, direct, objects_of, shown};
use crate::Desired;
use crate::management::Discards;
use crate::management::actual::{ActualBinding, ActualExchange, ActualPolicy, ActualQueue};
use crate::management::apply::apply;

#[tokio::test]
async fn a_name_that_is_taken_by_another_stops_everything() {
    let host = Host::default();
    host.change(|actual| {
        actual.vhost = "shared".to_owned();
        actual.queues.push(ActualQueue {
            name: "fetcher-in".to_owned(),
            ..ActualQueue::default()
        });
        actual.exchanges.push(ActualExchange {
            name: "fetcher-out".to_owned(),
            kind: "topic".to_owned(),
            ..ActualExchange::default()
        });
    });
    let before = host.state();
    let error = apply(&host, &objects_of("direct"), &Discards::new())
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "the pipeline cannot be declared in virtual host \"shared\", where others have its names: queue fetcher-in; \
         exchange fetcher-out. Remove or rename them, or give the fleet a virtual host of its own"
    );
    assert_eq!(host.state(), before);
}

#[tokio::test]
async fn what_belongs_to_others_is_never_touched() {
    let host = direct().await;
    host.change(|actual| {
        for name in ["other-in", "es-writer-tap"] {
            actual.queues.push(ActualQueue {
                name: name.to_owned(),
                ..ActualQueue::default()
            });
        }
        actual.exchanges.push(ActualExchange {
            name: "other-out".to_owned(),
            kind: "direct".to_owned(),
            ..ActualExchange::default()
        });
        actual.policies.push(ActualPolicy {
            name: "fleet-of-cars".to_owned(),
            pattern: ".*".to_owned(),
            apply_to: "queues".to_owned(),
            ..ActualPolicy::default()
        });
        actual.bindings.push(ActualBinding {
            source: "fetcher-out".to_owned(),
            destination: "es-writer-tap".to_owned(),
            destination_type: "queue".to_owned(),
            routing_key: "batches".to_owned(),
            properties_key: "batches".to_owned(),
        });
    });
    configure(&host, &objects_of("clickhouse-only")).await;
    let tapped = |host: &Host| {
        host.state()
            .bindings
            .iter()
            .any(|b| b.destination == "es-writer-tap")
    };
    assert!(
        tapped(&host),
        "a tap on an exchange that stays is not the fleet's to remove"
    );
    configure(&host, &Desired::nothing("clickhouse-only")).await;
    let state = host.state();
    let queues: Vec<&str> = state
        .queues
        .iter()
        .map(|queue| queue.name.as_str())
        .collect();
    assert_eq!(queues, ["other-in", "es-writer-tap"]);
    assert_eq!(state.exchanges.len(), 1);
    assert_eq!(state.policies.len(), 1);
}

#[tokio::test]
async fn a_stronger_policy_of_another_is_told_and_not_touched() {
    let host = direct().await;
    host.change(|actual| {
        actual.policies.push(ActualPolicy {
            name: "all".to_owned(),
            pattern: ".*".to_owned(),
            apply_to: "all".to_owned(),
            priority: 200,
            ..ActualPolicy::default()
        });
        let queue = actual
            .queues
            .iter_mut()
            .find(|queue| queue.name == "fetcher-in")
            .unwrap();
        queue.policy = Some("all".to_owned());
    });
    assert_eq!(
        shown(&configure(&host, &objects_of("direct")).await),
        [
            "blocked policy fleet-fetcher-in (shadowed on queue fetcher-in by policy all of priority 200: lower that below 100)"
        ]
    );
}
