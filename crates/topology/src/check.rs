use super::{Problem, ProblemKind, Topology};
use pipeline::RoleKind;

impl Topology {
    /// What is missing: outputs without a reader, programs without an input, programs that are
    /// declared but not in the flow. Empty when the type is complete.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |line, kind| {
            problems.push(Problem {
                file: self.file.clone(),
                line,
                pipeline: self.name.clone(),
                kind,
            });
        };
        for program in &self.programs {
            for &output in program.role.outputs {
                let optional = program.role.optional.contains(&output);
                if !optional && self.readers(&program.name, output).next().is_none() {
                    refuse(
                        program.line,
                        ProblemKind::Unread {
                            program: program.name.clone(),
                            output: output.to_owned(),
                        },
                    );
                }
            }
            let needs_input = matches!(program.role.kind, RoleKind::Worker | RoleKind::Stream);
            if needs_input && !self.has_input(&program.name) {
                refuse(
                    program.line,
                    ProblemKind::NoInput {
                        program: program.name.clone(),
                    },
                );
            }
        }
        for orphan in &self.orphans {
            refuse(
                orphan.line,
                ProblemKind::Orphan {
                    program: orphan.name.clone(),
                    pipeline: self.name.clone(),
                },
            );
        }
        problems
    }
}
