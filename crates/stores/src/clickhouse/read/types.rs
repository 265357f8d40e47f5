//! The types that a key and a change column can have, and how their values are written.

use batch::{Column, Invalid, KeyValue, Reason};

use crate::clickhouse::{quote_identifier, quote_string};

/// How values of a key column are written. Types whose values do not all compare (a NULL or a NaN is
/// neither below nor above a bound) are refused: their rows would be in no range.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyType {
    Bytes {
        fixed: Option<String>,
    },
    /// Written in UTC: local times repeat when the clock is set back.
    Time {
        utc: String,
    },
    Plain(String),
}

impl KeyType {
    pub fn of(column: &Column) -> Result<Self, Invalid> {
        let plain = column
            .r#type
            .strip_prefix("LowCardinality(")
            .and_then(|rest| rest.strip_suffix(')'))
            .unwrap_or(&column.r#type);
        let (word, arguments) = match plain.split_once('(') {
            Some((word, rest)) => (word, rest.strip_suffix(')').unwrap_or(rest)),
            None => (plain, ""),
        };
        let plain = plain.to_owned();
        Ok(match word {
            "String" => Self::Bytes { fixed: None },
            "FixedString" => Self::Bytes { fixed: Some(plain) },
            "DateTime" => Self::Time {
                utc: "DateTime('UTC')".to_owned(),
            },
            "DateTime64" => {
                let precision = arguments.split(',').next().unwrap_or("3").trim();
                Self::Time {
                    utc: format!("DateTime64({precision}, 'UTC')"),
                }
            }
            "Int8" | "Int16" | "Int32" | "Int64" | "Int128" | "Int256" | "UInt8" | "UInt16"
            | "UInt32" | "UInt64" | "UInt128" | "UInt256" | "Bool" | "Date" | "Date32"
            | "Decimal" | "Enum8" | "Enum16" | "UUID" | "IPv4" | "IPv6" => Self::Plain(plain),
            _ => {
                return Err(Invalid::new(
                    Reason::SourceChanged,
                    format!(
                        "key column {} is {}: ranges can be cut over strings, integers, decimals, dates, times, enums, UUIDs and IP addresses that are not Nullable",
                        column.name, column.r#type
                    ),
                ));
            }
        })
    }

    /// SQL for the text of `column`'s values; the column's name comes quoted.
    pub fn expression(&self, column: &str) -> String {
        match self {
            Self::Bytes { .. } => format!("hex({column})"),
            Self::Time { .. } => format!("toString(toTimeZone({column}, 'UTC'))"),
            Self::Plain(_) => format!("toString({column})"),
        }
    }

    /// The value of a bound whose text is `text`.
    pub fn value(&self, text: String) -> KeyValue {
        match self {
            Self::Bytes { .. } => KeyValue::Hex(text),
            Self::Time { .. } | Self::Plain(_) => KeyValue::Text(text),
        }
    }

    /// SQL for the value that the parameter holds; `None` when it cannot be of this type.
    pub fn literal(&self, param: &str, value: &KeyValue) -> Option<String> {
        let (text, r#type) = match (self, value) {
            (Self::Bytes { fixed }, KeyValue::Hex(digits)) => {
                let digits = digits.as_bytes();
                if digits.len() % 2 == 1 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                (format!("unhex({{{param}:String}})"), fixed.as_ref())
            }
            (Self::Time { utc: r#type } | Self::Plain(r#type), KeyValue::Text(_)) => {
                (format!("{{{param}:String}}"), Some(r#type))
            }
            _ => return None,
        };
        Some(match r#type {
            Some(r#type) => format!("CAST({text}, {})", quote_string(r#type)),
            None => text,
        })
    }
}

/// The change column: how its values become versions, and times become its values.
#[derive(Debug)]
pub(super) struct Changed {
    /// Quoted.
    name: String,
    kind: ChangedKind,
}

#[derive(Debug, Clone, Copy)]
enum ChangedKind {
    /// DateTime.
    Seconds,
    /// DateTime64: ticks of 10⁻ᵖ seconds.
    Ticks { precision: u32 },
    /// Int64 or UInt64.
    Milliseconds,
}

impl Changed {
    pub fn of(column: &Column) -> Result<Self, Invalid> {
        let (word, arguments) = column
            .r#type
            .split_once('(')
            .unwrap_or((&column.r#type, ""));
        let precision = || arguments.split([',', ')']).next()?.trim().parse().ok();
        let kind = match word {
            "DateTime" => Some(ChangedKind::Seconds),
            "DateTime64" => precision().map(|precision| ChangedKind::Ticks { precision }),
            "Int64" | "UInt64" => Some(ChangedKind::Milliseconds),
            _ => None,
        };
        let kind = kind.ok_or_else(|| {
            Invalid::new(
                Reason::SourceChanged,
                format!(
                    "change column {} is {}; it must be DateTime, DateTime64, or Int64 or UInt64 of milliseconds, and not Nullable",
                    column.name, column.r#type
                ),
            )
        })?;
        Ok(Self {
            name: quote_identifier(&column.name),
            kind,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Milliseconds that the column tells apart.
    pub fn resolution_ms(&self) -> i64 {
        match self.kind {
            ChangedKind::Seconds => 1_000,
            ChangedKind::Ticks { precision } => 10_i64.pow(3 - precision.min(3)),
            ChangedKind::Milliseconds => 1,
        }
    }

    /// SQL for a row's version.
    pub fn version(&self) -> String {
        let name = &self.name;
        match self.kind {
            ChangedKind::Seconds => format!("toInt64(toUnixTimestamp({name})) * 1000"),
            ChangedKind::Ticks { .. } => format!("toUnixTimestamp64Milli({name})"),
            ChangedKind::Milliseconds => format!("toInt64({name})"),
        }
    }

    /// SQL for a time that the column is compared with: of its own type, so that indexes over the
    /// column can be used.
    pub fn literal(&self, param: &str) -> String {
        match self.kind {
            ChangedKind::Seconds => format!("toDateTime({{{param}:UInt32}})"),
            ChangedKind::Ticks { .. } => format!("fromUnixTimestamp64Milli({{{param}:Int64}})"),
            ChangedKind::Milliseconds => format!("{{{param}:Int64}}"),
        }
    }

    /// The value of that parameter. A second is at or after a time of milliseconds if and only if it
    /// is at or after that time rounded up.
    pub fn value(&self, ms: i64) -> String {
        match self.kind {
            ChangedKind::Seconds => {
                let seconds = ms.div_euclid(1000) + i64::from(ms.rem_euclid(1000) > 0);
                seconds.clamp(0, u32::MAX.into()).to_string()
            }
            ChangedKind::Ticks { .. } | ChangedKind::Milliseconds => ms.to_string(),
        }
    }
}
