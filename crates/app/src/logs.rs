use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::{LogFormat, LogSettings};
use settings::InvalidSettings;

/// A library that logs its errors and returns them too: here an error is logged once, where it is handled.
/// A filter that names the library shows what it logs.
const REPEATS: &str = "lapin";

/// Starts logging to the standard error; does nothing when logging was started before.
/// Fails when `RUST_LOG` or `log.level` is not a filter.
pub fn start(settings: &LogSettings) -> Result<(), InvalidSettings> {
    let from_environment = std::env::var("RUST_LOG").ok().filter(|f| !f.is_empty());
    let filter = match &from_environment {
        Some(filter) => parse("RUST_LOG", filter)?,
        None => parse("log.level", &without_repetition(&settings.level))?,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    // A second start in one process (tests) keeps the first.
    let _already_started = match settings.format {
        LogFormat::Text => builder.with_ansi(colours()).try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .try_init(),
    };
    Ok(())
}

impl LogSettings {
    /// Refuses a level that is none.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        parse("log.level", &self.level).map(drop)
    }
}

fn without_repetition(level: &str) -> String {
    if level.contains(REPEATS) {
        level.to_owned()
    } else {
        format!("{level},{REPEATS}=off")
    }
}

fn parse(source: &str, filter: &str) -> Result<EnvFilter, InvalidSettings> {
    let level_known = |directive: &str| {
        let level = directive.rsplit('=').next().unwrap_or_default().trim();
        level.parse::<tracing::level_filters::LevelFilter>().is_ok()
    };
    // A bare word that is no level would be taken for the name of a module, and silence the rest.
    if let Some(word) = filter.split(',').find(|word| {
        !word.contains(['=', '[', ':']) && !word.trim().is_empty() && !level_known(word)
    }) {
        let message = format!(
            "{word:?} is no level; use off, error, warn, info, debug or trace, or module=level"
        );
        return Err(InvalidSettings::one(source, message));
    }
    EnvFilter::try_new(filter).map_err(|error| {
        InvalidSettings::one(source, format!("{filter:?} is not a log filter: {error}"))
    })
}

fn colours() -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && std::io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        let InvalidSettings(problems) = parse("log.level", "verbose").unwrap_err();
        let problem = problems[0].to_string();
        assert!(
            problem.starts_with(r#"log.level: "verbose" is no level"#),
            "{problem}"
        );
    }

    #[test]
    fn a_library_that_returns_its_errors_logs_them_only_when_a_filter_names_it() {
        assert_eq!(without_repetition("info"), "info,lapin=off");
        assert_eq!(without_repetition("info,lapin=debug"), "info,lapin=debug");
    }

    #[test]
    fn levels_by_module_are_accepted() {
        for filter in ["info", "INFO", "warn,lapin=debug", "off,app::stats=trace"] {
            assert!(parse("log.level", filter).is_ok(), "{filter}");
        }
    }
}
