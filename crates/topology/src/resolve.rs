use std::collections::BTreeSet;

use super::catalog::{Named, TypeEntry};
use super::edge::{self, EdgeText, Source};
use super::error::nearest;
use super::{FlowLine, Problem, ProblemKind, QueueSettings, names};
use pipeline::{Role, RoleKind};

/// One pipeline type: its programs in the order of the flow, and every edge between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topology {
    pub name: String,
    pub about: String,
    pub programs: Vec<Program>,
    pub edges: Vec<Edge>,
    /// The flow as the file has it, to be shown to operators.
    pub flow: Vec<FlowLine>,
    pub(super) file: String,
    pub(super) orphans: Vec<Named<()>>,
}

/// A process name and the role it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub name: String,
    pub role: Role,
    pub queues: QueueSettings,
    /// Line of the file that mentions it first.
    pub line: usize,
}

/// What `program` sends to `output` is copied to the queue of `reader`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    pub program: String,
    pub output: String,
    pub reader: String,
    pub line: usize,
}

impl Topology {
    pub fn program(&self, name: &str) -> Option<&Program> {
        self.programs.iter().find(|program| program.name == name)
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
        programs: Vec::new(),
        edges: Vec::new(),
    };
    resolver.names();
    let lines = resolver.lines();
    resolver.programs(&lines);
    for (line, edge) in &lines {
        resolver.edge(*line, edge);
    }
    resolver.cycle();
    resolver.queues();
    if !resolver.problems.is_empty() {
        resolver.problems.sort_by_key(|problem| problem.line);
        return Err(resolver.problems);
    }
    let placed = |name: &str| resolver.programs.iter().any(|program| program.name == name);
    let orphans = entry.programs.iter().filter(|named| !placed(&named.name));
    Ok(Topology {
        name: entry.name.clone(),
        about: entry.about.clone(),
        flow: entry.flow.clone(),
        file: entry.file.clone(),
        orphans: orphans
            .map(|named| Named {
                name: named.name.clone(),
                line: named.line,
                value: (),
            })
            .collect(),
        programs: resolver.programs,
        edges: resolver.edges,
    })
}

struct Resolver<'a> {
    entry: &'a TypeEntry,
    roles: &'a [Role],
    problems: Vec<Problem>,
    programs: Vec<Program>,
    edges: Vec<Edge>,
}

impl<'a> Resolver<'a> {
    fn refuse(&mut self, line: usize, kind: ProblemKind) {
        self.problems.push(Problem {
            file: self.entry.file.clone(),
            line,
            pipeline: self.entry.name.clone(),
            kind,
        });
    }

    /// The names of the type and of the programs that it declares.
    fn names(&mut self) {
        let entry = self.entry;
        let type_name = [(
            "pipeline type",
            entry.line,
            &entry.name,
            names::refuse_word(&entry.name),
        )];
        let declared = entry.programs.iter().map(|named| {
            (
                "program",
                named.line,
                &named.name,
                names::refuse_program(&named.name),
            )
        });
        for (what, line, name, why) in type_name.into_iter().chain(declared) {
            if let Some(why) = why {
                let name = name.clone();
                self.refuse(line, ProblemKind::BadName { what, name, why });
            }
        }
        for named in &entry.programs {
            if !self.roles.iter().any(|role| role.name == named.value) {
                let known = self.roles.iter().map(|role| role.name);
                let kind = ProblemKind::UnknownRole {
                    program: named.name.clone(),
                    role: named.value.clone(),
                    nearest: nearest(&named.value, known.clone()),
                    known: known.map(str::to_owned).collect(),
                };
                self.refuse(named.line, kind);
            }
        }
    }

    fn lines(&mut self) -> Vec<(usize, EdgeText<'a>)> {
        let entry = self.entry;
        if entry.flow.is_empty() {
            self.refuse(entry.line, ProblemKind::EmptyFlow);
        }
        let mut lines = Vec::new();
        for FlowLine { text, line } in &entry.flow {
            match edge::parse(text) {
                Ok(edge) => lines.push((*line, edge)),
                Err(why) => {
                    let text = text.clone();
                    self.refuse(*line, ProblemKind::EdgeSyntax { text, why });
                }
            }
        }
        lines
    }

