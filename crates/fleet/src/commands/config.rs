use serde_json::json;
use settings::{InvalidSettings, LoadedSettings, reference};

use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;

/// What stands before the generated sections of the reference.
const PREFACE: &str = include_str!("config/preface.md");

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Check all settings and read the secrets' files, connecting to nothing
    Check,
    /// Show the settings in effect and where each was set, without secrets
    Show {
        /// With what is this process's own
        #[arg(long, value_name = "NAME")]
        process: Option<String>,
    },
    /// Print the reference of all settings: Markdown, or the JSON schema with --json
    Reference,
}

pub fn run(action: Action, context: &Context) -> anyhow::Result<Exit> {
    match action {
        Action::Check => check(context),
        Action::Show { process } => show(context, process.as_deref()),
        Action::Reference => print_reference(context),
    }
}

fn check(context: &Context) -> anyhow::Result<Exit> {
    let files = context.files();
    let checked = check_all(context);
    if context.output.is_json() {
        let (ok, exit) = match checked.is_ok() {
            true => (true, Exit::Ok),
            false => (false, Exit::Configuration),
        };
        let problems = checked
            .err()
            .map_or(Vec::new(), |InvalidSettings(problems)| problems);
        let answer = json!({ "ok": ok, "files": files, "problems": problems });
        context.output.json(&answer)?;
        return Ok(exit);
    }
    checked?;
    let files = match files.as_slice() {
        [] => "no file, so the defaults and the environment alone".to_owned(),
        files => files.join(", "),
    };
    context
        .output
        .line(format!("The configuration is valid ({files})."))?;
    Ok(Exit::Ok)
}

/// The general settings, then those of each process.
fn check_all(context: &Context) -> Result<(), InvalidSettings> {
    let general = context.load(None)?.settings;
    general.try_out()?;
    for name in general.processes.keys() {
        let own = context.load(Some(name))?.settings;
        super::run::role_of(&own, name)?;
        own.try_out()?;
    }
    Ok(())
}

fn show(context: &Context, process: Option<&str>) -> anyhow::Result<Exit> {
    let loaded: LoadedSettings<Config> = context.load(process)?;
    match context.output.is_json() {
        true => context.output.json(&loaded.settings)?,
        false => context.output.text(&loaded.to_toml())?,
    }
    Ok(Exit::Ok)
}

fn print_reference(context: &Context) -> anyhow::Result<Exit> {
    if context.output.is_json() {
        context.output.json(&schemars::schema_for!(Config))?;
        return Ok(Exit::Ok);
    }
    let sections = reference::<Config>();
    context
        .output
        .text(&format!("{PREFACE}\n{}\n", sections.trim_end()))?;
    Ok(Exit::Ok)
}
