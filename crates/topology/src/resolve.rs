use std::collections::BTreeSet;

use super::catalog::{FlowLine, Named, TypeEntry};
use super::edge::{self, EdgeText};
use super::error::did_you_mean;
use super::naming::{refuse_program, refuse_word};
use super::{Problem, QueueSettings};
use pipeline::{Role, RoleKind};

/// One pipeline type: its programs in the order of the flow, and every edge between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub name: String,
    pub about: String,
    pub programs: Vec<ProgramSpec>,
    pub edges: Vec<Edge>,
    pub(super) file: String,
    /// The programs that the type names with their roles.
    pub(super) declared: Vec<Named<String>>,
}

/// A process name and the role it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramSpec {
    pub name: String,
    pub role: Role,
    pub(super) queues: QueueSettings,
    /// Line of the file that mentions it first.
    pub(super) line: usize,
}

/// What `program` sends to `output` is copied to the queue of `reader`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub program: String,
    pub output: String,
    pub reader: String,
    line: usize,
}

impl Topology {
    pub fn program(&self, name: &str) -> Option<&ProgramSpec> {
        find(&self.programs, name)
    }

    /// Whether an edge leads to the program.
    pub fn has_input(&self, program: &str) -> bool {
        self.edges.iter().any(|edge| edge.reader == program)
    }

    /// Programs that read `output` of `program`, in the order of the flow.
    pub fn readers<'a>(
        &'a self,
        program: &'a str,
        output: &'a str,
    ) -> impl Iterator<Item = &'a str> {
        self.edges
            .iter()
            .filter(move |edge| edge.program == program && edge.output == output)
            .map(|edge| edge.reader.as_str())
    }
}

pub(super) fn resolve(entry: &TypeEntry, roles: &[Role]) -> Result<Topology, Vec<Problem>> {
    let mut resolver = Resolver {
        entry,
        roles,
        problems: Vec::new(),
    };
    resolver.check_names();
    let flow = resolver.flow();
    let programs = resolver.programs(&flow);
    let edges = resolver.edges(&flow, &programs);
    resolver.check_cycles(&programs, &edges);
    resolver.check_queues(&programs);
    if !resolver.problems.is_empty() {
        resolver.problems.sort_by_key(|problem| problem.line);
        return Err(resolver.problems);
    }
    Ok(Topology {
        name: entry.name.clone(),
        about: entry.about.clone(),
        programs,
        edges,
        file: entry.file.clone(),
        declared: entry.programs.clone(),
    })
}

fn find<'a>(programs: &'a [ProgramSpec], name: &str) -> Option<&'a ProgramSpec> {
    programs.iter().find(|program| program.name == name)
}

/// Reads a type step by step and gathers all that is wrong with it.
struct Resolver<'a> {
    entry: &'a TypeEntry,
    roles: &'a [Role],
    problems: Vec<Problem>,
}

impl<'a> Resolver<'a> {
    fn refuse(&mut self, line: usize, message: String) {
        self.problems.push(Problem {
            file: self.entry.file.clone(),
            line,
            pipeline: self.entry.name.clone(),
            message,
        });
    }

    /// The names of the type and of the programs that it declares, and the roles of these.
    fn check_names(&mut self) {
        let TypeEntry { name, line, .. } = self.entry;
        if let Some(why) = refuse_word(name) {
            let message = format!("{name:?} cannot be the name of a pipeline type: {why}");
            self.refuse(*line, message);
        }
        let known: Vec<&str> = self.roles.iter().map(|role| role.name).collect();
        for Named { name, line, value } in &self.entry.programs {
            if let Some(why) = refuse_program(name) {
                let message = format!("{name:?} cannot be the name of a program: {why}");
                self.refuse(*line, message);
            }
            if !known.contains(&value.as_str()) {
                let hint = did_you_mean(value, known.iter().copied());
                let known = known.join(", ");
                self.refuse(
                    *line,
                    format!(
                        "program {name:?} is to run the role {value:?}, which does not exist{hint}; there are: {known}"
                    ),
                );
            }
        }
    }

