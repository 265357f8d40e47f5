//! `fleet quarantine …`: inspects what the programs could not process, and changes nothing.

mod body;
mod list;
mod message;
mod printable;

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use batch::{Reason, RunId, TaskHash};
use clap::builder::PossibleValuesParser;
use pipeline::broker::Broker;
use pipeline::quarantine::{Quarantined, inspect};
use topology::QueueClass;
use topology::management::Management;

use crate::commands::block_on;
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::number;

#[derive(Debug, clap::Subcommand)]
pub enum QuarantineCommand {
    /// Say how much is in quarantine and why, by program, reason and run
    ///
    /// Nothing is taken out: the broker requeues every message where it was.
    List(ListArguments),
    /// Show messages: their headers, the history of their failures, and their bodies
    Show(ShowArguments),
}

#[derive(Debug, clap::Args)]
pub struct ListArguments {
    /// Inspect this program alone; may be repeated [default: every program of the pipeline, as the
    /// broker's management API lists them]
    #[arg(long = "program", value_name = "PROGRAM")]
    programs: Vec<String>,
    /// Count only what is there for this reason
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    reason: Option<String>,
    /// Count only what is of this run
    #[arg(long, value_name = "RUN")]
    run: Option<RunId>,
    /// Inspect so many messages of each program, the oldest first
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u16).range(1..))]
    limit: u16,
    /// List each message
    #[arg(long)]
    each: bool,
}

#[derive(Debug, clap::Args)]
pub struct ShowArguments {
    /// The program whose quarantine it is
    program: String,
    /// Position of the message in the quarantine, from 1, as `list --each` has it
    #[arg(
        value_parser = clap::value_parser!(u16).range(1..),
        required_unless_present = "tasks",
        conflicts_with = "tasks"
    )]
    position: Option<u16>,
    /// Show all messages of this task; may be repeated
    #[arg(long = "task", value_name = "HASH")]
    tasks: Vec<TaskHash>,
    /// Show at most so many rows of a batch
    #[arg(long, value_name = "N", default_value_t = 10)]
    rows: usize,
    /// Write the body as it is to a new file; for one message only
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

fn reasons() -> PossibleValuesParser {
    PossibleValuesParser::new(Reason::ALL.map(Reason::as_str))
}

pub fn run(command: QuarantineCommand, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let broker = config.try_broker()?;
    block_on(async {
        match command {
            QuarantineCommand::List(arguments) => list(&arguments, &config, &broker, context).await,
            QuarantineCommand::Show(arguments) => show(&arguments, &broker, context).await,
        }
    })
}

async fn list(
    arguments: &ListArguments,
    config: &Config,
    broker: &Broker,
    context: &Context,
) -> anyhow::Result<Exit> {
    let reason = arguments.reason.as_deref().and_then(Reason::parse);
    let mut listing = list::Listing::new(arguments.each);
    for program in programs(arguments, config).await? {
        let keep = |message: Quarantined| {
            let wanted = (reason.is_none() || message.reason == reason)
                && (arguments.run.is_none() || message.run == arguments.run);
            wanted.then(|| list::ListedMessage::new(message))
        };
        let inspection = inspect(broker, &program, arguments.limit, keep).await;
        let inspection = inspection.with_context(|| cannot_inspect(&program))?;
        listing.add(program, inspection);
    }
    let text = if context.output.is_json() {
        printable::json(&listing.to_json())?
    } else {
        listing.to_text(context.output)
    };
    context.output.text(&text)?;
    Ok(Exit::Ok)
}

/// The programs named, or all that have a quarantine. The name of the queue is taken for its program's.
async fn programs(arguments: &ListArguments, config: &Config) -> anyhow::Result<Vec<String>> {
    if !arguments.programs.is_empty() {
        let named = arguments.programs.iter();
        return Ok(named.map(|name| owner(name)).collect());
    }
    let figures = Management::from_settings(&config.broker)?.figures().await;
    let figures = figures
        .context("cannot find out which programs there are (or name them with --program)")?;
    let quarantines = figures.into_iter();
    let quarantines = quarantines.filter(|figures| figures.class == QueueClass::Quarantine);
    Ok(quarantines.map(|figures| figures.program).collect())
}

fn cannot_inspect(program: &str) -> String {
    format!("cannot inspect the quarantine of {program}")
}

fn owner(name: &str) -> String {
    name.strip_suffix("-quar").unwrap_or(name).to_owned()
}

async fn show(
    arguments: &ShowArguments,
    broker: &Broker,
    context: &Context,
) -> anyhow::Result<Exit> {
    let program = owner(&arguments.program);
    let limit = arguments.position.unwrap_or(u16::MAX);
    let is_wanted = |message: &Quarantined| match arguments.position {
        Some(position) => message.position == u64::from(position),
        None => (message.task).is_some_and(|task| arguments.tasks.contains(&task)),
    };
    let keep = |message| is_wanted(&message).then_some(message);
    let inspection = inspect(broker, &program, limit, keep).await;
    let inspection = inspection.with_context(|| cannot_inspect(&program))?;
    let messages = inspection.kept.as_slice();
    if messages.is_empty() {
        let (n, seen) = (number(inspection.ready), number(inspection.seen));
        let s = if inspection.ready == 1 { "" } else { "s" };
        match arguments.position {
            Some(position) => {
                bail!("{program} has {n} message{s} in quarantine, none at position {position}")
            }
            None => bail!(
                "{program} has {n} message{s} in quarantine; inspected {seen}, none of that task"
            ),
        }
    }
    if let Some(file) = &arguments.save {
        let [message] = messages else {
            let positions = messages.iter().map(|message| message.position.to_string());
            let positions = positions.collect::<Vec<_>>().join(", ");
            bail!(
                "--save takes one message, and these are at positions {positions}: name one of them"
            );
        };
        save(message, file)?;
    }
    let shown = messages.iter();
    let shown = shown.map(|message| message::ShownMessage::new(message, arguments.rows));
    let shown: Vec<_> = shown.collect();
    let text = if context.output.is_json() {
        printable::json(&shown)?
    } else {
        let texts = shown.iter().map(|shown| shown.to_text(context.output));
        texts.collect::<Vec<_>>().join("\n\n")
    };
    context.output.text(&text)?;
    Ok(Exit::Ok)
}

/// Writes the body to a file that must not be there yet.
fn save(message: &Quarantined, file: &Path) -> anyhow::Result<()> {
    File::create_new(file)
        .and_then(|mut opened| opened.write_all(&message.body))
        .with_context(|| format!("cannot write the body to {}", file.display()))
}
