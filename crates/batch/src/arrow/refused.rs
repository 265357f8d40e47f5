use std::collections::BTreeMap;
use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch, StringArray, UInt64Array};
use arrow_schema::{ArrowError, DataType, Field, Schema};
use arrow_select::take::take_record_batch;
use bytes::Bytes;

use super::{Frame, Limits, Stream, encode, join_contiguous, not_readable, schema_bytes};
use crate::{Invalid, REASON_COLUMN};

/// A body of the rows of `refused` out of `rows`, each with its reason in column [`REASON_COLUMN`]. The columns keep
/// the names and types that they have in `stream`, which `rows` was decoded from, so that the body can be sent again. A
/// reason from an earlier stay in quarantine is replaced.
pub fn body_of_refused(
    stream: &Stream,
    rows: &RecordBatch,
    refused: &BTreeMap<usize, String>,
) -> Result<Bytes, Invalid> {
    let positions = UInt64Array::from_iter_values(refused.keys().map(|row| *row as u64));
    let taken = take_record_batch(rows, &positions).map_err(unusable)?;
    let reasons = StringArray::from_iter_values(refused.values());
    let reasons: ArrayRef = Arc::new(BinaryArray::from(reasons));
    let is_data = |n: &usize| taken.schema_ref().field(*n).name() != REASON_COLUMN;
    let kept: Vec<usize> = (0..taken.num_columns()).filter(is_data).collect();
    let data = taken.project(&kept).map_err(unusable)?;
    let columns = data.columns().iter().cloned().chain([reasons]).collect();
    let schema = Arc::new(with_reason(data.schema_ref(), DataType::Binary));
    let data = RecordBatch::try_new(schema, columns).map_err(unusable)?;
    // Text was decoded as Binary, whose buffers are those of Utf8: the same data under the batch's own
    // schema are what came in, byte by byte, text or not.
    let own = stream.schema.project(&kept).map_err(unusable)?;
    let own = schema_bytes(&with_reason(&own, DataType::Utf8))?;
    Ok(join_contiguous(&own, &frames_from_rows(&data)?))
}

/// The data messages of `rows`. Strings that were decoded as Binary have the buffers of Utf8: the messages may follow a
/// schema message of that type.
pub fn frames_from_rows(rows: &RecordBatch) -> Result<Vec<Frame>, Invalid> {
    let body = encode(&rows.schema(), std::slice::from_ref(rows))?;
    // What came in within the limits may go out above them: it may compress a little worse.
    let unlimited = Limits {
        body_bytes: usize::MAX,
        decoded_bytes: u64::MAX,
        rows: u64::MAX,
    };
    Ok(Stream::parse(&body, &unlimited)?.frames)
}

fn with_reason(schema: &Schema, data_type: DataType) -> Schema {
    let reason = Arc::new(Field::new(REASON_COLUMN, data_type, false));
    let fields = schema.fields().iter().cloned().chain([reason]);
    Schema::new(fields.collect::<Vec<_>>())
}

fn unusable(error: ArrowError) -> Invalid {
    not_readable(format!("the batch's rows cannot be taken apart: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::Int64Array;
    use arrow_array::cast::AsArray;

    fn parse(body: &Bytes) -> (Stream, RecordBatch) {
        let stream = Stream::parse(body, &Limits::default()).unwrap();
        let mut rows = stream.decode().unwrap();
        (stream, rows.remove(0))
    }

    fn body(keywords: &[&[u8]]) -> Bytes {
        let versions = Int64Array::from_iter_values(0..keywords.len() as i64);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("keyword", Arc::new(BinaryArray::from_iter_values(keywords))),
            ("_version", Arc::new(versions)),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let binary = encode(&rows.schema(), std::slice::from_ref(&rows)).unwrap();
        let frames = Stream::parse(&binary, &Limits::default()).unwrap().frames;
        let schema = Schema::new(vec![
            Field::new("keyword", DataType::Utf8, false),
            Field::new("_version", DataType::Int64, false),
        ]);
        join_contiguous(&schema_bytes(&schema).unwrap(), &frames)
    }

    fn refuse(body: &Bytes, rows: &[(usize, &str)]) -> Bytes {
        let (stream, batch) = parse(body);
        let refused = rows.iter().map(|(row, why)| (*row, (*why).to_owned()));
        body_of_refused(&stream, &batch, &refused.collect()).unwrap()
    }

    fn texts(rows: &RecordBatch, column: &str) -> Vec<Vec<u8>> {
        let column = rows.column_by_name(column).unwrap().as_binary::<i32>();
        column.iter().map(|text| text.unwrap().to_vec()).collect()
    }

    #[test]
    fn refused_rows_keep_their_bytes_and_types_and_get_their_reasons() {
        let body = refuse(
            &body(&[b"a", b"b\xff", b"c"]),
            &[(1, "not text"), (2, "no")],
        );
        let (stream, rows) = parse(&body);
        let types: Vec<_> = stream
            .schema
            .fields()
            .iter()
            .map(|f| f.data_type())
            .collect();
        assert_eq!(types, [&DataType::Utf8, &DataType::Int64, &DataType::Utf8]);
        assert_eq!(texts(&rows, "keyword"), [b"b\xff".to_vec(), b"c".to_vec()]);
        assert_eq!(
            texts(&rows, REASON_COLUMN),
            [b"not text".to_vec(), b"no".to_vec()]
        );
    }

    #[test]
    fn a_former_reason_gives_way_to_the_new_one() {
        let once = refuse(&body(&[b"a", b"b"]), &[(0, "first"), (1, "other")]);
        let twice = refuse(&once, &[(0, "second")]);
        let (stream, rows) = parse(&twice);
        assert_eq!(stream.schema.fields().len(), 3);
        assert_eq!(texts(&rows, REASON_COLUMN), [b"second"]);
    }
}
