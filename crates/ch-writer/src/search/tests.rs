use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use arrow_array::{ArrayRef, BinaryArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::DataType;
use batch::arrow::Limits;
use batch::{REASON_COLUMN, Reason};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// A batch with the keywords `from`… in record batches of `sizes` rows.
fn sample(from: usize, sizes: &[usize]) -> Stream {
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

fn parse(body: &Bytes) -> Stream {
    Stream::parse(body, &Limits::default()).unwrap()
}

/// The texts of a column of strings.
fn texts(stream: &Stream, column: &str) -> Vec<String> {
    let decoded = stream.decode().unwrap();
    let of_batch = |rows: &RecordBatch| -> Vec<String> {
        let column = rows.column_by_name(column).unwrap().clone();
        let column = column.as_any().downcast_ref::<BinaryArray>().unwrap();
        let texts = column.iter().map(|text| text.unwrap().to_vec());
        texts.map(|text| String::from_utf8(text).unwrap()).collect()
    };
    decoded.iter().flat_map(of_batch).collect()
}

type InsertResult = Result<RefusedRows, Outcome>;

/// A store that refuses some keywords, and fails after a number of inserts.
struct Picky {
    schema: Bytes,
    refuses: BTreeSet<String>,
    inserts_left: Mutex<usize>,
    stored: Mutex<BTreeSet<String>>,
}

impl Picky {
    fn new(rows: impl IntoIterator<Item = usize>) -> Self {
        Self {
            schema: sample(0, &[1]).schema_bytes,
            refuses: rows.into_iter().map(|n| format!("keyword {n}")).collect(),
            inserts_left: Mutex::new(usize::MAX),
            stored: Mutex::new(BTreeSet::new()),
        }
    }

    fn failing_after(self, inserts: usize) -> Self {
        *self.inserts_left.lock().unwrap() = inserts;
        self
    }

    fn inserts(&self) -> usize {
        usize::MAX - *self.inserts_left.lock().unwrap()
    }
}

impl RowStore for Picky {
    async fn insert(&self, frames: Vec<Frame>) -> Result<Option<String>, Outcome> {
        let mut left = self.inserts_left.lock().unwrap();
        let Some(fewer) = left.checked_sub(1) else {
            return Err(Outcome::retry("away", "shard 0"));
        };
        *left = fewer;
        let body = arrow::join_contiguous(&self.schema, &frames);
        let keywords = texts(&parse(&body), "keyword");
        if let Some(bad) = keywords.iter().find(|k| self.refuses.contains(*k)) {
            return Ok(Some(format!("{bad} is bad")));
        }
        self.stored.lock().unwrap().extend(keywords);
        Ok(None)
    }
}

async fn insert(store: &Picky, batches: &[Stream], max_refused: usize) -> Vec<InsertResult> {
    let batches: Vec<_> = batches.iter().collect();
    insert_all(store, &batches, max_refused).await
}

fn refused(result: &InsertResult) -> Vec<usize> {
    result.as_ref().unwrap().keys().copied().collect()
}

fn group() -> Vec<Stream> {
    (0..8).map(|n| sample(n * 100, &[60, 40])).collect()
}

#[tokio::test]
async fn good_batches_are_one_insert() {
    let store = Picky::new([]);
    let results = insert(&store, &group(), 50).await;
    assert!(results.iter().all(|result| refused(result).is_empty()));
    assert_eq!(store.inserts(), 1);
    assert_eq!(store.stored.lock().unwrap().len(), 800);
}

#[tokio::test]
async fn refused_rows_are_found_with_few_inserts_and_every_other_row_is_in() {
    let store = Picky::new([350, 399, 700]);
    let results = insert(&store, &group(), 50).await;
    let found: Vec<_> = results.iter().map(refused).collect();
    let none = Vec::new;
    let expected = [
        none(),
        none(),
        none(),
        vec![50, 99],
        none(),
        none(),
        none(),
        vec![0],
    ];
    assert_eq!(found, expected);
    let refused = results[3].as_ref().unwrap();
    assert_eq!(refused[&50], "keyword 350 is bad");
    assert_eq!(store.stored.lock().unwrap().len(), 797);
    // Two inserts for each halving on the way to a row: 3 among the batches, 7 among the rows.
    assert!(store.inserts() <= 2 * 3 * 10, "{}", store.inserts());
}

#[tokio::test]
async fn a_batch_with_too_many_refused_rows_is_not_searched_to_its_end() {
    let store = Picky::new(0..1000);
    let results = insert(&store, &[sample(0, &[1000])], 5).await;
    assert_eq!(refused(&results[0]).len(), 1000);
    let refused = results[0].as_ref().unwrap();
    assert_eq!(refused[&4], "keyword 4 is bad");
    assert!(refused[&5].starts_with("not tried"), "{}", refused[&5]);
    assert!(refused[&5].ends_with("keyword 4 is bad"), "{}", refused[&5]);
    assert!(store.inserts() < 30, "{}", store.inserts());
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_fails_the_batches_that_are_not_decided() {
    // The first half of the batches goes in with the second insert, the third one fails.
    let store = Picky::new([750]).failing_after(2);
    let results = insert(&store, &group(), 50).await;
    let failed = Err(Outcome::retry("away", "shard 0"));
    assert!(results[..4].iter().all(|result| refused(result).is_empty()));
    assert_eq!(results[4..], vec![failed; 4]);
}

#[tokio::test]
async fn a_batch_whose_search_is_cut_short_fails_whole() {
    let store = Picky::new([10]).failing_after(4);
    let results = insert(&store, &[sample(0, &[100])], 50).await;
    assert_eq!(results, [Err(Outcome::retry("away", "shard 0"))]);
}

#[tokio::test]
async fn a_batch_that_cannot_be_decoded_is_named_and_the_others_are_stored() {
    let good = sample(0, &[100]);
    let body = arrow::join_contiguous(&good.schema_bytes, &good.frames);
    let mut bytes = body.to_vec();
    // Within the compressed data: the headers stay whole.
    let at = bytes.len() - 40;
    bytes[at..at + 16].fill(0xAA);
    let broken = Stream::parse(&bytes.into(), &Limits::default()).unwrap();

    struct Strict(Picky);
    impl RowStore for Strict {
        async fn insert(&self, frames: Vec<Frame>) -> Result<Option<String>, Outcome> {
            let body = arrow::join_contiguous(&self.0.schema, &frames);
            match parse(&body).decode() {
                Ok(_) => self.0.insert(frames).await,
                Err(error) => Ok(Some(error.to_string())),
            }
        }
    }
    let store = Strict(Picky::new([]));
    let other = sample(100, &[100]);
    let results = insert_all(&store, &[&other, &broken], 50).await;
    assert_eq!(refused(&results[0]), Vec::<usize>::new());
    let Err(Outcome::Quarantine(invalid)) = &results[1] else {
        panic!("{:?}", results[1])
    };
    assert_eq!(invalid.reason, Reason::NotReadable);
}

#[test]
fn a_range_of_rows_follows_the_schema_message_of_its_batch() {
    let stream = sample(0, &[3, 4]);
    let rows = stream.decode_all().unwrap();
    assert_eq!(rows.num_rows(), 7);
    let frames = arrow::frames_from_rows(&rows.slice(2, 3)).unwrap();
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
        let decoded = stream.decode_all().unwrap();
        let body = arrow::body_of_refused(stream, &decoded, &refused.collect());
        parse(&body.unwrap())
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

proptest! {
    #[test]
    fn every_row_is_either_stored_or_refused(
        bad in proptest::collection::btree_set(0usize..90, 0..12),
        sizes in proptest::collection::vec(1usize..30, 1..4),
    ) {
        let mut from = 0;
        let mut batches = Vec::new();
        for size in &sizes {
            batches.push(sample(from, &[*size]));
            from += size;
        }
        let store = Picky::new(bad.iter().copied());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let results = runtime.block_on(insert(&store, &batches, 50));
        let mut from = 0;
        let mut found = BTreeSet::new();
        for (result, size) in results.iter().zip(&sizes) {
            found.extend(refused(result).into_iter().map(|row| from + row));
            from += size;
        }
        let expected: BTreeSet<_> = bad.into_iter().filter(|row| *row < from).collect();
        prop_assert_eq!(store.stored.lock().unwrap().len(), from - expected.len());
        prop_assert_eq!(found, expected);
    }
}
