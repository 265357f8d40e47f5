//! The types that a key and a change column can have, and how their values are written.

use batch::{Column, Invalid, KeyValue, Reason};

use crate::clickhouse::{DataType, TypeFamily, quote_identifier, quote_string};

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
    pub fn for_column(column: &Column) -> Result<Self, Invalid> {
        Self::supported(column).ok_or_else(|| {
            Invalid::new(
                Reason::SourceChanged,
                format!(
                    "key column {} is {}: ranges can be cut over strings, integers, decimals, dates, times, enums, UUIDs and IP addresses that are not Nullable",
                    column.name, column.r#type
                ),
            )
        })
    }

    fn supported(column: &Column) -> Option<Self> {
        let r#type: DataType = column.r#type.parse().ok()?;
        let plain = r#type.unwrapped(&TypeFamily::LowCardinality);
        use TypeFamily as F;
        match plain.family {
            F::String => Some(Self::Bytes { fixed: None }),
            F::FixedString => Some(Self::Bytes {
                fixed: Some(plain.to_string()),
            }),
            F::DateTime => Some(Self::Time {
                utc: "DateTime('UTC')".to_owned(),
            }),
            F::DateTime64 => Some(Self::Time {
                utc: format!("DateTime64({}, 'UTC')", plain.number(0).unwrap_or(3)),
            }),
            F::Int8 | F::Int16 | F::Int32 | F::Int64 | F::Int128 | F::Int256 => {
                Some(Self::Plain(plain.to_string()))
            }
            F::UInt8 | F::UInt16 | F::UInt32 | F::UInt64 | F::UInt128 | F::UInt256 => {
                Some(Self::Plain(plain.to_string()))
            }
            F::Bool | F::Date | F::Date32 | F::Decimal | F::Enum8 | F::Enum16 => {
                Some(Self::Plain(plain.to_string()))
            }
            F::UUID | F::IPv4 | F::IPv6 => Some(Self::Plain(plain.to_string())),
            _ => None,
        }
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
    pub fn for_column(column: &Column) -> Result<Self, Invalid> {
        let r#type: Option<DataType> = column.r#type.parse().ok();
        let kind = r#type.and_then(|r#type| match r#type.family {
            TypeFamily::DateTime => Some(ChangeColumnKind::Seconds),
            TypeFamily::DateTime64 => r#type
                .number(0)
                .map(|precision| ChangeColumnKind::Ticks { precision }),
            TypeFamily::Int64 | TypeFamily::UInt64 => Some(ChangeColumnKind::Milliseconds),
            _ => None,
        });
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
