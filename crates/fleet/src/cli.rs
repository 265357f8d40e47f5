use std::path::PathBuf;

use clap::builder::styling::{AnsiColor, Styles};

use crate::commands::FleetCommand;
use crate::exit::EXIT_CODES;

/// Distributes keyword metrics from the hub to the customer-facing stores
///
/// A fleet of small programs, joined by RabbitMQ: `fleet run ROLE` is one of them, the other commands
/// are the operator's. A symbolic link with the name of a role runs that role.
#[derive(Debug, clap::Parser)]
#[command(
    name = "fleet",
    version,
    after_help = EXIT_CODES,
    max_term_width = 100,
    styles = STYLES,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: FleetCommand,
}

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default().bold())
    .placeholder(AnsiColor::Cyan.on_default());

/// Options of every command.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Options of every command")]
pub struct Globals {
    /// Read this configuration file; several are read in order, the later winning [default:
    /// $FLEET_CONFIG, else the first of ./fleet.toml and /etc/keyword-fleet/fleet.toml that exists]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Vec<PathBuf>,
    /// Set one key over files and environment, such as stats.port=8125
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
    /// Answer without colours; so does a NO_COLOR that is not empty
    #[arg(long, global = true)]
    pub no_color: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_of_the_commands_is_sound() {
        super::Cli::command().debug_assert();
    }
}
