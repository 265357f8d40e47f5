//! The rows of one batch, decoded: for the rare batch that the store refuses.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow_array::RecordBatch;
use batch::Invalid;
use batch::arrow::{self, Frame, Stream};
use bytes::Bytes;

pub(crate) struct DecodedRows {
    rows: RecordBatch,
}

impl DecodedRows {
    /// Fails when the batch's data are not what their headers say.
    pub fn of(stream: &Stream) -> Result<Self, Invalid> {
        stream.decode_all().map(|rows| Self { rows })
    }

    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// The data of some rows, to follow a schema message of the batch's own layout.
    pub fn frames(&self, rows: &Range<usize>) -> Result<Vec<Frame>, Invalid> {
        arrow::frames_of(&self.rows.slice(rows.start, rows.len()))
    }

    /// The rows of `refused`, each with its reason in the column [`REASON_COLUMN`], as a body of their
    /// own. The columns keep the names and types that they have in `stream`, so that it can be sent again.
    pub fn body_of_refused(
        &self,
        stream: &Stream,
        refused: &BTreeMap<usize, String>,
    ) -> Result<Bytes, Invalid> {
        arrow::body_of_refused(stream, &self.rows, refused)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, BinaryArray, Int64Array, StringArray};
    use arrow_schema::DataType;
    use batch::REASON_COLUMN;
    use batch::arrow::Limits;

    use super::*;

    /// A batch with the keywords `from`… in record batches of `sizes` rows.
    pub(crate) fn sample(from: usize, sizes: &[usize]) -> Stream {
        let mut next = from;
        let batches: Vec<_> = sizes
            .iter()
            .map(|rows| {
                let range = next..next + rows;
                next += rows;
                let keywords = range.clone().map(|n| format!("keyword {n}"));
                let keywords: ArrayRef = Arc::new(StringArray::from_iter_values(keywords));
                let versions = range.map(|n| n as i64);
                let versions: ArrayRef = Arc::new(Int64Array::from_iter_values(versions));
                let columns = [("keyword", keywords, false), ("_version", versions, false)];
                RecordBatch::try_from_iter_with_nullable(columns).unwrap()
            })
            .collect();
        parse(&arrow::encode(&batches[0].schema(), &batches).unwrap())
    }

    pub(crate) fn parse(body: &Bytes) -> Stream {
        Stream::parse(body, &Limits::default()).unwrap()
    }

    /// The texts of a column of strings.
    pub(crate) fn texts(stream: &Stream, column: &str) -> Vec<String> {
        let decoded = stream.decode().unwrap();
        let of_batch = |rows: &RecordBatch| -> Vec<String> {
            let column = rows.column_by_name(column).unwrap().clone();
            let column = column.as_any().downcast_ref::<BinaryArray>().unwrap();
            let texts = column.iter().map(|text| text.unwrap().to_vec());
            texts.map(|text| String::from_utf8(text).unwrap()).collect()
        };
        decoded.iter().flat_map(of_batch).collect()
    }

    #[test]
    fn a_range_of_rows_follows_the_schema_message_of_its_batch() {
        let stream = sample(0, &[3, 4]);
        let rows = DecodedRows::of(&stream).unwrap();
        assert_eq!(rows.len(), 7);
        let frames = rows.frames(&(2..5)).unwrap();
        let part = parse(&arrow::join_contiguous(&stream.schema_bytes, &frames));
        assert_eq!(part.schema, stream.schema);
        assert_eq!(
            texts(&part, "keyword"),
            ["keyword 2", "keyword 3", "keyword 4"]
        );
    }

    #[test]
    fn refused_rows_come_with_their_reasons_and_a_former_reason_gives_way() {
        let stream = sample(0, &[3, 4]);
        let refuse = |stream: &Stream, rows: &[(usize, &str)]| {
            let refused = rows.iter().map(|(row, why)| (*row, (*why).to_owned()));
            let decoded = DecodedRows::of(stream).unwrap();
            parse(&decoded.body_of_refused(stream, &refused.collect()).unwrap())
        };
        let once = refuse(&stream, &[(1, "too long"), (5, "no")]);
        assert_eq!(texts(&once, "keyword"), ["keyword 1", "keyword 5"]);
        assert_eq!(texts(&once, REASON_COLUMN), ["too long", "no"]);
        let keyword = once.schema.field_with_name("keyword").unwrap();
        assert_eq!(*keyword.data_type(), DataType::Utf8);

        let twice = refuse(&once, &[(1, "still no")]);
        assert_eq!(twice.schema, once.schema);
        assert_eq!(texts(&twice, REASON_COLUMN), ["still no"]);
    }
}
