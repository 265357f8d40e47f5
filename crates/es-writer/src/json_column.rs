//! The values of one column, and how each is written as JSON.
//!
//! | Arrow | JSON |
//! |---|---|
//! | Utf8, Binary, FixedSizeBinary (without the zero bytes that pad it) | string |
//! | Int8..Int64, UInt8..UInt64 | number, every digit of it |
//! | Float32, Float64 | number; null for NaN and the infinities |
//! | Boolean | true, false |
//! | Decimal128, Decimal256 | string, so that no digit is lost |
//! | Date32, Date64, Timestamp | number: milliseconds since the epoch, as everywhere in the fleet |
//! | List of any of these | array |
//!
//! A ClickHouse DateTime travels as UInt32 and is written as that number, seconds since the epoch:
//! its field is mapped with the format `epoch_second`.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Date32Type, Date64Type, Float32Type, Float64Type, Int8Type, Int16Type,
    Int32Type, Int64Type, TimestampMicrosecondType, TimestampMillisecondType,
    TimestampNanosecondType, TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, Float64Array, Int64Array, ListArray, StringArray,
    UInt64Array,
};
use arrow_schema::{DataType, TimeUnit};

use crate::decimal::DecimalColumn;

const DAY_MS: i64 = 86_400_000;

/// One column, brought to one of the few kinds that JSON tells apart.
pub(crate) enum JsonColumn {
    Bool(BooleanArray),
    Int(Int64Array),
    UInt(UInt64Array),
    /// Kept apart from Float64: widened, 0.1 would be written as 0.10000000149011612.
    Float32(Float32Array),
    Float64(Float64Array),
    Decimal(DecimalColumn),
    Text(StringArray),
    List(ListArray, Box<JsonColumn>),
}

/// A value that cannot be text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NotText {
    pub row: usize,
    /// First byte of the value that is not UTF-8.
    pub at: usize,
}

/// Whether a column of this type can be written at all.
pub(crate) fn is_writable(data_type: &DataType) -> bool {
    match data_type {
        DataType::List(item) => {
            !matches!(item.data_type(), DataType::List(_)) && is_writable(item.data_type())
        }
        DataType::Null | DataType::Boolean => true,
        DataType::Float32 | DataType::Float64 => true,
        DataType::Decimal128(..) | DataType::Decimal256(..) => true,
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(..) => true,
        other => is_text(other) || other.is_integer(),
    }
}

/// Whether values of this type can be compared with a minimum.
pub(crate) fn is_comparable(data_type: &DataType) -> bool {
    data_type.is_integer()
        || matches!(
            data_type,
            DataType::Float32
                | DataType::Float64
                | DataType::Decimal128(..)
                | DataType::Decimal256(..)
        )
}

/// Whether values of this type are text.
pub(crate) fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::FixedSizeBinary(_)
    )
}

impl JsonColumn {
    /// Takes a column for which [`is_writable`] holds. Values that are not UTF-8 are reported
    /// in `refused` and stand as empty text.
    pub fn new(array: &ArrayRef, refused: &mut Vec<NotText>) -> Self {
        match array.data_type() {
            DataType::Boolean => Self::Bool(array.as_boolean().clone()),
            DataType::Int8 => Self::Int(widen::<Int8Type, Int64Type>(array)),
            DataType::Int16 => Self::Int(widen::<Int16Type, Int64Type>(array)),
            DataType::Int32 => Self::Int(widen::<Int32Type, Int64Type>(array)),
            DataType::Int64 => Self::Int(array.as_primitive().clone()),
            DataType::UInt8 => Self::UInt(widen::<UInt8Type, UInt64Type>(array)),
            DataType::UInt16 => Self::UInt(widen::<UInt16Type, UInt64Type>(array)),
            DataType::UInt32 => Self::UInt(widen::<UInt32Type, UInt64Type>(array)),
            DataType::UInt64 => Self::UInt(array.as_primitive().clone()),
            DataType::Float32 => Self::Float32(array.as_primitive::<Float32Type>().clone()),
            DataType::Float64 => Self::Float64(array.as_primitive::<Float64Type>().clone()),
            DataType::Date32 => {
                Self::Int(millis::<Date32Type>(array, |days| days.checked_mul(DAY_MS)))
            }
            DataType::Date64 => Self::Int(millis::<Date64Type>(array, Some)),
            DataType::Timestamp(unit, _) => Self::Int(timestamps(array, *unit)),
            DataType::Decimal128(..) => Self::Decimal(DecimalColumn::from_128(array)),
            DataType::Decimal256(..) => Self::Decimal(DecimalColumn::from_256(array)),
            DataType::List(_) => {
                let list = array.as_list::<i32>().clone();
                let items = Box::new(items(&list, refused));
                Self::List(list, items)
            }
            other if is_text(other) => Self::Text(texts(array, refused)),
            _ => Self::Bool(BooleanArray::new_null(array.len())),
        }
    }

    pub fn is_null(&self, row: usize) -> bool {
        match self {
            Self::Bool(array) => array.is_null(row),
            Self::Int(array) => array.is_null(row),
            Self::UInt(array) => array.is_null(row),
            Self::Float32(array) => array.is_null(row),
            Self::Float64(array) => array.is_null(row),
            Self::Decimal(column) => column.texts.is_null(row),
            Self::Text(array) => array.is_null(row),
            Self::List(array, _) => array.is_null(row),
        }
    }

