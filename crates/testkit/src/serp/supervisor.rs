use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Fault;
use super::process::{FAULTS, PORT, SOURCE};
use crate::services::repository;
use crate::unique;

/// How often a process is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Delay before a process that has ended is started again.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// Keeps one SERP process a port running, as `restart: always` does. Ends them on drop.
pub struct Supervisor {
    ports: Vec<Arc<SupervisedPort>>,
    threads: Vec<JoinHandle<()>>,
    folder: PathBuf,
}

struct SupervisedPort {
    number: u16,
    /// How often its process was started.
    starts: AtomicU32,
    stop: AtomicBool,
    child: Mutex<Option<Child>>,
}

impl Supervisor {
    /// Starts a process for each port and returns at once. `source` as for [`super::serve`]. The processes are this
    /// program with `arguments`: its `main`, or the test that the arguments name, has to call [`super::main`].
    pub fn start(arguments: &[&str], ports: &[u16], source: &str) -> Self {
        let folder = repository().join("target").join(unique("serp"));
        std::fs::create_dir_all(&folder).expect("the folder of the faults can be made");
        let mut supervisor = Self {
            ports: Vec::new(),
            threads: Vec::new(),
            folder,
        };
        let arguments: Vec<String> = arguments.iter().map(|&word| word.to_owned()).collect();
        for &number in ports {
            let port = Arc::new(SupervisedPort {
                number,
                starts: AtomicU32::new(0),
                stop: AtomicBool::new(false),
                child: Mutex::default(),
            });
            supervisor.ports.push(port.clone());
            let (arguments, source) = (arguments.clone(), source.to_owned());
            let folder = supervisor.folder.clone();
            let keep = move || port.keep_running(&arguments, &source, &folder);
            supervisor.threads.push(std::thread::spawn(keep));
        }
        supervisor
    }

    /// Waits until every port listens; panics if one does not in time.
    pub fn wait_until_up(&self, timeout: Duration) {
        let deadline = Instant::now() + timeout;
        for port in &self.ports {
            while std::net::TcpStream::connect(("127.0.0.1", port.number)).is_err() {
                assert!(Instant::now() < deadline, "port {} is not up", port.number);
                std::thread::sleep(POLL_INTERVAL);
            }
        }
    }

    pub fn ports(&self) -> Vec<u16> {
        self.ports.iter().map(|port| port.number).collect()
    }

    /// How often the process of a port was started.
    pub fn starts(&self, port: u16) -> u32 {
        self.port(port).starts.load(Ordering::SeqCst)
    }

    /// Makes the port fail in this way from its next start, or its next `/exit`, on.
    pub fn fault(&self, port: u16, fault: Fault) {
        fault.write(&self.folder, port);
    }

    /// The port works again from its next start on.
    pub fn repair(&self, port: u16) {
        Fault::clear(&self.folder, port);
    }

    /// SIGKILL to the process of a port, which is then started again.
    pub fn kill(&self, port: u16) {
        self.port(port).kill();
    }

    fn port(&self, number: u16) -> &SupervisedPort {
        let port = self.ports.iter().find(|port| port.number == number);
        port.expect("it is one of the supervisor's ports")
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for port in &self.ports {
            port.stop.store(true, Ordering::SeqCst);
            port.kill();
        }
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl SupervisedPort {
    fn keep_running(&self, arguments: &[String], source: &str, folder: &Path) {
        while !self.stop.load(Ordering::SeqCst) {
            let program = std::env::current_exe().expect("this program has a path");
            let child = Command::new(program)
                .args(arguments)
                .env(PORT, self.number.to_string())
                .env(SOURCE, source)
                .env(FAULTS, folder)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("this program can be started again");
            self.starts.fetch_add(1, Ordering::SeqCst);
            *self.lock() = Some(child);
            while self.is_running() {
                if self.stop.load(Ordering::SeqCst) {
                    self.kill();
                }
                std::thread::sleep(POLL_INTERVAL);
            }
            std::thread::sleep(RESTART_DELAY);
        }
    }

    fn is_running(&self) -> bool {
        let mut child = self.lock();
        child
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    fn kill(&self) {
        if let Some(child) = self.lock().as_mut() {
            let _ = child.kill();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ports that no program listens on, and that no other caller in this process has got: of a range that nothing else
/// here uses, below those that the kernel gives to clients.
pub fn free_ports(count: usize) -> Vec<u16> {
    const FIRST: u16 = 26_000;
    const LAST: u16 = 31_999;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Test programs that run at the same time begin at different ports.
    let start = (std::process::id() * 97 % u32::from(LAST - FIRST)) as u16;
    let mut ports = Vec::new();
    for _ in FIRST..LAST {
        let step = NEXT.fetch_add(1, Ordering::SeqCst);
        let port = FIRST + (start + step) % (LAST - FIRST);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            ports.push(port);
        }
        if ports.len() == count {
            return ports;
        }
    }
    panic!("no {count} ports are free from {FIRST} to {LAST}");
}
