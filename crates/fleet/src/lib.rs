//! The one binary: every role, and the operator's tool.
//!
//! [`cli`] is what can be typed, [`config::Config`] what can be set, each module of [`commands`] one
//! command, [`output`] how answers look and [`exit::Exit`] how they end.

pub mod cli;
pub mod commands;
pub mod config;
pub mod context;
pub mod exit;
pub mod output;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use context::Context;
use exit::Exit;

/// Runs the program of this process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(by_role_name(std::env::args_os()));
    let context = Context::new(&cli.globals);
    let exit = match commands::run(cli.command, &context) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = Exit::of(&error);
            context.output.error(&error, exit);
            exit
        }
    };
    ExitCode::from(exit as u8)
}

/// Called by the name of a role, `fetcher …` is `fleet run fetcher …`.
fn by_role_name(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<_> = arguments.into_iter().collect();
    let role = arguments
        .first()
        .and_then(|path| Path::new(path).file_stem())
        .filter(|name| commands::run::is_role(name));
    if let Some(role) = role.map(OsString::from) {
        arguments.splice(..1, ["fleet".into(), "run".into(), role]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_that_it_is_called_by_may_be_a_role() {
        let words = |arguments: &[&str]| by_role_name(arguments.iter().map(OsString::from));
        assert_eq!(words(&["./fleet", "config"]), ["./fleet", "config"]);
        let roles = commands::run::roles();
        let role = roles.first().expect("there are roles");
        let path = format!("/usr/bin/{role}");
        assert_eq!(
            words(&[&path, "--name", "x"]),
            ["fleet", "run", role.as_str(), "--name", "x"]
        );
    }
}
