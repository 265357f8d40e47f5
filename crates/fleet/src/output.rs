use std::io::{self, Write};
use std::time::Duration;

use app::with_causes;
use chrono::{DateTime, Utc};
use comfy_table::{
    Attribute, Cell, CellAlignment, Color, ContentArrangement, LineStyle, Table, TableStyle,
};
use serde::Serialize;
use serde_json::json;

use crate::exit::Exit;

/// How answers are written: to the standard output, as text or JSON, with colours or without.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
    color: bool,
}

/// What a text is coloured for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Warning,
    Faint,
}

impl Output {
    pub fn new(json: bool, color: bool) -> Self {
        Self {
            json,
            color: color && !json,
        }
    }

    /// Whether JSON was asked for.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// The answer of a command: `json` if that was asked for, else `text`.
    pub fn answer(self, json: &impl Serialize, text: impl AsRef<str>) -> io::Result<()> {
        if self.json {
            return self.json(json);
        }
        self.line(text.as_ref().trim_end_matches('\n'))
    }

    /// Writes text as it is. A reader that is gone (`| head`) is no error: it has what it wanted.
    pub fn text(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                std::process::exit(Exit::Ok as i32)
            }
            written => written,
        }
    }

    pub fn line(self, line: impl AsRef<str>) -> io::Result<()> {
        self.text(&format!("{}\n", line.as_ref()))
    }

    pub fn json(self, value: &impl Serialize) -> io::Result<()> {
        self.line(serde_json::to_string_pretty(value)?)
    }

    /// JSON on one line, for a command that answers more than once.
    pub fn json_line(self, value: &impl Serialize) -> io::Result<()> {
        self.line(serde_json::to_string(value)?)
    }

    /// Writes the error and its causes to the standard error.
    pub fn error(self, error: &anyhow::Error, exit: Exit) {
        let text = with_causes(error.as_ref());
        if self.json {
            eprintln!("{}", json!({ "error": text, "exit_code": exit as u8 }));
        } else {
            eprintln!("error: {text}");
        }
    }

    /// A table's cell in the colour of its tone.
    pub fn cell(self, tone: Tone, text: impl AsRef<str>) -> Cell {
        let cell = Cell::new(text.as_ref());
        match tone {
            _ if !self.color => cell,
            Tone::Good => cell.fg(Color::DarkGreen),
            Tone::Bad => cell.fg(Color::DarkRed),
            Tone::Warning => cell.fg(Color::DarkYellow),
            Tone::Faint => cell.add_attribute(Attribute::Dim),
        }
    }

    /// Text in the colour of its tone, outside of tables.
    pub fn paint(self, tone: Tone, text: impl AsRef<str>) -> String {
        let text = text.as_ref();
        let code = match tone {
            _ if !self.color => return text.to_owned(),
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Warning => "33",
            Tone::Faint => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A line under the header and no other: easy to read, to cut and to grep.
const STYLE: TableStyle =
    TableStyle::new().header_separator(LineStyle::none().fill('─').junction('─'));

/// Spaces that pad a column, in addition to the one that stands for the line between two columns.
const GAP: u16 = 1;

/// Rows under the headers in `columns`, which ` | ` separates. A header after `>` aligns its column at the right.
pub fn table<R, C>(columns: &str, rows: impl IntoIterator<Item = R>) -> String
where
    R: IntoIterator<Item = C>,
    C: Into<Cell>,
{
    let (mut headers, mut right) = (Vec::new(), Vec::new());
    for (n, column) in columns.split(" | ").enumerate() {
        right.extend(column.starts_with('>').then_some(n));
        headers.push(column.trim_start_matches('>'));
    }
    table_under(&headers, &right, rows)
}

/// Rows under headers; `right` are the numbers of the columns to align at the right. At most as wide as the terminal;
/// without one, as wide as the rows.
pub fn table_under<R, C>(
    headers: &[&str],
    right: &[usize],
    rows: impl IntoIterator<Item = R>,
) -> String
where
    R: IntoIterator<Item = C>,
    C: Into<Cell>,
{
    let mut table = Table::new();
    table
        .load_style(STYLE)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headers.to_vec());
    for row in rows {
        table.add_row(row.into_iter().map(Into::into).collect::<Vec<Cell>>());
    }
    let last = headers.len().saturating_sub(1);
    for (n, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, if n == last { 0 } else { GAP }));
        if right.contains(&n) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    format!("{}\n", table.trim_fmt())
}

/// `1234567` as `1,234,567`.
pub fn number(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// Two units at most: `350 ms`, `12.3 s`, `3 min 05 s`, `2 h 03 min`, `3 d 04 h`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        // Not rounded up to 60.0.
        1..60 => format!("{:.1} s", (duration.as_millis() / 100) as f64 / 10.0),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `1536` as `1.5 KiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Milliseconds since the epoch as `2026-01-02 03:04:05` in UTC; `–` outside of what has a date.
pub fn time(ms: i64) -> String {
    let time = DateTime::<Utc>::from_timestamp_millis(ms);
    time.map_or("–".to_owned(), |time| {
        time.format("%Y-%m-%d %H:%M:%S").to_string()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_commas() {
        for (n, expected) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
            (u64::MAX, "18,446,744,073,709,551,615"),
        ] {
            assert_eq!(number(n), expected);
        }
    }

    #[test]
    fn durations_have_two_units_at_most() {
        for (ms, expected) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (12_345, "12.3 s"),
            (59_999, "59.9 s"),
            (185_000, "3 min 05 s"),
            (7_380_000, "2 h 03 min"),
            (273_600_000, "3 d 04 h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), expected);
        }
    }

    #[test]
    fn bytes_have_a_binary_unit() {
        for (n, expected) in [
            (1023, "1023 B"),
            (1536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (5 << 30, "5.0 GiB"),
            (u64::MAX, "16384.0 PiB"),
        ] {
            assert_eq!(bytes(n), expected);
        }
    }

    #[test]
    fn times_are_in_utc() {
        assert_eq!(time(1_767_323_045_678), "2026-01-02 03:04:05");
        assert_eq!(time(i64::MAX), "–");
    }

    #[test]
    fn a_table_has_its_numbers_at_the_right() {
        let rows = [["all", "12"], ["lite", "1,234"]];
        assert_eq!(
            table("index | >rows", rows),
            "index   rows\n────────────\nall       12\nlite   1,234\n"
        );
    }

    #[test]
    fn colours_are_left_out_of_json() {
        assert_eq!(
            Output::new(false, true).paint(Tone::Bad, "x"),
            "\x1b[31mx\x1b[0m"
        );
        assert_eq!(Output::new(true, true).paint(Tone::Bad, "x"), "x");
    }
}
