use super::{Problem, ProblemKind, Topology};
use crate::RoleKind;

impl Topology {
    /// What is missing: outputs that nobody reads, programs that nothing is sent to, programs that are
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
            let must_be_fed = matches!(program.role.kind, RoleKind::Worker | RoleKind::Stream);
            if must_be_fed && !self.is_fed(&program.name) {
                let program_name = program.name.clone();
                refuse(
                    program.line,
                    ProblemKind::Unfed {
                        program: program_name,
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
