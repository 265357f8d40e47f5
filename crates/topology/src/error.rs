use std::fmt;
use std::path::PathBuf;

/// A pipeline file, or a type in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    #[error("cannot read the pipeline file {}: {source}; check pipeline.file or --file", path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// Not TOML, or a key that a type does not have. `detail` shows the line.
    #[error("{file} is not a pipeline file: {detail}")]
    Syntax { file: String, detail: String },
    #[error("no pipeline type is called {name:?}{}; there are: {}", did_you_mean(.nearest), .known.join(", "))]
    UnknownType {
        name: String,
        nearest: Option<String>,
        known: Vec<String>,
    },
    /// All problems of one type.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

/// One problem of a type, with its place in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: String,
    pub line: usize,
    /// The pipeline type.
    pub pipeline: String,
    pub kind: ProblemKind,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}: [{}] {}",
            self.file, self.line, self.pipeline, self.kind
        )
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProblemKind {
    #[error(
        "{text:?} is not an edge: {why}; write \"PROGRAM.OUTPUT -> READER\" or \"*.OUTPUT -> READER, READER\""
    )]
    EdgeSyntax { text: String, why: String },
    #[error("{name:?} cannot be the name of a {what}: {why}")]
    BadName {
        what: &'static str,
        name: String,
        why: &'static str,
    },
    #[error(
        "no role is called {name:?}{}; for a program of another name add {name} = \"ROLE\" to [{pipeline}.programs]",
        did_you_mean(.nearest)
    )]
    UnknownProgram {
        name: String,
        pipeline: String,
        nearest: Option<String>,
    },
    #[error(
        "program {program:?} is to run the role {role:?}, which does not exist{}; there are: {}",
        did_you_mean(.nearest), .known.join(", ")
    )]
    UnknownRole {
        program: String,
        role: String,
        nearest: Option<String>,
        known: Vec<String>,
    },
    #[error("{program} has no output {output:?}{}; {}", did_you_mean(.nearest), outputs(.known))]
    UnknownOutput {
        program: String,
        output: String,
        nearest: Option<String>,
        known: Vec<String>,
    },
    #[error("no program of this type has an output {output:?}{}", did_you_mean(.nearest))]
    EmptyWildcard {
        output: String,
        nearest: Option<String>,
    },
    #[error("{program} reads nothing, so that nothing can be sent to it: its role only produces")]
    ReadsNothing { program: String },
    #[error("{program}.{output} -> {reader} is already said in line {first}")]
    DuplicateEdge {
        program: String,
        output: String,
        reader: String,
        first: usize,
    },
    #[error("messages would go round for ever: {}", .path.join(" -> "))]
    Cycle { path: Vec<String> },
    #[error("settings for the queues of {program:?}, which is not in the flow of this type{}", did_you_mean(.nearest))]
    QueuesOfNoProgram {
        program: String,
        nearest: Option<String>,
    },
    #[error("{setting} means nothing for {program}: {why}")]
    UnfitSetting {
        program: String,
        setting: &'static str,
        why: &'static str,
    },
    #[error("the flow is empty: a type needs at least one edge")]
    EmptyFlow,
    #[error(
        "no program reads {program}.{output}: add an edge \"{program}.{output} -> READER\", or its messages cannot be sent"
    )]
    Unread { program: String, output: String },
    #[error("nothing is sent to {program}: add it to the readers of an edge")]
    NoInput { program: String },
    #[error("program {program:?} is named in [{pipeline}.programs] but is in no edge of the flow")]
    Orphan { program: String, pipeline: String },
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!(" (did you mean {name:?}?)"),
        None => String::new(),
    }
}

fn outputs(known: &[String]) -> String {
    match known {
        [] => "it has none".to_owned(),
        known => format!("it has: {}", known.join(", ")),
    }
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    lines.join("\n")
}

/// The candidate that `name` was probably meant to be.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<String> {
    // Two typing errors in a short word; a third of the letters in a long one.
    let limit = 2.max(name.chars().count() / 3);
    candidates
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), candidate))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}
