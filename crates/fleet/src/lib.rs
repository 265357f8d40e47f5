//! The one binary: every role, and the operator's tool.
//!
//! [`cli`] is what can be typed, [`config::Config`] what can be set, each module of [`commands`] one
//! command, [`output`] how answers look and [`exit::Exit`] how they end.

mod cli;
mod commands;
mod config;
mod context;
mod exit;
pub mod output;
mod targets;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;

use cli::Cli;
use context::Context;
use exit::Exit;

/// Runs the program of this process's arguments.
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(globals_last(by_role_name(std::env::args_os())));
    let context = Context::new(&cli.globals);
    let exit = commands::run(cli.command, &context).unwrap_or_else(|error| {
        let exit = Exit::from_error(&error);
        context.output.error(&error, exit);
        exit
    });
    ExitCode::from(exit as u8)
}

/// Called by the name of a role, `fetcher …` is `fleet run fetcher …`.
fn by_role_name(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<_> = arguments.into_iter().collect();
    let called = arguments
        .first()
        .and_then(|path| Path::new(path).file_stem());
    let role = commands::run::roles().find(|role| called.is_some_and(|name| name == *role));
    if let Some(role) = role {
        arguments.splice(..1, ["fleet", "run", role].map(OsString::from));
    }
    arguments
}

/// Puts every `--config` and `--set` behind the command, in their order: clap ignores those before a command when
/// there are some behind it.
fn globals_last(arguments: Vec<OsString>) -> Vec<OsString> {
    const REPEATED: [&str; 2] = ["--config", "--set"];
    let mut arguments = arguments.into_iter().peekable();
    let (mut others, mut globals) = (Vec::new(), Vec::new());
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--" {
            globals.push(argument);
            break;
        }
        let name = text.split('=').next().unwrap_or_default();
        let value_is_next = name == text;
        if !REPEATED.contains(&name) || (value_is_next && arguments.peek().is_none()) {
            others.push(argument);
        } else {
            globals.push(argument);
            globals.extend(arguments.next_if(|_| value_is_next));
        }
    }
    others.into_iter().chain(globals).chain(arguments).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_before_and_behind_a_command_count_alike_in_their_order() {
        let words = |text: &str| globals_last(text.split(' ').map(OsString::from).collect());
        assert_eq!(
            words("fleet --set a=1 --config=x runs --json --set b=2 list"),
            [
                "fleet",
                "runs",
                "--json",
                "list",
                "--set",
                "a=1",
                "--config=x",
                "--set",
                "b=2"
            ]
        );
        assert_eq!(
            words("fleet run -- --set a"),
            ["fleet", "run", "--", "--set", "a"]
        );
        assert_eq!(words("fleet runs --set"), ["fleet", "runs", "--set"]);
    }

    #[test]
    fn the_name_that_it_is_called_by_may_be_a_role() {
        let words = |arguments: &[&str]| by_role_name(arguments.iter().map(OsString::from));
        assert_eq!(words(&["./fleet", "config"]), ["./fleet", "config"]);
        let role = commands::run::roles().next().expect("there are roles");
        let path = format!("/usr/bin/{role}");
        assert_eq!(
            words(&[&path, "--name", "x"]),
            ["fleet", "run", role, "--name", "x"]
        );
    }
}
