use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

/// Root of the checkout.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A name that no other test, in this process or another, uses: `prefix-PID-N`.
pub fn unique(prefix: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{prefix}-{}-{n}", std::process::id())
}

/// Addresses of running services, by the variables that `deploy/local/services env` prints.
#[derive(Debug, Clone)]
pub struct Services {
    variables: BTreeMap<String, String>,
}

impl Services {
    /// Starts the named services unless they run (they are shared, and stay up) and finds their addresses.
    pub fn start(names: &[&str]) -> Self {
        static STARTED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        let names = names.iter().copied();
        let missing: Vec<&str> = names.filter(|name| !started.contains(*name)).collect();
        if !missing.is_empty() {
            script(&[], &[&["up"], missing.as_slice()].concat());
            started.extend(missing.into_iter().map(str::to_owned));
        }
        Self::addresses(&[])
    }

    /// The addresses under other settings of the script, such as another folder.
    pub(crate) fn addresses(environment: &[(&str, String)]) -> Self {
        let printed = script(environment, &["env"]);
        let variables = printed.lines().filter_map(|line| {
            let (name, value) = line.strip_prefix("export ")?.split_once('=')?;
            let value = value.trim_matches(['"', '\'']);
            Some((name.to_owned(), value.to_owned()))
        });
        Self {
            variables: variables.collect(),
        }
    }

    /// Value of a variable, such as `FLEET__BROKER__URL`.
    pub fn get(&self, variable: &str) -> &str {
        let variables = &self.variables;
        let value = variables.get(variable);
        value.unwrap_or_else(|| {
            panic!("deploy/local/services env prints no {variable}; it has {variables:?}")
        })
    }

    /// All variables, for the environment of a process.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        let variables = self.variables.iter();
        variables.map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Runs `deploy/local/services` and returns what it printed.
pub(crate) fn script(environment: &[(&str, String)], arguments: &[&str]) -> String {
    let path: PathBuf = repository().join("deploy/local/services");
    let output = Command::new(&path)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", path.display()));
    assert!(
        output.status.success(),
        "`deploy/local/services {}` failed ({}); run it by hand to see why:\n{}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A service apart from the shared ones, in a folder of its own. Stopped and removed on drop.
pub(crate) struct PrivateService {
    service: &'static str,
    folder: PathBuf,
    environment: Vec<(&'static str, String)>,
    services: Services,
}

impl PrivateService {
    /// `port_base`: first of some ports that no other test uses, below 32768. `more`: variables for the script.
    pub fn start(service: &'static str, port_base: u16, more: &[(&'static str, &str)]) -> Self {
        let folder = repository().join(".services").join(unique("private"));
        let mut environment = vec![
            ("FLEET_SERVICES", "local".to_owned()),
            ("FLEET_SERVICES_DIR", folder.display().to_string()),
            ("FLEET_PORT_BASE", port_base.to_string()),
        ];
        environment.extend(more.iter().map(|&(name, value)| (name, value.to_owned())));
        script(&environment, &["up", service]);
        Self {
            service,
            services: Services::addresses(&environment),
            folder,
            environment,
        }
    }

    pub fn services(&self) -> &Services {
        &self.services
    }

    pub fn script(&self, arguments: &[&str]) -> String {
        script(&self.environment, arguments)
    }
}

impl Drop for PrivateService {
    fn drop(&mut self) {
        self.script(&["down", self.service]);
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
