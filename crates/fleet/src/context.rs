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
    /// The configuration files that are read.
    pub files: Vec<PathBuf>,
    loader: Loader,
}

impl Context {
    /// Reads nothing yet: a command that needs no settings works without any.
    pub fn new(globals: &Globals) -> Self {
        let files = if globals.config.is_empty() {
            default_files(std::env::var("FLEET_CONFIG").ok().as_deref())
        } else {
            globals.config.clone()
        };
        // No variable of the fleet is without Unicode, and one that is makes `vars` panic.
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let from_files = files.iter().fold(Loader::new(), Loader::file);
        let loader = from_files.environment(variables);
        let loader = globals.set.iter().fold(loader, Loader::set);
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let color = !globals.no_color && !no_color && std::io::stdout().is_terminal();
        Self {
            output: Output::new(globals.json, color),
            files,
            loader,
        }
    }

    /// The settings without those of any process, read and checked.
    pub fn config(&self) -> Result<Config, InvalidSettings> {
        self.load(None).map(|loaded| loaded.settings)
    }

    /// The settings of one process, or the general ones, with their origins.
    pub fn load(&self, process: Option<&str>) -> Result<LoadedSettings<Config>, InvalidSettings> {
        let mut loader = self.loader.clone();
        if let Some(name) = process {
            loader = loader.process(name);
        }
        let loaded = loader.load::<Config>()?;
        loaded.settings.check()?;
        Ok(loaded)
    }
}
