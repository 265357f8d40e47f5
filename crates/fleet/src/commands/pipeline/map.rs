use std::fmt::Write;

use pipeline::{Role, RoleKind};
use serde_json::{Value, json};
use topology::management::QueueFigures;
use topology::{Problem, ProgramSpec, QueueClass, Topology, TopologyError, dot, mermaid};

use super::{Choice, Format, Pipelines, ROLES, not_configured};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{Output, Tone, number, table};

pub async fn show(
    pipelines: &Pipelines<'_>,
    choice: Choice,
    context: &Context,
) -> anyhow::Result<Exit> {
    let management = pipelines.management()?;
    let Some(topology) = pipelines.chosen(choice).await? else {
        return not_configured(context, management.vhost());
    };
    let live = Live {
        vhost: management.vhost().to_owned(),
        configured: management.configured().await?,
        figures: management.figures().await?,
    };
    match context.output.is_json() {
        true => context.output.json(&live.json(&topology))?,
        false => context.output.text(&live.text(&topology, context.output))?,
    }
    Ok(match live.configured.as_deref() {
        Some(pipeline) if pipeline == topology.name => Exit::Ok,
        _ => Exit::Differs,
    })
}

/// What the broker says about a virtual host.
struct Live {
    vhost: String,
    configured: Option<String>,
    figures: Vec<QueueFigures>,
}

impl Live {
    fn of<'a>(&'a self, program: &'a str) -> impl Iterator<Item = &'a QueueFigures> {
        let mut figures = self.figures.iter();
        std::iter::from_fn(move || figures.find(|figures| figures.program == program))
    }

    fn json(&self, topology: &Topology) -> Value {
        let mut map = structure(topology);
        map["virtual_host"] = json!(self.vhost);
        map["configured"] = json!(self.configured);
        map["queues"] = json!(self.figures);
        map
    }

    fn text(&self, topology: &Topology, output: Output) -> String {
        let mut text = format!("{}: {}\n", topology.name, topology.about);
        let vhost = &self.vhost;
        let _ = match self.configured.as_deref() {
            Some(pipeline) if pipeline == topology.name => {
                writeln!(text, "Configured in virtual host {vhost:?}.")
            }
            other => {
                let has = other.map_or("no pipeline".to_owned(), |other| {
                    format!("pipeline {other}")
                });
                let line = format!(
                    "Not configured: virtual host {vhost:?} has {has}. fleet pipeline configure --type {}",
                    topology.name
                );
                writeln!(text, "{}", output.paint(Tone::Warning, line))
            }
        };
        let headers = [
            "program",
            "sends",
            "waiting",
            "in work",
            "delayed",
            "quarantined",
            "consumers",
        ];
        let rows = topology
            .programs
            .iter()
            .map(|program| self.row(topology, program, output));
        text += "\n";
        text += &table(&headers, &[2, 3, 4, 5, 6], rows);
        let others = self.figures.iter();
        let others: Vec<String> = others
            .filter(|figures| topology.program(&figures.program).is_none())
            .map(|figures| {
                format!(
                    "{} ({})",
                    figures.queue,
                    number(figures.ready + figures.unacked)
                )
            })
            .collect();
        if !others.is_empty() {
            let _ = writeln!(
                text,
                "\nOf programs that are not in {}: {}",
                topology.name,
                others.join(", ")
            );
        }
        text
    }

