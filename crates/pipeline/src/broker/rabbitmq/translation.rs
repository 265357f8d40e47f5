use batch::{HeaderValue, Headers, Message};
use bytes::Bytes;
use lapin::types::{AMQPValue, FieldTable};

use crate::broker::Delivery;

pub(in crate::broker) fn to_table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in headers.iter() {
        let value = match value {
            HeaderValue::Int(int) => AMQPValue::LongLongInt(*int),
            HeaderValue::Text(text) => AMQPValue::LongString(text.as_str().into()),
        };
        table.insert(name.into(), value);
    }
    table
}

/// A delivery in our terms. The broker's own headers (`x-…`) are read here and go no further: republished, they would
/// tell a later reader about an earlier journey.
pub(in crate::broker) fn receive(delivery: lapin::message::Delivery) -> Delivery {
    let mut headers = Headers::new();
    let mut delivery_count = 0;
    let mut death = None;
    let table = delivery.properties.headers().as_ref();
    for (name, value) in table.into_iter().flat_map(|table| table.inner()) {
        match (name.as_str(), value) {
            ("x-delivery-count", value) => delivery_count = as_int(value).unwrap_or(0),
            ("x-death", AMQPValue::FieldArray(deaths)) => {
                death = deaths.as_slice().first().and_then(death_reason);
            }
            (name, _) if name.starts_with("x-") => {}
            (name, value) => {
                let int = as_int(value).map(HeaderValue::Int);
                let text = || as_text(value).unwrap_or_else(|| format!("{value:?}"));
                headers.set(name, int.unwrap_or_else(|| HeaderValue::Text(text())));
            }
        }
    }
    Delivery {
        message: Message::new(headers, Bytes::from(delivery.data)),
        tag: delivery.delivery_tag,
        delivery_count: u32::try_from(delivery_count).unwrap_or(0),
        death,
    }
}

/// The offset of a delivery from a stream.
pub(in crate::broker) fn stream_offset(delivery: &lapin::message::Delivery) -> Option<u64> {
    let headers = delivery.properties.headers().as_ref()?;
    let offset = as_int(headers.inner().get("x-stream-offset")?)?;
    u64::try_from(offset).ok()
}

fn as_int(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        _ => None,
    }
}

fn as_text(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(String::from_utf8_lossy(text.as_bytes()).into_owned()),
        _ => None,
    }
}

fn death_reason(death: &AMQPValue) -> Option<String> {
    let AMQPValue::FieldTable(table) = death else {
        return None;
    };
    as_text(table.inner().get("reason")?)
}
