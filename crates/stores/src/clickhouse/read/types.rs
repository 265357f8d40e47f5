//! The types that a key and a change column can have, and how their values are written.

use batch::{Column, Invalid, KeyValue, Reason};

use crate::clickhouse::{DataType, quote_identifier, quote_string};

/// How values of a key column are written. Types whose values cannot all be compared (a NULL or a NaN is
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
    pub fn for_column(Column { name, r#type }: &Column) -> Result<Self, Invalid> {
        let data_type = r#type.parse().ok();
        data_type.as_ref().and_then(Self::new).ok_or_else(|| {
            let detail = format!(
                "key column {name} is {type}: ranges can be cut over strings, integers, decimals, dates, times, enums, UUIDs and IP addresses that are not Nullable"
            );
            Invalid::new(Reason::SourceChanged, detail)
        })
    }

    fn new(data_type: &DataType) -> Option<Self> {
        let plain = data_type.unwrapped("LowCardinality");
        Some(match plain.name.as_str() {
            "String" => Self::Bytes { fixed: None },
            "FixedString" => Self::Bytes {
                fixed: Some(plain.to_string()),
            },
            "DateTime" => Self::Time {
                utc: "DateTime('UTC')".to_owned(),
            },
            "DateTime64" => Self::Time {
                utc: format!("DateTime64({}, 'UTC')", plain.number(0).unwrap_or(3)),
            },
            "Int8" | "Int16" | "Int32" | "Int64" | "Int128" | "Int256" | "UInt8" | "UInt16"
            | "UInt32" | "UInt64" | "UInt128" | "UInt256" | "Bool" | "Date" | "Date32"
            | "Decimal" | "Enum8" | "Enum16" | "UUID" | "IPv4" | "IPv6" => {
                Self::Plain(plain.to_string())
            }
            _ => return None,
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
pub(super) struct ChangeColumn {
    /// Quoted.
    name: String,
    kind: ChangeColumnKind,
}

#[derive(Debug, Clone, Copy)]
enum ChangeColumnKind {
    /// DateTime.
    Seconds,
    /// DateTime64: ticks of 10⁻ᵖ seconds.
    Ticks { precision: u32 },
    /// Int64 or UInt64.
    Milliseconds,
}

impl ChangeColumn {
    pub fn for_column(Column { name, r#type }: &Column) -> Result<Self, Invalid> {
        let data_type = r#type.parse().ok();
        let kind = data_type.and_then(|data_type: DataType| match data_type.name.as_str() {
            "DateTime" => Some(ChangeColumnKind::Seconds),
            "DateTime64" => Some(ChangeColumnKind::Ticks {
                precision: data_type.number(0)?,
            }),
            "Int64" | "UInt64" => Some(ChangeColumnKind::Milliseconds),
            _ => None,
        });
        let kind = kind.ok_or_else(|| {
            let detail = format!(
                "change column {name} is {type}; it must be DateTime, DateTime64, or Int64 or UInt64 of milliseconds, and not Nullable"
            );
            Invalid::new(Reason::SourceChanged, detail)
        })?;
        Ok(Self {
            name: quote_identifier(name),
            kind,
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Resolution of the column, in milliseconds.
    pub fn resolution_ms(&self) -> i64 {
        match self.kind {
            ChangeColumnKind::Seconds => 1_000,
            ChangeColumnKind::Ticks { precision } => 10_i64.pow(3 - precision.min(3)),
            ChangeColumnKind::Milliseconds => 1,
        }
    }

    /// SQL for a row's version.
    pub fn version(&self) -> String {
        let name = &self.name;
        match self.kind {
            ChangeColumnKind::Seconds => format!("toInt64(toUnixTimestamp({name})) * 1000"),
            ChangeColumnKind::Ticks { .. } => format!("toUnixTimestamp64Milli({name})"),
            ChangeColumnKind::Milliseconds => format!("toInt64({name})"),
        }
    }

    /// SQL for a time that the column is compared with: of its own type, so that indexes over the
    /// column can be used.
    pub fn literal(&self, param: &str) -> String {
        match self.kind {
            ChangeColumnKind::Seconds => format!("toDateTime({{{param}:UInt32}})"),
            ChangeColumnKind::Ticks { .. } => {
                format!("fromUnixTimestamp64Milli({{{param}:Int64}})")
            }
            ChangeColumnKind::Milliseconds => format!("{{{param}:Int64}}"),
        }
    }

    /// The value of that parameter. A second is at or after a time of milliseconds if and only if it
    /// is at or after that time rounded up.
    pub fn value(&self, ms: i64) -> String {
        match self.kind {
            ChangeColumnKind::Seconds => {
                let seconds = ms.div_euclid(1000) + i64::from(ms.rem_euclid(1000) > 0);
                seconds.clamp(0, u32::MAX.into()).to_string()
            }
            ChangeColumnKind::Ticks { .. } | ChangeColumnKind::Milliseconds => ms.to_string(),
        }
    }
}
