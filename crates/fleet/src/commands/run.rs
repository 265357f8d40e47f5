use std::ffi::OsStr;

use app::config::Problems;
use clap::Subcommand;

use crate::config::Config;
use crate::context::Context;
use crate::exit::Exit;

#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    role: Role,
    /// Name of the process, where it is not its role's: its queues, stats and [processes.NAME] have it
    #[arg(long, global = true, value_name = "PROCESS")]
    name: Option<String>,
}

/// A role with the options that only it has.
#[derive(Debug, Subcommand)]
enum Role {}

/// The names of all roles.
pub fn roles() -> Vec<String> {
    let roles = Role::augment_subcommands(clap::Command::new("run"));
    roles
        .get_subcommands()
        .map(|role| role.get_name().to_owned())
        .collect()
}

pub fn is_role(name: &OsStr) -> bool {
    roles().iter().any(|role| name == role.as_str())
}

/// The role that the process `name` runs, as `[processes.NAME]` says or by its own name.
pub fn role_of(config: &Config, name: &str) -> Result<String, Problems> {
    let role = config
        .processes
        .get(name)
        .and_then(|own| own.role.as_deref());
    let role = role.unwrap_or(name);
    let roles = roles();
    if roles.iter().any(|known| known == role) {
        return Ok(role.to_owned());
    }
    Err(Problems::one(
        format!("processes.{name}.role"),
        format!("must be one of {}, not {role:?}", roles.join(", ")),
    ))
}

pub fn run(arguments: Arguments, _context: &Context) -> anyhow::Result<Exit> {
    match arguments.role {}
}
