use std::fmt::Write;

use arrow_array::cast::AsArray;
use arrow_array::types::{
    Date32Type, Decimal128Type, Decimal256Type, Float32Type, Float64Type, TimestampMicrosecondType,
    TimestampMillisecondType, TimestampNanosecondType, TimestampSecondType,
};
use arrow_array::{Array, ArrayRef, downcast_integer_array};
use arrow_schema::{DataType, TimeUnit};
use batch::arrow::{Limits, Stream};
use batch::{Invalid, REASON_COLUMN, Reason};
use serde::Serialize;
use serde::de::IgnoredAny;

use super::printable::{cut, lines, printable};
use crate::output::{bytes, number, table_under};

/// Characters of a value in a table: keywords of hundreds of bytes exist. A store's reason has more room.
const VALUE_SHOWN: usize = 48;
const REASON_SHOWN: usize = 200;
/// Bytes shown of a body that cannot be read: enough for the beginning of an Arrow schema.
const HEAD_SHOWN: usize = 256;
/// Bytes in a line of them.
const LINE: usize = 16;

/// What a body holds.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Body {
    Arrow {
        rows: u64,
        decoded_bytes: u64,
        columns: Vec<BodyColumn>,
        /// Of the first rows, each its values in the order of the columns; null for null.
        values: Vec<Vec<Option<String>>>,
    },
    Json {
        json: serde_json::Value,
        #[serde(skip)]
        text: String,
    },
    Unreadable {
        reason: Reason,
        detail: String,
        /// The first bytes, in hexadecimal.
        head: String,
        #[serde(skip)]
        dump: String,
    },
}

#[derive(Debug, Serialize)]
pub struct BodyColumn {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
}

impl Body {
    /// Reads a body, and the first `rows` rows of it if it is a batch.
    pub fn read(body: &bytes::Bytes, rows: usize) -> Self {
        let read = match body.first() {
            Some(b'{' | b'[') => Self::from_json(body),
            _ => Self::from_arrow(body, rows),
        };
        read.unwrap_or_else(|invalid| Self::unreadable(body, invalid))
    }

    fn from_json(body: &[u8]) -> Result<Self, Invalid> {
        let not_json = |error: serde_json::Error| {
            let reason = match error.classify() {
                serde_json::error::Category::Eof => Reason::Truncated,
                _ => Reason::NotReadable,
            };
            Invalid::new(reason, format!("body is not JSON: {error}"))
        };
        serde_json::from_slice::<IgnoredAny>(body).map_err(not_json)?;
        let json = serde_json::from_slice(body).map_err(not_json)?;
        Ok(Self::Json {
            json,
            text: lines(&indented(&String::from_utf8_lossy(body))),
        })
    }

    fn from_arrow(body: &bytes::Bytes, most: usize) -> Result<Self, Invalid> {
        let stream = Stream::parse(body, &Limits::default())?;
        let batches = stream.decode()?;
        let fields = stream.schema.fields();
        // The store's reasons first: they are the answer to why the rows are here.
        let mut order: Vec<usize> = (0..fields.len()).collect();
        order.sort_by_key(|n| fields[*n].name() != REASON_COLUMN);
        let columns = order.iter().map(|n| BodyColumn {
            name: printable(fields[*n].name().as_bytes()),
            data_type: fields[*n].data_type().to_string(),
        });
        let rows = batches.iter().flat_map(|batch| {
            let order = &order;
            let values = move |row| order.iter().map(|n| value(batch.column(*n), row)).collect();
            (0..batch.num_rows()).map(values)
        });
        Ok(Self::Arrow {
            rows: stream.rows(),
            decoded_bytes: stream.frames.iter().map(|frame| frame.decoded_bytes).sum(),
            columns: columns.collect(),
            values: rows.take(most).collect(),
        })
    }

    fn unreadable(body: &[u8], why: Invalid) -> Self {
        let head = &body[..body.len().min(HEAD_SHOWN)];
        Self::Unreadable {
            reason: why.reason,
            detail: why.detail,
            head: head.iter().map(|byte| format!("{byte:02x}")).collect(),
            dump: dump(head),
        }
    }

    /// `size`: that of the whole body, as text.
    pub fn to_text(&self, size: &str) -> String {
        match self {
            Self::Json { text, .. } => format!("body: JSON, {size}\n{text}\n"),
            Self::Unreadable {
                reason,
                detail,
                dump,
                ..
            } => {
                let detail = printable(detail.as_bytes());
                format!("body: {size} that cannot be read ({reason}: {detail})\n{dump}")
            }
            Self::Arrow {
                rows,
                decoded_bytes,
                columns,
                values,
            } => {
                let shown = values.len() as u64;
                let first = match shown {
                    0 if *rows > 0 => "; its columns".to_owned(),
                    shown if shown < *rows => format!("; the first {}", number(shown)),
                    _ => String::new(),
                };
                let (rows, decoded) = (number(*rows), bytes(*decoded_bytes));
                let table = rows_table(columns, values);
                format!(
                    "body: a batch of {rows} rows, {size}, {decoded} once decoded{first}\n{table}"
                )
            }
        }
    }
}

