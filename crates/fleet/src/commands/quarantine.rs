//! `fleet quarantine …`: looks at what the programs could not process, and changes nothing.

mod body;
mod list;
mod message;
mod printable;

use std::path::PathBuf;

use anyhow::{Context as _, bail};
use batch::{Reason, RunId, TaskHash};
use clap::builder::PossibleValuesParser;
use pipeline::broker::{Broker, RabbitMq};
use pipeline::quarantine::{Quarantined, inspect};
use topology::QueueClass;
use topology::management::Management;

use crate::commands::block_on;
use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;
use crate::output::number;

#[derive(Debug, clap::Subcommand)]
pub enum Action {
    /// Say how much is in quarantine and why, by program, reason and run
    ///
    /// Looking takes nothing away: the broker puts every message back in its place.
    List(ListArguments),
    /// Show messages: their headers, the history of their failures, and what they carry
    Show(ShowArguments),
}

#[derive(Debug, clap::Args)]
pub struct ListArguments {
    /// Look at this program alone; may be repeated [default: every program of the pipeline, as the
    /// broker's management API lists them]
    #[arg(long = "program", value_name = "PROGRAM")]
    programs: Vec<String>,
    /// Count only what is there for this reason
    #[arg(long, value_name = "REASON", value_parser = reasons())]
    reason: Option<String>,
    /// Count only what is of this run
    #[arg(long, value_name = "RUN")]
    run: Option<RunId>,
    /// Look at so many messages of each program, the oldest first
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
    /// Place of the message in the quarantine, from 1, as `list --each` has it
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

pub fn run(action: Action, context: &Context) -> anyhow::Result<Exit> {
    let config = context.config()?;
    let broker = broker(&config)?;
    block_on(async {
        match action {
            Action::List(arguments) => list(&arguments, &config, &broker, context).await,
            Action::Show(arguments) => show(&arguments, &broker, context).await,
        }
    })
}

fn broker(config: &Config) -> anyhow::Result<Broker> {
    let url = config.broker.url.reveal()?;
    let broker = RabbitMq::new(&url).context("broker.url is not an AMQP address")?;
    Ok(Broker::RabbitMq(broker))
}

async fn list(
    arguments: &ListArguments,
    config: &Config,
    broker: &Broker,
    context: &Context,
) -> anyhow::Result<Exit> {
    let mut listing = list::Listing::new(arguments.each);
    for program in programs(arguments, config).await? {
        let keep = |message: Quarantined| {
            let reason = arguments.reason.as_deref().and_then(Reason::parse);
            let wanted = (reason.is_none() || message.reason == reason)
                && (arguments.run.is_none() || message.run == arguments.run);
            wanted.then(|| list::Entry::of(message))
        };
        let looked = inspect(broker, &program, arguments.limit, keep).await;
        let looked = looked.with_context(|| cannot_look(&program))?;
        listing.add(program, looked);
    }
    match context.output.is_json() {
        true => context.output.text(&printable::json(&listing.to_json())?)?,
        false => context.output.text(&listing.to_text(context.output))?,
    }
    Ok(Exit::Ok)
}

/// The programs named, or all that have a quarantine. The name of the queue is taken for its program's.
async fn programs(arguments: &ListArguments, config: &Config) -> anyhow::Result<Vec<String>> {
    if !arguments.programs.is_empty() {
        let named = arguments.programs.iter();
        return Ok(named.map(|name| program_of(name)).collect());
    }
    let figures = Management::from_settings(&config.broker)?.figures().await;
    let figures = figures
        .context("cannot find out which programs there are (or name them with --program)")?;
    let quarantines = figures
        .into_iter()
        .filter(|figures| figures.class == QueueClass::Quarantine);
    Ok(quarantines.map(|figures| figures.program).collect())
}

fn cannot_look(program: &str) -> String {
    format!("cannot look into the quarantine of {program}")
}

fn program_of(name: &str) -> String {
    name.strip_suffix("-quar").unwrap_or(name).to_owned()
}

async fn show(
    arguments: &ShowArguments,
    broker: &Broker,
    context: &Context,
) -> anyhow::Result<Exit> {
    let program = program_of(&arguments.program);
    let limit = arguments.position.unwrap_or(u16::MAX);
    let wanted = |message: &Quarantined| match arguments.position {
        Some(position) => message.position == u64::from(position),
        None => message
            .task
            .is_some_and(|task| arguments.tasks.contains(&task)),
    };
    let looked = inspect(broker, &program, limit, |message| {
        wanted(&message).then_some(message)
    });
    let looked = looked.await.with_context(|| cannot_look(&program))?;
    if looked.kept.is_empty() {
        let there = match looked.ready {
            1 => format!("{program} has 1 message in quarantine"),
            n => format!("{program} has {} messages in quarantine", number(n)),
        };
        match arguments.position {
            Some(position) => bail!("{there}, none at position {position}"),
            None => bail!(
                "{there}; looked at {}, none of that task",
                number(looked.seen)
            ),
        }
    }
    if let Some(file) = &arguments.save {
        let [message] = looked.kept.as_slice() else {
            let positions = looked
                .kept
                .iter()
                .map(|message| message.position.to_string());
            let positions: Vec<_> = positions.collect();
            bail!(
                "--save takes one message, and these are at positions {}: name one of them",
                positions.join(", ")
            );
        };
        save(message, file)?;
    }
    let shown = looked.kept.iter();
    let shown: Vec<_> = shown
        .map(|message| message::Shown::of(message, arguments.rows))
        .collect();
    match context.output.is_json() {
        true => context.output.text(&printable::json(&shown)?)?,
        false => {
            let texts: Vec<_> = shown
                .iter()
                .map(|shown| shown.to_text(context.output))
                .collect();
            context.output.text(&texts.join("\n\n"))?;
        }
    }
    Ok(Exit::Ok)
}

/// Writes the body to a file that must not be there yet.
fn save(message: &Quarantined, file: &std::path::Path) -> anyhow::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let opened = options.write(true).create_new(true).open(file);
    opened
        .and_then(|mut opened| std::io::Write::write_all(&mut opened, &message.body))
        .with_context(|| format!("cannot write the body to {}", file.display()))
}
