use std::io::IsTerminal;
use std::path::PathBuf;

use settings::{InvalidSettings, LoadedSettings, Loader, default_files};

use crate::cli::Globals;
use crate::config::Config;
use crate::output::Output;

/// What every command is given: where its settings come from and how it answers.
#[derive(Debug, Clone)]
pub struct Context {
    pub output: Output,
    files: Vec<PathBuf>,
    loader: Loader,
}

impl Context {
    /// Reads nothing yet: a command that needs no settings works without any.
    pub fn new(globals: &Globals) -> Self {
        let fleet_config = std::env::var("FLEET_CONFIG").ok();
        let files = match globals.config.is_empty() {
            true => default_files(fleet_config.as_deref()),
            false => globals.config.clone(),
        };
        // What is not Unicode cannot be one of ours, and would end `vars` in a panic.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let loader = files.iter().fold(Loader::new(), Loader::file);
        let loader = loader.environment(variables);
        let loader = globals.set.iter().fold(loader, Loader::set);
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !globals.no_color && !no_color && std::io::stdout().is_terminal();
        Self {
            output: Output::new(globals.json, color),
            files,
            loader,
        }
    }

    /// The configuration files that are read.
    pub fn files(&self) -> Vec<String> {
        let files = self.files.iter().map(|path| path.display().to_string());
        files.collect()
    }

    /// The settings without those of any process, read and checked.
    pub fn config(&self) -> Result<Config, InvalidSettings> {
        self.load(None).map(|loaded| loaded.settings)
    }

    /// The settings of one process, or the general ones, with their origins.
    pub fn load(&self, process: Option<&str>) -> Result<LoadedSettings<Config>, InvalidSettings> {
        let loader = self.loader.clone();
        let loader = match process {
            Some(name) => loader.process(name),
            None => loader,
        };
        let loaded = loader.load::<Config>()?;
        loaded.settings.check()?;
        Ok(loaded)
    }
}
