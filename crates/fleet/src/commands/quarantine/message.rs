use batch::{HeaderValue, header};
use pipeline::quarantine::Quarantined;
use serde::Serialize;

use super::body::Body;
use super::printable::printable;
use crate::output::{Output, Tone, bytes, number, table, time};

/// One message, with what could be read of its body.
#[derive(Debug, Serialize)]
pub struct Shown<'a> {
    #[serde(flatten)]
    message: &'a Quarantined,
    body_bytes: u64,
    body: Body,
}

impl<'a> Shown<'a> {
    /// `rows`: how many rows of a batch to decode for showing.
    pub fn of(message: &'a Quarantined, rows: usize) -> Self {
        Self {
            message,
            body_bytes: message.body.len() as u64,
            body: Body::read(&message.body, rows),
        }
    }

    pub fn to_text(&self, output: Output) -> String {
        let Quarantined {
            program,
            position,
            reason,
            death,
            ..
        } = self.message;
        let reason = reason.map_or("no known reason".to_owned(), |reason| reason.to_string());
        let reason = output.paint(Tone::Bad, reason);
        let mut text = format!("{program}, position {}: {reason}\n", number(*position));
        if let Some(death) = death {
            let death = printable(death.as_bytes());
            text += &format!("The broker itself moved it here: {death}\n");
        }
        text += &format!("\n{}", self.headers(output));
        if !self.message.history.is_empty() {
            text += &format!("\n{}", self.history(output));
        }
        text += &format!("\n{}", self.body.to_text(&bytes(self.body_bytes)));
        text
    }

    /// Every header as it is but the history, which has a table of its own when it can be read.
    fn headers(&self, output: Output) -> String {
        let readable = !self.message.history.is_empty();
        let headers = self.message.headers.iter();
        let rows = headers
            .filter(|(name, _)| !(readable && *name == header::HISTORY))
            .map(|(name, value)| {
                let value = match value {
                    HeaderValue::Int(int) => int.to_string(),
                    HeaderValue::Text(text) => printable(text.as_bytes()),
                };
                [
                    output.cell(Tone::Faint, printable(name.as_bytes())),
                    value.into(),
                ]
            });
        table(&["header", "value"], &[], rows)
    }

    fn history(&self, output: Output) -> String {
        let rows = self.message.history.iter().map(|failure| {
            let place = match failure.r#where.as_str() {
                "" => "–".to_owned(),
                place => printable(place.as_bytes()),
            };
            [
                output.cell(Tone::Faint, time(failure.when_ms)),
                printable(failure.who.as_bytes()).into(),
                printable(failure.host.as_bytes()).into(),
                number(failure.times.into()).into(),
                place.into(),
                printable(failure.what.as_bytes()).into(),
            ]
        });
        let headers = ["failed last", "program", "host", "times", "at", "error"];
        table(&headers, &[3], rows)
    }
}