fn rows_table(columns: &[BodyColumn], values: &[Vec<Option<String>>]) -> String {
    let headers: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
    let cell = |(column, value): (&BodyColumn, &Option<String>)| match value {
        None => "null".to_owned(),
        Some(value) if column.name == REASON_COLUMN => cut(value, REASON_SHOWN),
        Some(value) => cut(value, VALUE_SHOWN),
    };
    let rows = values.iter().map(|row| columns.iter().zip(row).map(cell));
    table_under(&headers, &[], rows)
}

/// A value as text; bytes that are no text as escapes.
fn value(array: &ArrayRef, row: usize) -> Option<String> {
    macro_rules! time_of {
        ($type:ty) => {{
            let times = array.as_primitive::<$type>();
            let time = times.value_as_datetime(row);
            time.map_or_else(|| times.value(row).to_string(), |time| time.to_string())
        }};
    }
    if array.is_null(row) {
        return None;
    }
    Some(downcast_integer_array! {
        array => array.value(row).to_string(),
        DataType::Null => return None,
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        // Debug, because Display writes out all zeros of 1e300.
        DataType::Float32 => format!("{:?}", array.as_primitive::<Float32Type>().value(row)),
        DataType::Float64 => format!("{:?}", array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row),
        DataType::Date32 => match array.as_primitive::<Date32Type>().value_as_date(row) {
            Some(date) => date.to_string(),
            None => array.as_primitive::<Date32Type>().value(row).to_string(),
        },
        DataType::Timestamp(TimeUnit::Second, _) => time_of!(TimestampSecondType),
        DataType::Timestamp(TimeUnit::Millisecond, _) => time_of!(TimestampMillisecondType),
        DataType::Timestamp(TimeUnit::Microsecond, _) => time_of!(TimestampMicrosecondType),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => time_of!(TimestampNanosecondType),
        DataType::Binary => printable(array.as_binary::<i32>().value(row)),
        DataType::LargeBinary => printable(array.as_binary::<i64>().value(row)),
        DataType::FixedSizeBinary(_) => printable(array.as_fixed_size_binary().value(row)),
        // Lists and such, in Arrow's own words, on one line.
        _ => {
            let words = format!("{:?}", array.slice(row, 1));
            let words: Vec<_> = words.split_whitespace().collect();
            printable(words.join(" ").as_bytes())
        }
    })
}

/// Valid JSON text over several lines, everything else in it as it was: numbers keep all their digits and
/// keys their order.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let mut depth = 0usize;
    let mut chars = json.chars().peekable();
    let new_line = |depth: usize| format!("\n{}", "  ".repeat(depth));
    while let Some(c) = chars.next() {
        match c {
            '"' => {
                text.push(c);
                while let Some(c) = chars.next() {
                    text.push(c);
                    match c {
                        '\\' => text.extend(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            '{' | '[' => {
                text.push(c);
                while chars.next_if(|c| c.is_whitespace()).is_some() {}
                if let Some(end) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    text.push(end);
                } else {
                    depth += 1;
                    text += &new_line(depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                text += &new_line(depth);
                text.push(c);
            }
            ',' => {
                text.push(c);
                text += &new_line(depth);
            }
            ':' => text.push_str(": "),
            c if c.is_whitespace() => {}
            c => text.push(c),
        }
    }
    text
}

/// Bytes with their offset, in hexadecimal and, if they are printable ASCII, as text.
fn dump(head: &[u8]) -> String {
    let mut text = String::new();
    for (n, line) in head.chunks(LINE).enumerate() {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let letter = |byte: &u8| match byte {
            b' '..=b'~' => char::from(*byte),
            _ => '.',
        };
        let letters: String = line.iter().map(letter).collect();
        let width = LINE * 3 - 1;
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{:08x}  {:width$}  {letters}",
            n * LINE,
            hex.join(" ")
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_set_over_lines_and_otherwise_as_it_was() {
        let json = r#"{"b":[],"a":{ },"n":[1.10, 18446744073709551616],"t":"{\"x\": [1,2]}\\"}"#;
        let wanted = r#"{
  "b": [],
  "a": {},
  "n": [
    1.10,
    18446744073709551616
  ],
  "t": "{\"x\": [1,2]}\\"
}"#;
        assert_eq!(indented(json), wanted);
    }

    #[test]
    fn json_that_breaks_off_is_truncated_and_other_text_not_readable() {
        let reason = |body: &'static [u8]| match Body::read(&body.into(), 10) {
            Body::Unreadable { reason, .. } => Some(reason),
            _ => None,
        };
        assert_eq!(reason(b"{\"task\": 1"), Some(Reason::Truncated));
        assert_eq!(reason(b"{\"task\": one}"), Some(Reason::NotReadable));
        assert_eq!(reason(b"<html><body>"), Some(Reason::NotReadable));
        assert_eq!(reason(b""), Some(Reason::Truncated));
        assert_eq!(reason(b"[]"), None);
    }

    #[test]
    fn the_head_of_a_body_stands_in_lines_of_sixteen() {
        let text = dump(b"ArrowStream\x00\x1b[0m~");
        assert_eq!(
            text,
            "00000000  41 72 72 6f 77 53 74 72 65 61 6d 00 1b 5b 30 6d  ArrowStream..[0m\n\
             00000010  7e                                               ~\n"
        );
    }
}
