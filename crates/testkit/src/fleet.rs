use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

/// Nothing of the fleet's goes through a proxy of the environment: in its tests none would answer.
const DEAD_PROXY: [(&str, &str); 3] = [
    ("http_proxy", "http://127.0.0.1:9"),
    ("https_proxy", "http://127.0.0.1:9"),
    ("all_proxy", "http://127.0.0.1:9"),
];

/// The `fleet` binary with one configuration: runs its commands and its programs, each as its own process.
#[derive(Debug, Clone)]
pub struct Fleet {
    binary: PathBuf,
    config: PathBuf,
    environment: Vec<(String, String)>,
    /// Whether the settings in this process's environment are removed.
    apart: bool,
    /// Folder of the programs' logs, one file a process name.
    logs: PathBuf,
}

impl Fleet {
    pub fn new(
        binary: impl Into<PathBuf>,
        config: impl Into<PathBuf>,
        environment: Vec<(String, String)>,
        logs: impl Into<PathBuf>,
    ) -> Self {
        let logs = logs.into();
        std::fs::create_dir_all(&logs).expect("the folder of the logs can be made");
        Self {
            binary: binary.into(),
            config: config.into(),
            environment,
            apart: false,
            logs,
        }
    }

    /// The same without the settings (`FLEET__…`) of this process's environment, such as the addresses of external
    /// services, which would override those in the configuration file.
    #[must_use]
    pub fn apart(self) -> Self {
        Self {
            apart: true,
            ..self
        }
    }

    /// The same with more variables, which override the configuration file.
    #[must_use]
    pub fn with_variables(&self, variables: &[(&str, &str)]) -> Self {
        let mut fleet = self.clone();
        let variables = variables.iter();
        let variables = variables.map(|&(name, value)| (name.to_owned(), value.to_owned()));
        fleet.environment.extend(variables);
        fleet
    }

    /// A command of the binary, ready to run.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        if self.apart {
            let settings = std::env::vars_os().map(|(name, _)| name);
            for name in settings.filter(|name| name.to_string_lossy().starts_with("FLEET__")) {
                command.env_remove(name);
            }
        }
        command
            .arg("--config")
            .arg(&self.config)
            .args(arguments)
            .envs(DEAD_PROXY)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs a command to its end.
    pub fn output(&self, arguments: &[&str]) -> Output {
        let output = self.command(arguments).output();
        output.unwrap_or_else(|error| panic!("cannot run {}: {error}", self.binary.display()))
    }

    /// Runs a command and returns what it printed; panics when it fails.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(
            output.status.success(),
            "fleet {} failed ({}):\n{}{}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a command prints as JSON.
    pub fn json(&self, arguments: &[&str]) -> serde_json::Value {
        let printed = self.run(&[&["--json"], arguments].concat());
        serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error} in {printed}"))
    }

    /// Starts `fleet run ROLE` as a process of its own.
    pub fn start(&self, role: &str) -> FleetProcess {
        let log = self.logs.join(format!("{role}.log"));
        let open = || {
            let file = File::options().create(true).append(true).open(&log);
            file.expect("the log can be written")
        };
        let mut command = self.command(&["run", role, "--name", role]);
        let child = command.stdout(open()).stderr(open()).spawn();
        FleetProcess {
            child: child
                .unwrap_or_else(|error| panic!("cannot run {}: {error}", self.binary.display())),
            log,
        }
    }
}

/// A running program. Killed on drop.
#[derive(Debug)]
pub struct FleetProcess {
    child: Child,
    log: PathBuf,
}

impl FleetProcess {
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its log so far, together with that of earlier processes of its name.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn log_file(&self) -> &Path {
        &self.log
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends SIGTERM; returns how it ends within `timeout`.
    pub fn terminate(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let _ = Command::new("kill")
            .args(["-TERM", &self.id().to_string()])
            .status();
        let deadline = Instant::now() + timeout;
        while Instant::now() < deadline {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        None
    }

    /// CPU seconds (user and system) that it has used, and its peak memory in bytes, as Linux counts them.
    pub fn usage(&self) -> Option<(f64, u64)> {
        /// Clock ticks a second: fixed at 100 for user space on every Linux.
        const TICKS: f64 = 100.0;
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).ok()?;
        // The second field is the name in parentheses, which may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = |n: usize| fields.get(n)?.parse::<f64>().ok();
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).ok()?;
        let mut lines = status.lines();
        let peak = lines.find_map(|line| line.strip_prefix("VmHWM:"))?;
        let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse().ok()?;
        Some(((ticks(11)? + ticks(12)?) / TICKS, kib * 1024))
    }
}

impl Drop for FleetProcess {
    fn drop(&mut self) {
        self.kill();
    }
}