    /// Appends the value of `row` as JSON.
    pub fn write_json(&self, row: usize, out: &mut Vec<u8>) {
        if self.is_null(row) {
            return out.extend_from_slice(b"null");
        }
        match self {
            Self::Bool(array) => json(&array.value(row), out),
            Self::Int(array) => json(&array.value(row), out),
            Self::UInt(array) => json(&array.value(row), out),
            Self::Float32(array) => json(&array.value(row), out),
            Self::Float64(array) => json(&array.value(row), out),
            Self::Decimal(column) => json(column.texts.value(row), out),
            Self::Text(array) => json(array.value(row), out),
            Self::List(array, items) => {
                out.push(b'[');
                let offsets = array.value_offsets();
                for item in offsets[row] as usize..offsets[row + 1] as usize {
                    if item > offsets[row] as usize {
                        out.push(b',');
                    }
                    items.write_json(item, out);
                }
                out.push(b']');
            }
        }
    }

    /// For each row, whether its value is a number of at least `minimum`, exactly. Null, NaN and what is no number
    /// ([`is_comparable`]) are not.
    pub fn at_least(&self, minimum: f64) -> Vec<bool> {
        // A cast of what is too large gives the largest.
        let whole = (!minimum.is_nan()).then(|| minimum.ceil() as i128);
        let is_whole = |value: i128| whole.is_some_and(|minimum| value >= minimum);
        match self {
            Self::Int(array) => each(array.iter(), |value| is_whole(value.into())),
            Self::UInt(array) => each(array.iter(), |value| is_whole(value.into())),
            // As a Float32 has it: 0.7 is at least 0.7.
            Self::Float32(array) => each(array.iter(), |value| value >= minimum as f32),
            Self::Float64(array) => each(array.iter(), |value| value >= minimum),
            Self::Decimal(column) => column.at_least(minimum),
            Self::Bool(array) => vec![false; array.len()],
            Self::Text(array) => vec![false; array.len()],
            Self::List(array, _) => vec![false; array.len()],
        }
    }
}

fn each<T>(values: impl Iterator<Item = Option<T>>, is_enough: impl Fn(T) -> bool) -> Vec<bool> {
    values.map(|value| value.is_some_and(&is_enough)).collect()
}

/// serde_json escapes text, keeps the shortest form of a float and writes null for what is no number.
fn json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a scalar goes into memory");
}

fn widen<From, To>(array: &ArrayRef) -> arrow_array::PrimitiveArray<To>
where
    From: ArrowPrimitiveType,
    To: ArrowPrimitiveType,
    To::Native: std::convert::From<From::Native>,
{
    array.as_primitive::<From>().unary(To::Native::from)
}

/// Times in milliseconds; one that does not fit is null.
fn millis<T>(array: &ArrayRef, convert: impl Fn(i64) -> Option<i64>) -> Int64Array
where
    T: ArrowPrimitiveType,
    T::Native: Into<i64>,
{
    array
        .as_primitive::<T>()
        .unary_opt(|value| convert(value.into()))
}

fn timestamps(array: &ArrayRef, unit: TimeUnit) -> Int64Array {
    match unit {
        TimeUnit::Second => millis::<TimestampSecondType>(array, |s| s.checked_mul(1000)),
        TimeUnit::Millisecond => millis::<TimestampMillisecondType>(array, Some),
        TimeUnit::Microsecond => {
            millis::<TimestampMicrosecondType>(array, |us| Some(us.div_euclid(1000)))
        }
        TimeUnit::Nanosecond => {
            millis::<TimestampNanosecondType>(array, |ns| Some(ns.div_euclid(1_000_000)))
        }
    }
}

fn items(list: &ListArray, refused: &mut Vec<NotText>) -> JsonColumn {
    let mut bad = Vec::new();
    let values = JsonColumn::new(list.values(), &mut bad);
    let offsets = list.value_offsets();
    refused.extend(bad.into_iter().filter_map(|NotText { row: item, at }| {
        // The row whose items include this one; items outside every row belong to none.
        let row = offsets
            .partition_point(|o| *o as usize <= item)
            .checked_sub(1)?;
        (row < list.len()).then_some(NotText { row, at })
    }));
    values
}

fn texts(array: &ArrayRef, refused: &mut Vec<NotText>) -> StringArray {
    match array.data_type() {
        DataType::Utf8 => array.as_string::<i32>().clone(),
        // The whole column is checked at once, without a copy; row by row only if that fails.
        DataType::Binary => {
            let binary = array.as_binary::<i32>();
            StringArray::try_from_binary(binary.clone())
                .unwrap_or_else(|_| check(binary.iter(), refused))
        }
        DataType::LargeUtf8 => array.as_string::<i64>().iter().collect(),
        DataType::LargeBinary => check(array.as_binary::<i64>().iter(), refused),
        _ => check(
            array.as_fixed_size_binary().iter().map(|v| v.map(unpadded)),
            refused,
        ),
    }
}

/// ClickHouse fills a FixedString up with zero bytes.
fn unpadded(value: &[u8]) -> &[u8] {
    let end = value
        .iter()
        .rposition(|b| *b != 0)
        .map_or(0, |last| last + 1);
    &value[..end]
}

fn check<'a>(
    values: impl Iterator<Item = Option<&'a [u8]>>,
    refused: &mut Vec<NotText>,
) -> StringArray {
    let text = |(row, value): (usize, Option<&'a [u8]>)| {
        value.map(|bytes| {
            std::str::from_utf8(bytes).unwrap_or_else(|e| {
                refused.push(NotText {
                    row,
                    at: e.valid_up_to(),
                });
                ""
            })
        })
    };
    values.enumerate().map(text).collect()
}
