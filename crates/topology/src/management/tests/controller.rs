//! A type in which batches are held, and one in which they are not.

use super::memory::Host;
use super::{blocked, configure, direct, has, objects_of, shown};
use crate::management::actual::ActualPolicy;

const HELD: [&str; 3] = ["persister-in", "persister-delay-10s", "persister-quar"];

async fn batched() -> Host {
    let host = Host::default();
    configure(&host, &objects_of("batched")).await;
    host
}

#[tokio::test]
async fn the_queues_that_hold_batches_come_and_go_with_the_type_and_the_lease_stays() {
    let host = direct().await;
    for pipeline in ["batched", "direct", "batched"] {
        configure(&host, &objects_of(pipeline)).await;
        assert_eq!(host.state().pipeline(), Some(pipeline));
        for queue in HELD {
            assert_eq!(has(&host, queue), pipeline == "batched", "{queue}");
        }
        for queue in ["persister-lease", "runs", "ledger"] {
            assert!(has(&host, queue), "{queue}");
        }
        let again = configure(&host, &objects_of(pipeline)).await;
        assert_eq!(shown(&again), [""; 0]);
    }
}

#[tokio::test]
async fn batches_that_are_held_stay_when_the_type_changes() {
    for (queue, stays) in [
        ("persister-in", &["persister-in", "persister-quar"][..]),
        ("persister-quar", &["persister-quar"]),
    ] {
        let host = batched().await;
        host.put_messages(queue, 3);
        let changes = configure(&host, &objects_of("direct")).await;
        assert_eq!(blocked(&changes), stays, "{:#?}", shown(&changes));
        assert_eq!(host.messages(), 3);
        // And they are there when it changes back.
        configure(&host, &objects_of("batched")).await;
        assert_eq!(host.messages(), 3);
    }
}

#[tokio::test]
async fn a_lease_goes_with_the_last_type_that_has_it() {
    let host = batched().await;
    configure(&host, &crate::Desired::nothing("batched")).await;
    assert!(!has(&host, "persister-lease"));
    assert_eq!(host.state().policies, []);
}

#[test]
fn the_policy_of_a_lease_is_known_as_the_fleets_own() {
    let policy = |name: &str, pattern: &str| ActualPolicy {
        name: name.to_owned(),
        pattern: pattern.to_owned(),
        apply_to: "queues".to_owned(),
        ..ActualPolicy::default()
    };
    assert!(policy("fleet-persister-lease", "^persister-lease$").is_own());
    assert!(!policy("fleet-persister-lease", "^persister-in$").is_own());
    assert!(!policy("persister-lease", "^persister-lease$").is_own());
}
