use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Pause between two reads.
const READ_PAUSE: Duration = Duration::from_millis(2);
/// After these a port is given up and the next one is asked, as a load balancer would.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(2);
const OK: u16 = 200;
const NOT_FOUND: u16 = 404;

/// Reads from one node without end while something is done to it, the ports in turn: after a port that fails the next
/// one is asked, and a read has failed when all of them have.
pub struct Prober {
    counts: Arc<ProbeCounts>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct ProbeCounts {
    stop: AtomicBool,
    asked: AtomicU64,
    failed: AtomicU64,
    unknown: AtomicU64,
    retried: AtomicU64,
    most_down: AtomicU64,
}

/// What a prober has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Probed {
    /// Reads.
    pub asked: u64,
    /// Reads that no port answered.
    pub failed: u64,
    /// Reads whose answer was that there is no such keyword (status 404).
    pub unknown: u64,
    /// Ports that did not answer a read, so that the next one was asked.
    pub retried: u64,
    /// Most ports that took no connection at the same time.
    pub most_down: u64,
}

impl Prober {
    /// Reads `path` (with its query) of ports on this machine. Only the statuses 200 and 404 are answers.
    pub fn start(ports: &[u16], path: &str) -> Self {
        Self::paced(ports, path, READ_PAUSE)
    }

    /// The same with another pause between two reads, where they must not load the machine.
    pub fn paced(ports: &[u16], path: &str, pause: Duration) -> Self {
        let counts = Arc::new(ProbeCounts::default());
        let (shared, ports, path) = (counts.clone(), ports.to_vec(), path.to_owned());
        let thread = std::thread::spawn(move || shared.probe(&ports, &path, pause));
        Self {
            counts,
            thread: Some(thread),
        }
    }

    /// The counts so far.
    pub fn probed(&self) -> Probed {
        let load = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Probed {
            asked: load(&self.counts.asked),
            failed: load(&self.counts.failed),
            unknown: load(&self.counts.unknown),
            retried: load(&self.counts.retried),
            most_down: load(&self.counts.most_down),
        }
    }

    /// Ends the reads and returns the counts.
    pub fn stop(mut self) -> Probed {
        self.end();
        self.probed()
    }

    fn end(&mut self) {
        self.counts.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.end();
    }
}

impl ProbeCounts {
    fn probe(&self, ports: &[u16], path: &str, pause: Duration) {
        let mut turn = 0;
        while !self.stop.load(Ordering::SeqCst) {
            let down = ports.iter().filter(|port| connect(**port).is_none());
            self.most_down
                .fetch_max(down.count() as u64, Ordering::SeqCst);
            let mut tries = (0..ports.len()).map(|n| ports[(turn + n) % ports.len()]);
            let answer = tries.find_map(|port| {
                let status = status(port, path);
                if status.is_none() {
                    self.retried.fetch_add(1, Ordering::SeqCst);
                }
                status
            });
            self.asked.fetch_add(1, Ordering::SeqCst);
            match answer {
                Some(NOT_FOUND) => self.unknown.fetch_add(1, Ordering::SeqCst),
                Some(_) => 0,
                None => self.failed.fetch_add(1, Ordering::SeqCst),
            };
            turn += 1;
            std::thread::sleep(pause);
        }
    }
}

fn connect(port: u16) -> Option<TcpStream> {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), CONNECT_TIMEOUT).ok()
}

/// The status of a complete answer; `None` when the next port is to be asked.
fn status(port: u16, path: &str) -> Option<u16> {
    let answer = read(port, path)?;
    let status = answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    [OK, NOT_FOUND].contains(&status).then_some(status)
}

fn read(port: u16, path: &str) -> Option<String> {
    let mut stream = connect(port)?;
    stream.set_read_timeout(Some(RESPONSE_TIMEOUT)).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
