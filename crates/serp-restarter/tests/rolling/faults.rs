use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serp::{PortFailure, ServedVersion};
use serp_restarter::{PortCheck, RestartGoal, RestartStep};
use testkit::serp::{Fault, Prober};

use crate::support::{Log, READ, TestNode, failed};

#[tokio::test]
async fn a_port_that_never_returns_stops_the_restart_and_the_others_stay_up() {
    let mut node = TestNode::start(3);
    node.settings.back_timeout_seconds = 1.0;
    node.publish(2);
    node.supervisor.fault(node.ports[0], Fault::Fail);
    let prober = Prober::start(&node.ports, READ);
    let log = Log::new();
    let error = failed(node.restart(2, &log).await);
    assert_eq!(
        (error.port, error.step),
        (node.ports[0], RestartStep::WaitForRestartedPort)
    );
    assert!(error.detail.contains("not back"), "{error}");
    assert_eq!(log.exited(), [node.ports[0]]);
    // The next try checks it first, and takes no other port down.
    let error = failed(node.restart(2, &log).await);
    assert_eq!(
        (error.port, error.step),
        (node.ports[0], RestartStep::WaitForDownPort)
    );
    assert_eq!(node.versions().await, [None, Some(1), Some(1)]);
    let probed = prober.stop();
    assert_eq!((probed.failed, probed.most_down), (0, 1), "{probed:?}");
    // Repaired it comes back by itself, and the restart continues.
    node.supervisor.repair(node.ports[0]);
    node.settings.back_timeout_seconds = 20.0;
    let summary = node.restart(2, &Log::new()).await.unwrap();
    assert_eq!((summary.restarted, summary.already), (2, 1));
}

#[tokio::test]
async fn a_port_that_comes_back_and_hangs_stops_the_restart() {
    let mut node = TestNode::start(2);
    node.settings.back_timeout_seconds = 2.0;
    node.publish(2);
    node.supervisor.fault(node.ports[0], Fault::Hang);
    let log = Log::new();
    let error = failed(node.restart(2, &log).await);
    assert_eq!(
        (error.port, error.step),
        (node.ports[0], RestartStep::WaitForRestartedPort)
    );
    assert!(error.detail.contains("no answer to /health"), "{error}");
    assert_eq!(log.exited(), [node.ports[0]]);
}

#[tokio::test]
async fn a_port_that_comes_back_with_the_old_version_stops_the_restart() {
    let node = TestNode::start(2);
    node.publish(2);
    node.supervisor.fault(node.ports[0], Fault::Old(1));
    let (log, begun) = (Log::new(), Instant::now());
    let error = failed(node.restart(2, &log).await);
    assert_eq!(
        (error.port, error.step),
        (node.ports[0], RestartStep::WaitForRestartedPort)
    );
    assert_eq!(error.detail, "it came back with version 1");
    assert_eq!(log.exited(), [node.ports[0]]);
    // A process that loads its dictionary at its start does not load another one later.
    assert!(begun.elapsed() < node.settings.back_timeout());
}

#[tokio::test]
async fn a_port_that_names_no_version_is_up_and_behind_and_names_none_after_its_restart_in_vain() {
    let mut node = TestNode::start(2);
    node.settings.back_timeout_seconds = 2.0;
    // There is no such path; and a text that is no number.
    for (round, path) in ["/nothing", "/health"].into_iter().enumerate() {
        node.settings.version_path = path.to_owned();
        let checks = node.restarter().check_ports(&node.node()).await;
        let up = |&port: &u16| PortCheck {
            port,
            served: Ok(ServedVersion::default()),
        };
        assert_eq!(checks, node.ports.iter().map(up).collect::<Vec<_>>());
        let log = Log::new();
        let error = failed(node.restart(2, &log).await);
        assert_eq!(
            (error.port, error.step),
            (node.ports[0], RestartStep::WaitForRestartedPort)
        );
        assert!(error.detail.contains("names no version"), "{error}");
        assert_eq!(log.exited(), [node.ports[0]]);
        assert_eq!(node.starts(), [round as u32 + 2, 1]);
    }
}

#[tokio::test]
async fn a_port_of_a_release_without_versions_is_restarted_and_waited_for_until_it_names_one() {
    let node = TestNode::start(2);
    node.publish(2);
    for port in &node.ports {
        node.supervisor.fault(*port, Fault::Unversioned);
    }
    let log = Log::new();
    let name_it = async {
        for port in &node.ports {
            while node.supervisor.starts(*port) == 1 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            // Up without a version for longer than an old one would be believed.
            tokio::time::sleep(Duration::from_millis(3500)).await;
            node.supervisor.repair(*port);
        }
    };
    let (summary, ()) = tokio::join!(node.restart(2, &log), name_it);
    assert_eq!(summary.unwrap().restarted, 2);
    assert_eq!(log.exited(), node.ports);
    assert_eq!(node.starts(), [2, 2]);
    assert_eq!(node.versions().await, [Some(2), Some(2)]);
}

