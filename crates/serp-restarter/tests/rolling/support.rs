use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serp::{SerpNode, SerpSettings};
use serp_restarter::{
    Observer, PortRestartError, RestartError, RestartEvent, RestartGoal, RestartSummary, Restarter,
    StopReason,
};
use testkit::serp::{Supervisor, free_ports};
use testkit::{repository, unique};

/// A read that a process of every version answers.
pub const READ: &str = "/keyword?country=us&keyword=running%20shoes";

/// A node of the SERP service with processes of its own, and the settings for it.
pub struct TestNode {
    pub supervisor: Supervisor,
    pub ports: Vec<u16>,
    pub settings: SerpSettings,
    dictionary: PathBuf,
}

impl TestNode {
    /// All ports are up and serve version 1.
    pub fn start(ports: usize) -> Self {
        let folder = repository().join("target").join(unique("dictionary"));
        std::fs::create_dir_all(&folder).unwrap();
        let dictionary = folder.join("dictionary.json");
        publish(&dictionary, 1);
        let ports = free_ports(ports);
        let arguments = ["--exact", "serp_process", "--ignored", "--nocapture"];
        let supervisor = Supervisor::start(&arguments, &ports, dictionary.to_str().unwrap());
        supervisor.wait_until_up(Duration::from_secs(20));
        let settings = SerpSettings {
            nodes: vec![vec![name(&ports)]],
            connect_timeout_seconds: 0.5,
            request_timeout_seconds: 0.5,
            back_timeout_seconds: 20.0,
            ..SerpSettings::default()
        };
        settings.check().unwrap();
        Self {
            supervisor,
            ports,
            settings,
            dictionary,
        }
    }

    /// What the processes load from their next start on.
    pub fn publish(&self, version: i64) {
        publish(&self.dictionary, version);
    }

    pub fn node(&self) -> SerpNode {
        self.settings.node(&name(&self.ports)).unwrap()
    }

    pub fn restarter(&self) -> Restarter {
        Restarter::new(&self.settings).unwrap()
    }

    pub async fn restart(
        &self,
        version: i64,
        observer: &impl Observer,
    ) -> Result<RestartSummary, RestartError> {
        let goal = RestartGoal::Version(version);
        self.restarter()
            .restart_node(&self.node(), goal, observer)
            .await
    }

    /// What each port serves; `None` for one that is down or names no version.
    pub async fn versions(&self) -> Vec<Option<i64>> {
        let checks = self.restarter().check_ports(&self.node()).await;
        let versions = checks.into_iter().map(|check| check.served.ok()?.version);
        versions.collect()
    }

    /// How often each process was started.
    pub fn starts(&self) -> Vec<u32> {
        let ports = self.ports.iter();
        ports.map(|port| self.supervisor.starts(*port)).collect()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.dictionary.parent().unwrap());
    }
}

pub fn name(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("127.0.0.1:{}", ports.join(","))
}

fn publish(dictionary: &std::path::Path, version: i64) {
    let content = serde_json::json!({
        "version": version,
        "run": format!("r-{version}"),
        "rows": [{"country": "us", "keyword": "running shoes", "volume": version}],
    });
    let new = dictionary.with_extension("new");
    std::fs::write(&new, content.to_string()).unwrap();
    std::fs::rename(&new, dictionary).unwrap();
}

pub fn failed(ended: Result<RestartSummary, RestartError>) -> PortRestartError {
    match ended {
        Err(RestartError::Failed(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// Keeps the events, allows some restarts and no more, and can stop everything at an event.
pub struct Log {
    events: Mutex<Vec<RestartEvent>>,
    allowed: usize,
    asked: AtomicUsize,
    stopped_at: usize,
    stopped_now: tokio::sync::Notify,
}

impl Log {
    pub fn new() -> Self {
        Self::allowing(usize::MAX)
    }

    /// Says that the service is paused once it has allowed so many restarts.
    pub fn allowing(restarts: usize) -> Self {
        Self {
            events: Mutex::default(),
            allowed: restarts,
            asked: AtomicUsize::new(0),
            stopped_at: usize::MAX,
            stopped_now: tokio::sync::Notify::new(),
        }
    }

    /// Never returns from its `event`-th event, from 0.
    pub fn stopping_at(event: usize) -> Self {
        Self {
            stopped_at: event,
            ..Self::new()
        }
    }

    /// Resolves when that event has come.
    pub async fn stopped(&self) {
        self.stopped_now.notified().await;
    }

    pub fn events(&self) -> Vec<RestartEvent> {
        self.events.lock().unwrap().clone()
    }

    /// Ports that were told to exit, in their order.
    pub fn exited(&self) -> Vec<u16> {
        let port = |event: RestartEvent| match event {
            RestartEvent::ExitAccepted { port } => Some(port),
            _ => None,
        };
        self.events().into_iter().filter_map(port).collect()
    }
}

impl Observer for Log {
    async fn may_restart(&self) -> Result<(), StopReason> {
        if self.asked.fetch_add(1, Ordering::SeqCst) >= self.allowed {
            return Err(StopReason::Paused);
        }
        Ok(())
    }

    async fn on_event(&self, event: RestartEvent) {
        let number = {
            let mut events = self.events.lock().unwrap();
            events.push(event);
            events.len() - 1
        };
        if number == self.stopped_at {
            self.stopped_now.notify_one();
            std::future::pending::<()>().await;
        }
    }
}
