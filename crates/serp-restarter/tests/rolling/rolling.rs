use std::time::Duration;

use serp_restarter::{RestartError, RestartEvent, RestartGoal, RestartSummary, StopReason};
use testkit::serp::{Fault, Prober};

use crate::support::{Log, READ, TestNode};

#[tokio::test]
async fn a_rolling_restart_takes_one_port_down_at_a_time_and_no_read_fails() {
    let node = TestNode::start(4);
    node.publish(2);
    let prober = Prober::start(&node.ports, READ);
    let log = Log::new();
    let summary = node.restart(2, &log).await.unwrap();
    let probed = prober.stop();
    let expected = RestartSummary {
        restarted: 4,
        already: 0,
    };
    assert_eq!(summary, expected);
    assert_eq!(node.versions().await, [Some(2); 4]);
    assert_eq!(log.exited(), node.ports);
    assert!(probed.asked > 20 && probed.unknown == 0, "{probed:?}");
    assert_eq!((probed.failed, probed.most_down), (0, 1), "{probed:?}");
}

#[tokio::test]
async fn as_many_ports_are_down_at_once_as_are_allowed() {
    let mut node = TestNode::start(4);
    node.settings.max_unavailable_ports = 2;
    for port in &node.ports {
        node.supervisor.fault(*port, Fault::Slow(500));
    }
    node.publish(2);
    let prober = Prober::start(&node.ports, READ);
    let summary = node.restart(2, &Log::new()).await.unwrap();
    let probed = prober.stop();
    assert_eq!(summary.restarted, 4);
    assert_eq!(node.starts(), [2; 4]);
    assert_eq!((probed.failed, probed.most_down), (0, 2), "{probed:?}");
}

#[tokio::test]
async fn ports_that_serve_the_version_already_are_left_alone() {
    let node = TestNode::start(3);
    node.publish(2);
    node.supervisor.kill(node.ports[1]);
    while node.versions().await[1] != Some(2) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = Log::new();
    let expected = RestartSummary {
        restarted: 2,
        already: 1,
    };
    assert_eq!(node.restart(2, &log).await.unwrap(), expected);
    assert_eq!(log.exited(), [node.ports[0], node.ports[2]]);
    assert_eq!(node.starts(), [2, 2, 2]);
}

#[tokio::test]
async fn an_order_of_an_older_version_restarts_nothing() {
    let node = TestNode::start(2);
    let log = Log::allowing(0);
    let expected = RestartSummary {
        restarted: 0,
        already: 2,
    };
    assert_eq!(node.restart(0, &log).await.unwrap(), expected);
    assert_eq!(node.starts(), [1, 1]);
}

#[tokio::test]
async fn a_port_that_is_down_already_is_waited_for_before_another_is_taken_down() {
    let node = TestNode::start(3);
    node.publish(2);
    let prober = Prober::start(&node.ports, READ);
    let crashed = node.ports[2];
    node.supervisor.fault(crashed, Fault::Slow(1500));
    node.supervisor.kill(crashed);
    while node.versions().await[2].is_some() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let log = Log::new();
    let summary = node.restart(2, &log).await.unwrap();
    assert_eq!((summary.restarted, summary.already), (2, 1));
    assert!(
        matches!(log.events()[0], RestartEvent::WaitingForDownPort { port, .. } if port == crashed),
        "{:?}",
        log.events()
    );
    assert_eq!(prober.stop().most_down, 1);
}

#[tokio::test]
async fn a_pause_between_two_ports_stops_the_restart_after_the_port_in_progress() {
    let node = TestNode::start(3);
    node.publish(2);
    let log = Log::allowing(1);
    let ended = node.restart(2, &log).await;
    assert_eq!(ended, Err(RestartError::Stopped(StopReason::Paused)));
    // The port that was told to exit was waited for.
    assert_eq!(node.versions().await, [Some(2), Some(1), Some(1)]);
    let summary = node.restart(2, &Log::new()).await.unwrap();
    assert_eq!((summary.restarted, summary.already), (2, 1));
    assert_eq!(node.starts(), [2; 3]);
}

#[tokio::test]
async fn without_a_version_every_port_is_restarted_once() {
    let node = TestNode::start(2);
    let restarter = node.restarter();
    let log = Log::new();
    let summary = restarter
        .restart_node(&node.node(), RestartGoal::Once, &log)
        .await
        .unwrap();
    assert_eq!((summary.restarted, summary.already), (2, 0));
    assert_eq!(log.exited(), node.ports);
    assert_eq!(node.starts(), [2, 2]);
    assert_eq!(node.versions().await, [Some(1), Some(1)]);
}

#[tokio::test]
async fn a_check_of_the_ports_changes_nothing() {
    let node = TestNode::start(2);
    node.publish(2);
    assert_eq!(node.versions().await, [Some(1), Some(1)]);
    assert_eq!(node.starts(), [1, 1]);
}
