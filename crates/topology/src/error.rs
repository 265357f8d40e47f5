use std::path::PathBuf;

/// A pipeline file, or a type in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("cannot read the pipeline file {}: {source}; check pipeline.file or --file", path.display())]
    Unreadable {
        path: PathBuf,
        source: std::io::Error,
    },
    /// Not TOML, or a key that a type does not have. `detail` shows the line.
    #[error("{file} is not a pipeline file: {detail}")]
    Syntax { file: String, detail: String },
    #[error("no pipeline type is called {name:?}{hint}; there are: {known}")]
    UnknownType {
        name: String,
        hint: String,
        known: String,
    },
    /// All problems of one type.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// One problem of a type, with its line in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: [{pipeline}] {message}")]
pub struct Problem {
    pub(super) file: String,
    pub(super) line: usize,
    /// The pipeline type.
    pub(super) pipeline: String,
    pub(super) message: String,
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// The candidate that `name` was probably meant to be, for the end of a sentence.
pub(super) fn did_you_mean<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> String {
    settings::nearest(name, candidates)
        .map(|candidate| format!(" (did you mean {candidate:?}?)"))
        .unwrap_or_default()
}
