use batch::{HeaderValue, header};
use pipeline::quarantine::Quarantined;
use serde::Serialize;

use super::body::Body;
use super::printable::printable;
use crate::output::{Output, Tone, bytes, number, table, time};

/// One message, with what could be read of its body.
#[derive(Debug, Serialize)]
pub struct ShownMessage<'a> {
    #[serde(flatten)]
    message: &'a Quarantined,
    body_bytes: u64,
    body: Body,
}

impl<'a> ShownMessage<'a> {
    /// `rows`: how many rows of a batch to decode for showing.
    pub fn new(message: &'a Quarantined, rows: usize) -> Self {
        Self {
            message,
            body_bytes: message.body.len() as u64,
            body: Body::read(&message.body, rows),
        }
    }

    pub fn to_text(&self, output: Output) -> String {
        let message = self.message;
        let reason = message
            .reason
            .map_or("no known reason".to_owned(), |r| r.to_string());
        let reason = output.paint(Tone::Bad, reason);
        let position = number(message.position);
        let mut text = format!("{}, position {position}: {reason}\n", message.program);
        if let Some(death) = &message.death {
            let death = printable(death.as_bytes());
            text += &format!("The broker itself moved it here: {death}\n");
        }
        text += &format!("\n{}", self.headers(output));
        if !message.history.is_empty() {
            text += &format!("\n{}", self.history(output));
        }
        text + &format!("\n{}", self.body.to_text(&bytes(self.body_bytes)))
    }

    /// Every header as it is, except for a history that can be read, which has a table of its own.
    fn headers(&self, output: Output) -> String {
        let has_history = !self.message.history.is_empty();
        let headers = self.message.headers.iter();
        let headers = headers.filter(|(name, _)| !(has_history && *name == header::HISTORY));
        let rows = headers.map(|(name, value)| {
            let value = match value {
                HeaderValue::Int(int) => int.to_string(),
                HeaderValue::Text(text) => printable(text.as_bytes()),
            };
            let name = output.cell(Tone::Faint, printable(name.as_bytes()));
            [name, value.into()]
        });
        table("header | value", rows)
    }

    fn history(&self, output: Output) -> String {
        let rows = self.message.history.iter().map(|failure| {
            let at = match failure.r#where.as_str() {
                "" => "–".to_owned(),
                at => printable(at.as_bytes()),
            };
            [
                output.cell(Tone::Faint, time(failure.when_ms)),
                printable(failure.who.as_bytes()).into(),
                printable(failure.host.as_bytes()).into(),
                number(failure.times.into()).into(),
                at.into(),
                printable(failure.what.as_bytes()).into(),
            ]
        });
        table("failed last | program | host | >times | at | error", rows)
    }
}