#[tokio::test]
async fn a_connection_that_is_closed_early_is_not_taken_for_the_end_of_the_process() {
    const ENDS_AFTER: Duration = Duration::from_millis(1200);
    const DOWN_FOR: Duration = Duration::from_millis(600);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let told_at = Arc::new(Mutex::new(None::<Instant>));
    let since = told_at.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (mut stream, since) = (stream.unwrap(), since.clone());
            std::thread::spawn(move || {
                // A silent client is disconnected.
                let silence = Some(Duration::from_millis(50));
                stream.set_read_timeout(silence).unwrap();
                let mut request = [0; 1024];
                let read = stream.read(&mut request).unwrap_or(0);
                let mut told_at = since.lock().unwrap();
                let down = ENDS_AFTER..ENDS_AFTER + DOWN_FOR;
                if read == 0 || told_at.is_some_and(|told_at| down.contains(&told_at.elapsed())) {
                    return;
                }
                if request.starts_with(b"POST /exit") {
                    told_at.get_or_insert_with(Instant::now);
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n7");
            });
        }
    });
    let mut node = TestNode::start(1);
    let name = format!("127.0.0.1:{port}");
    node.settings.nodes = vec![vec![name.clone()]];
    let early = node.settings.node(&name).unwrap();
    let summary = node
        .restarter()
        .restart_node(&early, RestartGoal::Once, &Log::new())
        .await;
    assert_eq!(summary.unwrap().restarted, 1);
    let told_at = told_at.lock().unwrap().unwrap();
    assert!(told_at.elapsed() >= ENDS_AFTER + DOWN_FOR);
}

#[tokio::test]
async fn a_port_that_answers_to_exit_and_does_not_exit_differs_from_one_that_came_back() {
    let mut node = TestNode::start(2);
    node.settings.back_timeout_seconds = 1.0;
    node.publish(2);
    node.supervisor.fault(node.ports[0], Fault::Deaf);
    let error = failed(node.restart(2, &Log::new()).await);
    assert_eq!(
        (error.port, error.step),
        (node.ports[0], RestartStep::WaitForRestartedPort)
    );
    assert!(error.detail.contains("its process does not end"), "{error}");
    assert_eq!(node.starts(), [1, 1]);
}

#[tokio::test]
async fn a_port_that_takes_exit_and_goes_silent_is_said_to_have_failed_there() {
    let node = TestNode::start(2);
    node.publish(2);
    node.supervisor.fault(node.ports[0], Fault::Silent);
    let log = Log::new();
    let error = failed(node.restart(2, &log).await);
    assert_eq!((error.port, error.step), (node.ports[0], RestartStep::Exit));
    assert!(error.detail.contains("no answer to /exit"), "{error}");
    assert!(log.exited().is_empty());
    assert_eq!(node.versions().await, [Some(1), Some(1)]);
}

#[tokio::test]
async fn a_connection_that_is_closed_by_exit_itself_is_success() {
    let node = TestNode::start(2);
    node.publish(2);
    for port in &node.ports {
        node.supervisor.fault(*port, Fault::Drop);
    }
    let summary = node.restart(2, &Log::new()).await.unwrap();
    assert_eq!(summary.restarted, 2);
    assert_eq!(node.starts(), [2, 2]);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let mut node = TestNode::start(2);
    node.settings.back_timeout_seconds = 1.0;
    node.publish(2);
    let [port, other] = node.ports[..] else {
        unreachable!()
    };
    node.supervisor.fault(port, Fault::Redirect(other));
    let checks = node.restarter().check_ports(&node.node()).await;
    let expected = PortFailure::Redirect {
        path: "/health".to_owned(),
        status: 307,
    };
    assert_eq!((checks[0].port, &checks[0].served), (port, &Err(expected)));
    let error = failed(node.restart(2, &Log::new()).await);
    assert_eq!(
        (error.port, error.step),
        (port, RestartStep::WaitForDownPort)
    );
    assert_eq!(node.starts(), [1, 1]);
}

#[tokio::test]
async fn an_answer_without_end_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 1024];
            let read = stream.read(&mut request).unwrap_or(0);
            if request[..read].starts_with(b"GET /health") {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[b'7'; 4096]).is_ok() {
                count.fetch_add(4096, Ordering::SeqCst);
            }
        }
    });
    let mut node = TestNode::start(1);
    let name = format!("127.0.0.1:{port}");
    node.settings.nodes = vec![vec![name.clone()]];
    let endless = node.settings.node(&name).unwrap();
    let checks = node.restarter().check_ports(&endless).await;
    assert!(
        matches!(checks[0].served, Err(PortFailure::TooLong { .. })),
        "{checks:?}"
    );
    assert!(sent.load(Ordering::SeqCst) < 32 << 20);
}