    /// Every program that the flow mentions, in the order of its first mention.
    fn programs(&mut self, lines: &[(usize, EdgeText<'a>)]) {
        let mut seen: Vec<&str> = Vec::new();
        for (line, edge) in lines {
            let source = match edge.source {
                Source::Program(name) => Some(name),
                Source::Every => None,
            };
            for name in source.into_iter().chain(edge.readers.iter().copied()) {
                if !seen.contains(&name) {
                    seen.push(name);
                    self.program(*line, name);
                }
            }
        }
    }

    fn program(&mut self, line: usize, name: &str) {
        let declared = self.entry.programs.iter().find(|named| named.name == name);
        let role_name = declared.map_or(name, |named| named.value.as_str());
        match self.roles.iter().find(|role| role.name == role_name) {
            Some(role) => {
                let queues = self.entry.queues.iter().find(|named| named.name == name);
                self.programs.push(Program {
                    name: name.to_owned(),
                    role: *role,
                    queues: queues.map(|named| named.value.clone()).unwrap_or_default(),
                    line,
                });
            }
            // An unknown role of a declared program is refused where it is declared.
            None if declared.is_some() => {}
            None => {
                let declared = self.entry.programs.iter().map(|named| named.name.as_str());
                let kind = ProblemKind::UnknownProgram {
                    name: name.to_owned(),
                    pipeline: self.entry.name.clone(),
                    nearest: nearest(
                        name,
                        self.roles.iter().map(|role| role.name).chain(declared),
                    ),
                };
                self.refuse(line, kind);
            }
        }
    }

    /// Adds the edges of one line: one for each program that sends and each that reads.
    fn edge(&mut self, line: usize, edge: &EdgeText<'a>) {
        let known = |name: &str| {
            self.programs
                .iter()
                .find(|program| program.name == name)
                .cloned()
        };
        let senders: Vec<Program> = match edge.source {
            Source::Program(name) => known(name).into_iter().collect(),
            Source::Every => {
                let having = |program: &&Program| program.role.outputs.contains(&edge.output);
                self.programs.iter().filter(having).cloned().collect()
            }
        };
        let readers: Vec<Program> = edge.readers.iter().filter_map(|name| known(name)).collect();
        if senders.is_empty() && edge.source == Source::Every {
            let outputs = self
                .programs
                .iter()
                .flat_map(|program| program.role.outputs);
            let kind = ProblemKind::EmptyWildcard {
                output: edge.output.to_owned(),
                nearest: nearest(edge.output, outputs.copied()),
            };
            self.refuse(line, kind);
        }
        for sender in &senders {
            if !sender.role.outputs.contains(&edge.output) {
                self.refuse(line, unknown_output(sender, edge.output));
            }
        }
        for reader in readers {
            if reader.role.kind == RoleKind::Producer {
                let program = reader.name;
                self.refuse(line, ProblemKind::ReadsNothing { program });
                continue;
            }
            for sender in &senders {
                self.add(line, &sender.name, edge.output, &reader.name);
            }
        }
    }

    fn add(&mut self, line: usize, program: &str, output: &str, reader: &str) {
        let same = |edge: &&Edge| {
            (&*edge.program, &*edge.output, &*edge.reader) == (program, output, reader)
        };
        let (program, output, reader) = (program.to_owned(), output.to_owned(), reader.to_owned());
        match self.edges.iter().find(same).map(|edge| edge.line) {
            Some(first) => {
                let kind = ProblemKind::DuplicateEdge {
                    program,
                    output,
                    reader,
                    first,
                };
                self.refuse(line, kind);
            }
            None => self.edges.push(Edge {
                program,
                output,
                reader,
                line,
            }),
        }
    }

    /// Refuses the first cycle of the edges.
    fn cycle(&mut self) {
        let mut finished = BTreeSet::new();
        let names: Vec<String> = self
            .programs
            .iter()
            .map(|program| program.name.clone())
            .collect();
        for name in names {
            if let Some((line, path)) = walk(&self.edges, &name, &mut Vec::new(), &mut finished) {
                return self.refuse(line, ProblemKind::Cycle { path });
            }
        }
    }

    fn queues(&mut self) {
        let entry = self.entry;
        for Named { name, line, value } in &entry.queues {
            let program = self.programs.iter().find(|program| program.name == *name);
            let refused = match program {
                Some(program) => value.refuse(name, program.role.kind),
                None => Some(ProblemKind::QueuesOfNoProgram {
                    program: name.clone(),
                    nearest: nearest(
                        name,
                        self.programs.iter().map(|program| program.name.as_str()),
                    ),
                }),
            };
            if let Some(kind) = refused {
                self.refuse(*line, kind);
            }
        }
    }
}

fn unknown_output(program: &Program, output: &str) -> ProblemKind {
    let known = program.role.outputs;
    ProblemKind::UnknownOutput {
        program: program.name.clone(),
        output: output.to_owned(),
        nearest: nearest(output, known.iter().copied()),
        known: known.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// Follows the edges from `name`, depth first. Returns the line of the edge that closes a cycle, and the cycle.
fn walk<'e>(
    edges: &'e [Edge],
    name: &'e str,
    path: &mut Vec<&'e str>,
    finished: &mut BTreeSet<String>,
) -> Option<(usize, Vec<String>)> {
    if finished.contains(name) {
        return None;
    }
    path.push(name);
    for edge in edges.iter().filter(|edge| edge.program == name) {
        if let Some(start) = path.iter().position(|seen| *seen == edge.reader) {
            let cycle = path[start..].iter().copied().chain([edge.reader.as_str()]);
            return Some((edge.line, cycle.map(str::to_owned).collect()));
        }
        if let Some(found) = walk(edges, &edge.reader, path, finished) {
            return Some(found);
        }
    }
    path.pop();
    finished.insert(name.to_owned());
    None
}