    fn row(
        &self,
        topology: &Topology,
        program: &ProgramSpec,
        output: Output,
    ) -> Vec<comfy_table::Cell> {
        let sends = program.role.outputs.iter().filter_map(|&name| {
            let readers: Vec<&str> = topology.readers(&program.name, name).collect();
            (!readers.is_empty()).then(|| format!("{name} → {}", readers.join(", ")))
        });
        let sends: Vec<String> = sends.collect();
        let main = self
            .of(&program.name)
            .find(|figures| matches!(figures.class, QueueClass::Input | QueueClass::Stream));
        // Of a program that reads no queue, whether it is at work.
        let lease = self
            .of(&program.name)
            .find(|figures| figures.class == QueueClass::Lease);
        let sum = |wanted: fn(QueueClass) -> bool| {
            let queues = self
                .of(&program.name)
                .filter(|figures| wanted(figures.class));
            queues
                .map(|figures| figures.ready + figures.unacked)
                .sum::<u64>()
        };
        let quarantined = sum(|class| class == QueueClass::Quarantine);
        let tone = |n: u64, tone| match n {
            0 => output.cell(Tone::Faint, "0"),
            n => output.cell(tone, number(n)),
        };
        let none = || output.cell(Tone::Faint, "–");
        let plain = |n: Option<u64>| n.map_or_else(none, |n| number(n).into());
        let worker = match program.role.kind {
            RoleKind::Worker => true,
            RoleKind::Controller => topology.has_input(&program.name),
            RoleKind::Producer | RoleKind::Stream => false,
        };
        vec![
            title(program).into(),
            sends.join("\n").into(),
            plain(main.map(|figures| figures.ready)),
            plain(main.filter(|_| worker).map(|figures| figures.unacked)),
            match worker {
                true => tone(
                    sum(|class| matches!(class, QueueClass::Delay(_))),
                    Tone::Warning,
                ),
                false => none(),
            },
            match worker {
                true => tone(quarantined, Tone::Bad),
                false => none(),
            },
            plain(main.or(lease).map(|figures| figures.consumers)),
        ]
    }
}

fn title(program: &ProgramSpec) -> String {
    match program.name == program.role.name {
        true => program.name.clone(),
        false => format!("{} ({})", program.name, program.role.name),
    }
}

pub async fn graph(
    pipelines: &Pipelines<'_>,
    choice: Choice,
    format: Format,
    context: &Context,
) -> anyhow::Result<Exit> {
    let Some(topology) = pipelines.chosen(choice).await? else {
        return not_configured(context, pipelines.management()?.vhost());
    };
    match format {
        _ if context.output.is_json() => context.output.json(&structure(&topology))?,
        Format::Dot => context.output.text(&dot(&topology))?,
        Format::Mermaid => context.output.text(&mermaid(&topology))?,
    }
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

pub fn test(pipelines: &Pipelines<'_>, choice: Choice, context: &Context) -> anyhow::Result<Exit> {
    let catalog = pipelines.catalog()?;
    let types = match choice.pipeline {
        Some(pipeline) => vec![pipeline],
        None => catalog
            .types()
            .iter()
            .map(|entry| entry.name.clone())
            .collect(),
    };
    let mut answers = Vec::new();
    let mut text = String::new();
    for pipeline in types {
        let topology = match catalog.topology(&pipeline, &ROLES) {
            Ok(topology) => Ok((topology.check(), Some(topology))),
            Err(TopologyError::Invalid(problems)) => Ok((problems, None)),
            Err(error) => Err(error),
        };
        let (problems, topology) = topology?;
        for problem in &problems {
            let _ = writeln!(
                text,
                "{}",
                context.output.paint(Tone::Bad, problem.to_string())
            );
        }
        if let (Some(topology), true) = (topology, problems.is_empty()) {
            let (programs, edges) = (topology.programs.len(), topology.edges.len());
            let _ = writeln!(
                text,
                "{pipeline} is complete: {programs} programs, {edges} edges"
            );
        }
        let problems: Vec<String> = problems.iter().map(Problem::to_string).collect();
        answers.push(json!({ "type": pipeline, "ok": problems.is_empty(), "problems": problems }));
    }
    let ok = answers.iter().all(|answer| answer["ok"] == json!(true));
    match context.output.is_json() {
        true => context
            .output
            .json(&json!({ "ok": ok, "types": answers }))?,
        false => context.output.text(&text)?,
    }
    Ok(match ok {
        true => Exit::Ok,
        false => Exit::Configuration,
    })
}
