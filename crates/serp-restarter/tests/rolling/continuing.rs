use serp_restarter::RestartEvent;
use testkit::serp::Prober;

use crate::support::{Log, READ, TestNode};

/// A rolling restart of two ports is broken off at every event in turn, as by `kill -9`: what was begun is not taken back.
#[tokio::test]
async fn a_restart_that_is_killed_at_any_step_continues_without_restarting_a_port_twice() {
    let node = TestNode::start(2);
    let prober = Prober::start(&node.ports, READ);
    for boundary in 0.. {
        let version = 2 + boundary as i64;
        node.publish(version);
        let log = Log::stopping_at(boundary);
        let killed = tokio::select! {
            ended = node.restart(version, &log) => {
                ended.unwrap();
                false
            }
            () = log.stopped() => true,
        };
        if !killed {
            // All of its events have been tried.
            assert_eq!(boundary, log.events().len());
            assert_eq!(boundary, 8, "four for each port: {:?}", log.events());
            break;
        }
        let before = log.exited();
        let again = Log::new();
        let summary = node.restart(version, &again).await.unwrap();
        assert_eq!(node.versions().await, [Some(version); 2]);
        // Each process was started once for each version: not twice, not left out.
        assert_eq!(
            node.starts(),
            [boundary as u32 + 2; 2],
            "{:?}",
            log.events()
        );
        // A process that is about to end may be told to exit once more; no other is told twice.
        let dying = matches!(log.events().last(), Some(RestartEvent::ExitAccepted { .. }));
        let twice = again.exited().iter().any(|port| before.contains(port));
        assert!(dying || !twice, "{:?} {:?}", log.events(), again.events());
        assert!(dying || summary.restarted == 2 - before.len() as u32);
        // A port that the first restart left down was waited for.
        let left_down = matches!(log.events().last(), Some(RestartEvent::ProcessEnded { .. }));
        assert!(!left_down || summary.already > 0);
    }
    let probed = prober.stop();
    assert_eq!((probed.failed, probed.most_down), (0, 1), "{probed:?}");
}
