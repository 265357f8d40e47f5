use std::collections::BTreeMap;

use pipeline::quarantine::{Inspection, Quarantined};
use serde::Serialize;

use super::printable::{cut, printable};
use crate::output::{Output, Tone, bytes, number, table, time};

/// Characters of an error in a line of its message.
const ERROR_SHOWN: usize = 60;
/// In place of what is not known.
const UNKNOWN: &str = "–";

/// What the list keeps of a message: all but its body.
#[derive(Debug, Serialize)]
pub struct Entry {
    #[serde(flatten)]
    message: Quarantined,
    body_bytes: u64,
}

impl Entry {
    pub fn of(mut message: Quarantined) -> Self {
        let body = std::mem::take(&mut message.body);
        Self {
            body_bytes: body.len() as u64,
            message,
        }
    }
}

/// Messages of one program that are there for one reason and of one run.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Group {
    program: String,
    reason: Option<batch::Reason>,
    run: Option<batch::RunId>,
    messages: u64,
    /// Of the messages that say how many they have.
    rows: Option<u64>,
    first_failed_ms: Option<i64>,
    last_failed_ms: Option<i64>,
}

impl Group {
    fn add(&mut self, entry: &Entry) {
        let message = &entry.message;
        self.messages += 1;
        if let Some(rows) = message.rows {
            self.rows = Some(self.rows.unwrap_or(0) + u64::from(rows));
        }
        let first = message.first_failed_ms();
        self.first_failed_ms = self.first_failed_ms.into_iter().chain(first).min();
        self.last_failed_ms = self.last_failed_ms.max(message.last_failed_ms());
    }
}

/// How far the look into one quarantine went.
#[derive(Debug, Serialize)]
struct Looked {
    program: String,
    /// Messages looked at, the oldest first.
    seen: u64,
    /// Messages there were to look at.
    ready: u64,
}

/// The answer in JSON.
#[derive(Debug, Serialize)]
pub struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<Vec<Group>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    messages: Option<&'a [Entry]>,
    looked: &'a [Looked],
}

/// What was found in the quarantines.
pub struct Listing {
    each: bool,
    entries: Vec<Entry>,
    looked: Vec<Looked>,
}

impl Listing {
    /// `each`: message by message, in place of their sums.
    pub fn new(each: bool) -> Self {
        Self {
            each,
            entries: Vec::new(),
            looked: Vec::new(),
        }
    }

    pub fn add(&mut self, program: String, inspection: Inspection<Entry>) {
        self.entries.extend(inspection.kept);
        self.looked.push(Looked {
            program,
            seen: inspection.seen,
            ready: inspection.ready,
        });
    }

    pub fn to_json(&self) -> Answer<'_> {
        Answer {
            groups: (!self.each).then(|| self.groups()),
            messages: self.each.then_some(&self.entries),
            looked: &self.looked,
        }
    }

    pub fn to_text(&self, output: Output) -> String {
        let mut text = match (self.entries.is_empty(), self.each) {
            (true, _) => self.nothing(),
            (false, true) => self.messages(output),
            (false, false) => self.sums(output),
        };
        for Looked {
            program,
            seen,
            ready,
        } in &self.looked
        {
            if seen < ready {
                let (seen, ready) = (number(*seen), number(*ready));
                text += &format!(
                    "Of {program} the first {seen} messages of {ready} were looked at; --limit sets how many.\n"
                );
            }
        }
        text
    }

    fn nothing(&self) -> String {
        match self.looked.iter().map(|looked| looked.seen).sum() {
            0 => "Nothing is in quarantine.\n".to_owned(),
            seen => format!(
                "None of the {} messages in quarantine matches.\n",
                number(seen)
            ),
        }
    }

    fn groups(&self) -> Vec<Group> {
        let mut groups = BTreeMap::new();
        for entry in &self.entries {
            let Quarantined {
                program,
                reason,
                run,
                ..
            } = &entry.message;
            let group = groups
                .entry((program, reason, run))
                .or_insert_with(|| Group {
                    program: program.clone(),
                    reason: *reason,
                    run: run.clone(),
                    messages: 0,
                    rows: None,
                    first_failed_ms: None,
                    last_failed_ms: None,
                });
            group.add(entry);
        }
        groups.into_values().collect()
    }

    fn sums(&self, output: Output) -> String {
        let headers = [
            "program",
            "reason",
            "run",
            "messages",
            "rows",
            "first failure",
            "last failure",
        ];
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
        table(&headers, &[3, 4], rows)
    }

    fn messages(&self, output: Output) -> String {
        let headers = [
            "program",
            "position",
            "reason",
            "run",
            "task or batch",
            "rows",
            "bytes",
            "last failure",
            "error",
        ];
        let rows = self.entries.iter().map(|entry| {
            let message = &entry.message;
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
                bytes(entry.body_bytes).into(),
                output.cell(Tone::Faint, or_unknown(message.last_failed_ms().map(time))),
                or_unknown(error).into(),
            ]
        });
        table(&headers, &[1, 5, 6], rows)
    }
}

fn or_unknown(value: Option<impl ToString>) -> String {
    value.map_or_else(|| UNKNOWN.to_owned(), |value| value.to_string())
}
