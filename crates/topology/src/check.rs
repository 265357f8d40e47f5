use super::{Problem, Topology};
use pipeline::RoleKind;

impl Topology {
    /// What is missing: outputs without a reader, programs without an input, programs that are
    /// declared but not in the flow. Empty when the type is complete.
    pub fn check(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |line, message| {
            problems.push(Problem {
                file: self.file.clone(),
                line,
                pipeline: self.name.clone(),
                message,
            });
        };
        for program in &self.programs {
            let (name, role, line) = (&program.name, program.role, program.line);
            for output in role.outputs {
                let needed = !role.optional.contains(output);
                if needed && self.readers(name, output).next().is_none() {
                    refuse(
                        line,
                        format!(
                            "no program reads {name}.{output}: add an edge \"{name}.{output} -> READER\", \
                             or its messages cannot be sent"
                        ),
                    );
                }
            }
            let reads = matches!(role.kind, RoleKind::Worker | RoleKind::Stream);
            if reads && !self.has_input(name) {
                let message =
                    format!("nothing is sent to {name}: add it to the readers of an edge");
                refuse(line, message);
            }
        }
        for declared in &self.declared {
            let (name, pipeline) = (&declared.name, &self.name);
            if self.program(name).is_none() {
                let message = format!(
                    "program {name:?} is named in [{pipeline}.programs] but is in no edge of the flow"
                );
                refuse(declared.line, message);
            }
        }
        problems
    }
}
