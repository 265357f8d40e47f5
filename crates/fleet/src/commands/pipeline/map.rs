use comfy_table::Cell;
use pipeline::{Role, RoleKind};
use serde_json::{Value, json};
use topology::management::QueueFigures;
use topology::{Problem, ProgramSpec, QueueClass, Topology, TopologyError, dot, mermaid};

use super::{Format, Pipelines, ROLES, UNKNOWN, count, not_configured};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Tone, number, table};

pub async fn show(pipelines: &Pipelines<'_>, context: &Context) -> anyhow::Result<Exit> {
    let management = pipelines.management()?;
    let Some(topology) = pipelines.selected().await? else {
        return not_configured(context, management.vhost());
    };
    let live = LivePipeline {
        vhost: management.vhost().to_owned(),
        configured: management.configured().await?,
        figures: management.figures().await?,
    };
    let mut map = structure(&topology);
    map["virtual_host"] = json!(live.vhost);
    map["configured"] = json!(live.configured);
    map["queues"] = json!(live.figures);
    let text = live.text(&topology, context.output);
    context.output.answer(&map, text)?;
    Ok(Exit::differs_if(
        live.configured.as_deref() != Some(topology.name.as_str()),
    ))
}

/// What a virtual host has.
struct LivePipeline {
    vhost: String,
    configured: Option<String>,
    figures: Vec<QueueFigures>,
}

impl LivePipeline {
    fn text(&self, topology: &Topology, output: Output) -> String {
        let (vhost, name) = (&self.vhost, &topology.name);
        let configured = match self.configured.as_deref() {
            Some(pipeline) if pipeline == name => format!("Configured in virtual host {vhost:?}."),
            other => {
                let has = other.map_or("no pipeline".to_owned(), |o| format!("pipeline {o}"));
                let line = format!(
                    "Not configured: virtual host {vhost:?} has {has}. fleet pipeline configure --type {name}"
                );
                output.paint(Tone::Warning, line)
            }
        };
        let rows = topology.programs.iter();
        let rows = rows.map(|program| self.row(topology, program, output));
        let rows = table(
            "program | sends | >waiting | >in flight | >delayed | >quarantined | >consumers",
            rows,
        );
        let mut text = format!("{name}: {}\n{configured}\n\n{rows}", topology.about);
        let others: Vec<String> = (self.figures.iter())
            .filter(|figures| topology.program(&figures.program).is_none())
            .map(|queue| format!("{} ({})", queue.queue, count(queue.held())))
            .collect();
        if !others.is_empty() {
            let others = others.join(", ");
            text += &format!("\nOf programs that are not in {name}: {others}\n");
        }
        text
    }

    fn row(&self, topology: &Topology, program: &ProgramSpec, output: Output) -> [Cell; 7] {
        let sends = program.role.outputs.iter().filter_map(|&name| {
            let readers: Vec<&str> = topology.readers(&program.name, name).collect();
            (!readers.is_empty()).then(|| format!("{name} → {}", readers.join(", ")))
        });
        let sends: Vec<String> = sends.collect();
        let queues = || self.figures.iter().filter(|f| f.program == program.name);
        let main = queues().find(|f| matches!(f.class, QueueClass::Input | QueueClass::Stream));
        // Shows whether a program that reads no queue is at work.
        let lease = queues().find(|figures| figures.class == QueueClass::Lease);
        let none = || output.cell(Tone::Faint, "–");
        // Nothing where there is no such queue.
        let plain = |n: Option<Option<u64>>| match n {
            None => none(),
            Some(None) => output.cell(Tone::Warning, UNKNOWN),
            Some(Some(n)) => number(n).into(),
        };
        let is_worker = match program.role.kind {
            RoleKind::Worker => true,
            RoleKind::Controller => topology.has_input(&program.name),
            RoleKind::Producer | RoleKind::Stream => false,
        };
        let held = |class: fn(QueueClass) -> bool, tone| {
            let held = queues().filter(|figures| class(figures.class));
            match held.map(QueueFigures::held).sum::<Option<u64>>() {
                _ if !is_worker => none(),
                None => output.cell(Tone::Warning, UNKNOWN),
                Some(0) => output.cell(Tone::Faint, "0"),
                Some(n) => output.cell(tone, number(n)),
            }
        };
        [
            title(program).into(),
            sends.join("\n").into(),
            plain(main.map(|figures| figures.ready)),
            plain(main.filter(|_| is_worker).map(|figures| figures.unacked)),
            held(|class| matches!(class, QueueClass::Delay(_)), Tone::Warning),
            held(|class| class == QueueClass::Quarantine, Tone::Bad),
            plain(main.or(lease).map(|figures| figures.consumers)),
        ]
    }
}

fn title(program: &ProgramSpec) -> String {
    if program.name == program.role.name {
        return program.name.clone();
    }
    format!("{} ({})", program.name, program.role.name)
}

pub async fn graph(
    pipelines: &Pipelines<'_>,
    format: Format,
    context: &Context,
) -> anyhow::Result<Exit> {
    let Some(topology) = pipelines.selected().await? else {
        return not_configured(context, pipelines.management()?.vhost());
    };
    let text = match format {
        Format::Dot => dot(&topology),
        Format::Mermaid => mermaid(&topology),
    };
    context.output.answer(&structure(&topology), text)?;
    Ok(Exit::Ok)
}

/// A type as JSON: its programs in the order of the flow, and its edges.
fn structure(topology: &Topology) -> Value {
    let kind = |role: Role| match role.kind {
        RoleKind::Worker => "worker",
        RoleKind::Producer => "producer",
        RoleKind::Controller => "controller",
        RoleKind::Stream => "stream",
    };
    let programs = topology.programs.iter().map(|program| {
        let role = program.role;
        json!({ "name": program.name, "role": role.name, "kind": kind(role), "outputs": role.outputs })
    });
    let edges = topology.edges.iter().map(
        |edge| json!({ "program": edge.program, "output": edge.output, "reader": edge.reader }),
    );
    json!({
        "type": topology.name,
        "about": topology.about,
        "programs": programs.collect::<Vec<_>>(),
        "edges": edges.collect::<Vec<_>>(),
    })
}

pub fn test(pipelines: &Pipelines<'_>, context: &Context) -> anyhow::Result<Exit> {
    let catalog = pipelines.catalog()?;
    let types = match &pipelines.selected {
        Some(pipeline) => vec![pipeline.as_str()],
        None => catalog.types().iter().map(|t| t.name.as_str()).collect(),
    };
    let mut answers = Vec::new();
    let mut text = String::new();
    let mut all_ok = true;
    for pipeline in types {
        let problems = match catalog.topology(pipeline, &ROLES) {
            Ok(topology) => {
                let problems = topology.check();
                if problems.is_empty() {
                    let (programs, edges) = (topology.programs.len(), topology.edges.len());
                    text +=
                        &format!("{pipeline} is complete: {programs} programs, {edges} edges\n");
                }
                problems
            }
            Err(TopologyError::Invalid(problems)) => problems,
            Err(error) => return Err(error.into()),
        };
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        for problem in &problems {
            text += &format!("{}\n", context.output.paint(Tone::Bad, problem));
        }
        let ok = problems.is_empty();
        all_ok &= ok;
        answers.push(json!({ "type": pipeline, "ok": ok, "problems": problems }));
    }
    let answer = json!({ "ok": all_ok, "types": answers });
    context.output.answer(&answer, text)?;
    Ok(if all_ok {
        Exit::Ok
    } else {
        Exit::Configuration
    })
}