    /// The edges as they are written.
    fn flow(&mut self) -> Vec<EdgeText<'a>> {
        let entry = self.entry;
        if entry.flow.is_empty() {
            let message = "the flow is empty: a type needs at least one edge";
            self.refuse(entry.line, message.to_owned());
        }
        let mut flow = Vec::new();
        for FlowLine { text, line } in &entry.flow {
            match edge::parse(text, *line) {
                Ok(edge) => flow.push(edge),
                Err(why) => self.refuse(
                    *line,
                    format!(
                        "{text:?} is not an edge: {why}; write \"PROGRAM.OUTPUT -> READER\" or \"*.OUTPUT -> READER, READER\""
                    ),
                ),
            }
        }
        flow
    }

    /// Every program that the flow mentions, in the order of its first mention.
    fn programs(&mut self, flow: &[EdgeText<'a>]) -> Vec<ProgramSpec> {
        let mut seen = BTreeSet::new();
        let mut programs = Vec::new();
        for edge in flow {
            let mentioned = edge.program.iter().chain(&edge.readers);
            for name in mentioned.filter(|name| seen.insert(**name)) {
                programs.extend(self.program(edge.line, name));
            }
        }
        programs
    }

    fn program(&mut self, line: usize, name: &str) -> Option<ProgramSpec> {
        let entry = self.entry;
        let declared = entry.programs.iter().find(|named| named.name == name);
        let role = declared.map_or(name, |named| &named.value);
        let role = self.roles.iter().find(|known| known.name == role);
        // An unknown role of a declared program is refused where it is declared.
        if role.is_none() && declared.is_none() {
            let known = self.roles.iter().map(|role| role.name);
            let known = known.chain(entry.programs.iter().map(|named| &*named.name));
            let (hint, pipeline) = (did_you_mean(name, known), &entry.name);
            self.refuse(
                line,
                format!(
                    "no role is called {name:?}{hint}; for a program of another name add {name} = \"ROLE\" to [{pipeline}.programs]"
                ),
            );
        }
        let queues = entry.queues.iter().find(|named| named.name == name);
        Some(ProgramSpec {
            name: name.to_owned(),
            role: *role?,
            queues: queues.map(|named| named.value.clone()).unwrap_or_default(),
            line,
        })
    }

    /// For each line one edge for each program that sends and each that reads.
    fn edges(&mut self, flow: &[EdgeText<'a>], programs: &[ProgramSpec]) -> Vec<Edge> {
        let mut edges: Vec<Edge> = Vec::new();
        for text in flow {
            let line = text.line;
            let senders = self.senders(text, programs);
            for reader in text.readers.iter().filter_map(|name| find(programs, name)) {
                let reader_name = &reader.name;
                if reader.role.kind == RoleKind::Producer {
                    self.refuse(
                        line,
                        format!(
                            "{reader_name} reads nothing, so that nothing can be sent to it: its role only produces"
                        ),
                    );
                    continue;
                }
                for sender in &senders {
                    let edge = Edge {
                        program: sender.name.clone(),
                        output: text.output.to_owned(),
                        reader: reader_name.clone(),
                        line,
                    };
                    let text = edge.to_string();
                    match edges.iter().find(|first| first.to_string() == text) {
                        Some(Edge { line: first, .. }) => {
                            self.refuse(line, format!("{edge} is already in line {first}"));
                        }
                        None => edges.push(edge),
                    }
                }
            }
        }
        edges
    }

    /// The programs that a line of the flow stands for.
    fn senders<'p>(
        &mut self,
        text: &EdgeText<'a>,
        programs: &'p [ProgramSpec],
    ) -> Vec<&'p ProgramSpec> {
        let &EdgeText { output, line, .. } = text;
        let Some(name) = text.program else {
            let has_it = |program: &&ProgramSpec| program.role.outputs.contains(&output);
            let senders: Vec<_> = programs.iter().filter(has_it).collect();
            if senders.is_empty() {
                let outputs = programs.iter().flat_map(|program| program.role.outputs);
                let hint = did_you_mean(output, outputs.copied());
                let message = format!("no program of this type has an output {output:?}{hint}");
                self.refuse(line, message);
            }
            return senders;
        };
        let sender = find(programs, name);
        if let Some(outputs) = sender.map(|sender| sender.role.outputs)
            && !outputs.contains(&output)
        {
            let hint = did_you_mean(output, outputs.iter().copied());
            let known = match outputs {
                [] => "it has none".to_owned(),
                known => format!("it has: {}", known.join(", ")),
            };
            let message = format!("{name} has no output {output:?}{hint}; {known}");
            self.refuse(line, message);
        }
        sender.into_iter().collect()
    }

    /// Refuses the first cycle of the edges.
    fn check_cycles(&mut self, programs: &[ProgramSpec], edges: &[Edge]) {
        let mut finished = BTreeSet::new();
        let closing = programs
            .iter()
            .find_map(|program| closing_edge(edges, &program.name, &mut Vec::new(), &mut finished));
        if let Some((edge, cycle)) = closing {
            self.refuse(
                edge.line,
                format!("messages would circulate without end: {cycle}"),
            );
        }
    }

    fn check_queues(&mut self, programs: &[ProgramSpec]) {
        for Named { name, line, value } in &self.entry.queues {
            let refusal = match find(programs, name) {
                Some(program) => value.refuse(name, program.role.kind),
                None => {
                    let known = programs.iter().map(|program| program.name.as_str());
                    let hint = did_you_mean(name, known);
                    Some(format!(
                        "settings for the queues of {name:?}, which is not in the flow of this type{hint}"
                    ))
                }
            };
            if let Some(message) = refusal {
                self.refuse(*line, message);
            }
        }
    }
}

/// As the flow of a type has it.
impl std::fmt::Display for Edge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{} -> {}", self.program, self.output, self.reader)
    }
}

/// Follows the edges from `name`, depth first: the edge that closes a cycle, and the cycle as a text.
fn closing_edge<'e>(
    edges: &'e [Edge],
    name: &'e str,
    path: &mut Vec<&'e str>,
    finished: &mut BTreeSet<&'e str>,
) -> Option<(&'e Edge, String)> {
    if finished.contains(name) {
        return None;
    }
    path.push(name);
    for edge in edges.iter().filter(|edge| edge.program == name) {
        let reader = edge.reader.as_str();
        if let Some(start) = path.iter().position(|seen| *seen == reader) {
            let cycle = [&path[start..], &[reader]].concat();
            return Some((edge, cycle.join(" -> ")));
        }
        let found = closing_edge(edges, reader, path, finished);
        if found.is_some() {
            return found;
        }
    }
    path.pop();
    finished.insert(name);
    None
}
