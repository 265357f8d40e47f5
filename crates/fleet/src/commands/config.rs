use serde_json::json;
use settings::{InvalidSettings, reference};

use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;

/// What stands before the generated sections of the reference.
const PREFACE: &str = include_str!("config/preface.md");

#[derive(Debug, clap::Subcommand)]
pub enum ConfigCommand {
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

pub fn run(command: ConfigCommand, context: &Context) -> anyhow::Result<Exit> {
    let output = context.output;
    match command {
        ConfigCommand::Check => return check(context),
        ConfigCommand::Show { process } => {
            let loaded = context.load(process.as_deref())?;
            output.answer(&loaded.settings, loaded.to_toml())?;
        }
        ConfigCommand::Reference => {
            let page = format!("{PREFACE}\n{}", reference::<Config>());
            output.answer(&schemars::schema_for!(Config), page)?;
        }
    }
    Ok(Exit::Ok)
}

fn check(context: &Context) -> anyhow::Result<Exit> {
    let paths = context.files.iter();
    let files: Vec<String> = paths.map(|path| path.display().to_string()).collect();
    let checked = check_all(context);
    if context.output.is_json() {
        let ok = checked.is_ok();
        let problems = checked.map_or_else(|InvalidSettings(problems)| problems, |()| Vec::new());
        let answer = json!({ "ok": ok, "files": files, "problems": problems });
        context.output.json(&answer)?;
        return Ok(if ok { Exit::Ok } else { Exit::Configuration });
    }
    checked?;
    let files = match files.as_slice() {
        [] => "no file, so the defaults and the environment alone".to_owned(),
        files => files.join(", "),
    };
    let text = format!("The configuration is valid ({files}).");
    context.output.line(text)?;
    Ok(Exit::Ok)
}

/// The general settings, then those of each process.
fn check_all(context: &Context) -> Result<(), InvalidSettings> {
    let general = context.load(None)?.settings;
    general.try_out()?;
    for name in general.processes.keys() {
        let own = context.load(Some(name))?.settings;
        super::run::check_role(&own, name)?;
        own.try_out()?;
    }
    Ok(())
}
