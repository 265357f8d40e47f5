use std::collections::BTreeMap;

use pipeline::quarantine::{Inspection, Quarantined};
use serde::Serialize;

use super::printable::{cut, printable};
use crate::output::{Output, Tone, bytes, number, table, time};

/// Characters of an error in a line of its message.
const ERROR_SHOWN: usize = 60;

/// A message without its body.
#[derive(Debug, Serialize)]
pub struct ListedMessage {
    #[serde(flatten)]
    message: Quarantined,
    body_bytes: u64,
}

impl ListedMessage {
    pub fn new(mut message: Quarantined) -> Self {
        let body_bytes = std::mem::take(&mut message.body).len() as u64;
        Self {
            message,
            body_bytes,
        }
    }
}

/// Messages of one program, reason and run.
#[derive(Debug, Default, Serialize)]
struct QuarantineGroup {
    program: String,
    reason: Option<batch::Reason>,
    run: Option<batch::RunId>,
    messages: u64,
    /// Of the messages whose header has a number of rows.
    rows: Option<u64>,
    first_failed_ms: Option<i64>,
    last_failed_ms: Option<i64>,
}

impl QuarantineGroup {
    fn add(&mut self, message: &Quarantined) {
        self.messages += 1;
        if let Some(rows) = message.rows {
            self.rows = Some(self.rows.unwrap_or(0) + u64::from(rows));
        }
        let first = message.first_failed_ms();
        self.first_failed_ms = self.first_failed_ms.into_iter().chain(first).min();
        self.last_failed_ms = self.last_failed_ms.max(message.last_failed_ms());
    }
}

#[derive(Debug, Serialize)]
struct InspectedProgram {
    program: String,
    /// Messages inspected, the oldest first.
    seen: u64,
    /// Messages that were in the queue.
    ready: u64,
}

/// The answer in JSON.
#[derive(Debug, Serialize)]
pub struct ListAnswer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<QuarantineGroup>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [ListedMessage]>,
    inspected: &'a [InspectedProgram],
}

/// What was found in the quarantines.
pub struct Listing {
    /// Message by message instead of groups.
    each: bool,
    messages: Vec<ListedMessage>,
    inspected: Vec<InspectedProgram>,
}

impl Listing {
    pub fn new(each: bool) -> Self {
        Self {
            each,
            messages: Vec::new(),
            inspected: Vec::new(),
        }
    }

    pub fn add(&mut self, program: String, inspection: Inspection<ListedMessage>) {
        self.messages.extend(inspection.kept);
        self.inspected.push(InspectedProgram {
            program,
            seen: inspection.seen,
            ready: inspection.ready,
        });
    }

    pub fn to_json(&self) -> ListAnswer<'_> {
        ListAnswer {
            groups: (!self.each).then(|| self.groups()),
            messages: self.each.then_some(&self.messages),
            inspected: &self.inspected,
        }
    }

    pub fn to_text(&self, output: Output) -> String {
        let mut text = if self.messages.is_empty() {
            match self.inspected.iter().map(|program| program.seen).sum() {
                0 => "Nothing is in quarantine.\n".to_owned(),
                seen => {
                    let seen = number(seen);
                    format!("None of the {seen} messages in quarantine matches.\n")
                }
            }
        } else if self.each {
            self.message_table(output)
        } else {
            self.group_table(output)
        };
        for program in self.inspected.iter().filter(|p| p.seen < p.ready) {
            let (seen, ready) = (number(program.seen), number(program.ready));
            text += &format!(
                "Of {} the first {seen} messages of {ready} were inspected; --limit sets how many.\n",
                program.program
            );
        }
        text
    }

    fn groups(&self) -> Vec<QuarantineGroup> {
        let mut groups = BTreeMap::new();
        for ListedMessage { message, .. } in &self.messages {
            let key = (&message.program, message.reason, &message.run);
            let group = groups.entry(key).or_insert_with(|| QuarantineGroup {
                program: message.program.clone(),
                reason: message.reason,
                run: message.run.clone(),
                ..QuarantineGroup::default()
            });
            group.add(message);
        }
        groups.into_values().collect()
    }

    fn group_table(&self, output: Output) -> String {
        let rows = self.groups().into_iter().map(|group| {
            [
                group.program.into(),
                output.cell(Tone::Bad, or_unknown(group.reason)),
                or_unknown(group.run).into(),
                number(group.messages).into(),
                or_unknown(group.rows.map(number)).into(),
                output.cell(Tone::Faint, or_unknown(group.first_failed_ms.map(time))),
                output.cell(Tone::Faint, or_unknown(group.last_failed_ms.map(time))),
            ]
        });
        table(
            "program | reason | run | >messages | >rows | first failure | last failure",
            rows,
        )
    }

    fn message_table(&self, output: Output) -> String {
        let rows = self.messages.iter().map(
            |ListedMessage {
                 message,
                 body_bytes,
             }| {
                let identity = message.batch.map(|batch| batch.to_string());
                let identity = identity.or_else(|| Some(message.task?.to_string()));
                let error = message.history.last();
                let error = error.map(|last| cut(&printable(last.what.as_bytes()), ERROR_SHOWN));
                [
                    printable(message.program.as_bytes()).into(),
                    number(message.position).into(),
                    output.cell(Tone::Bad, or_unknown(message.reason)),
                    or_unknown(message.run.as_ref()).into(),
                    or_unknown(identity).into(),
                    or_unknown(message.rows.map(|rows| number(rows.into()))).into(),
                    bytes(*body_bytes).into(),
                    output.cell(Tone::Faint, or_unknown(message.last_failed_ms().map(time))),
                    or_unknown(error).into(),
                ]
            },
        );
        table(
            "program | >position | reason | run | task or batch | >rows | >bytes | last failure | error",
            rows,
        )
    }
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| value.to_string())
}
