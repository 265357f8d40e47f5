use std::fmt::Write;

use super::{ProgramSpec, Topology};
use pipeline::RoleKind;

/// The type as a Graphviz graph: `fleet pipeline graph --type direct | dot -Tsvg`.
pub fn dot(topology: &Topology) -> String {
    let mut text = format!("digraph \"{}\" {{\n", topology.name);
    text.push_str("  rankdir=LR;\n  node [fontname=\"sans-serif\"];\n  edge [fontname=\"sans-serif\", fontsize=10];\n");
    for program in &topology.programs {
        let shape = match program.role.kind {
            RoleKind::Producer => "invhouse",
            RoleKind::Worker => "box",
            RoleKind::Controller => "hexagon",
            RoleKind::Stream => "cylinder",
        };
        let (name, label) = (&program.name, title(program, "\\n"));
        let _ = writeln!(text, "  \"{name}\" [shape={shape}, label=\"{label}\"];");
    }
    for edge in &topology.edges {
        let (from, to, output) = (&edge.program, &edge.reader, &edge.output);
        let _ = writeln!(text, "  \"{from}\" -> \"{to}\" [label=\"{output}\"];");
    }
    text.push_str("}\n");
    text
}

/// The type as a Mermaid flowchart, which many Markdown viewers draw.
pub fn mermaid(topology: &Topology) -> String {
    let mut text = String::from("flowchart LR\n");
    for program in &topology.programs {
        let label = title(program, "<br>");
        let (open, close) = match program.role.kind {
            RoleKind::Producer => ("([\"", "\"])"),
            RoleKind::Worker => ("[\"", "\"]"),
            RoleKind::Controller => ("{{\"", "\"}}"),
            RoleKind::Stream => ("[(\"", "\")]"),
        };
        let _ = writeln!(text, "  {}{open}{label}{close}", program.name);
    }
    for edge in &topology.edges {
        let (from, to, output) = (&edge.program, &edge.reader, &edge.output);
        let _ = writeln!(text, "  {from} -- {output} --> {to}");
    }
    text
}

fn title(program: &ProgramSpec, line_break: &str) -> String {
    let (name, role) = (&program.name, program.role.name);
    if name == role {
        name.clone()
    } else {
        format!("{name}{line_break}({role})")
    }
}
