use std::sync::Arc;

use arrow_array::builder::{BinaryBuilder, ListBuilder, StringBuilder};
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int8Array, Int64Array, RecordBatch, TimestampMicrosecondArray,
    UInt32Array, UInt64Array,
};
use batch::{REASON_COLUMN, VERSION_COLUMN};
use proptest::prelude::*;
use serde_json::{Value, json};
use stores::Mapping;
use stores::elasticsearch::{IndexSettings, Minimum};

use super::*;
use crate::json_column::JsonColumn;
use crate::layout::DocumentLayout;

const PLENTY: BulkLimits = BulkLimits {
    rows: 1000,
    bytes: 1 << 20,
};

fn text<B: AsRef<[u8]>>(values: &[B]) -> ArrayRef {
    Arc::new(BinaryArray::from_iter_values(values))
}

fn rows(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true)))
        .unwrap()
}

/// Rows of country `us` with these keywords and versions 1, 2, 3…
fn keywords<B: AsRef<[u8]>>(keywords: &[B]) -> RecordBatch {
    with(keywords, vec![])
}

fn with<B: AsRef<[u8]>>(keywords: &[B], more: Vec<(&'static str, ArrayRef)>) -> RecordBatch {
    let versions = Int64Array::from_iter_values(1..=keywords.len() as i64);
    let mut columns = vec![
        ("country", text(&vec!["us"; keywords.len()])),
        ("keyword", text(keywords)),
    ];
    columns.extend(more);
    columns.push((VERSION_COLUMN, Arc::new(versions)));
    rows(columns)
}

fn documents(batch: &RecordBatch, indices: &[IndexSettings]) -> BatchDocuments {
    let key = ["country".to_owned(), "keyword".to_owned()];
    let layout = DocumentLayout::new(&batch.schema(), &key, &Mapping::default(), indices).unwrap();
    BatchDocuments::new(batch, Arc::new(layout))
}

/// Every line of the bulks, read back.
fn lines(bulks: &[Bulk]) -> Vec<Value> {
    let body: Vec<u8> = bulks.iter().flat_map(|bulk| bulk.body.to_vec()).collect();
    let lines = body.split_inclusive(|b| *b == b'\n');
    lines
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

fn all(batch: &RecordBatch) -> Vec<Value> {
    lines(&encode(
        &[documents(batch, &[IndexSettings::default()])],
        0,
        PLENTY,
    ))
}

fn id_of(batch: &RecordBatch) -> String {
    all(batch)[0]["index"]["_id"].as_str().unwrap().to_owned()
}

#[test]
fn every_kind_of_column_is_written_as_its_json() {
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("a\"b"), None, Some("")]);
    tags.append_null();
    let decimal = Decimal128Array::from(vec![Some(-1205), None]).with_precision_and_scale(9, 3);
    let country = FixedSizeBinaryArray::try_from_iter([b"us\0\0", b"de\0\0"].iter()).unwrap();
    let batch = rows(vec![
        ("country", Arc::new(country)),
        ("keyword", text(&["a", "b"])),
        (
            "processed_volume",
            Arc::new(UInt64Array::from(vec![u64::MAX, 0])),
        ),
        ("small", Arc::new(Int8Array::from(vec![Some(-128), None]))),
        (
            "share",
            Arc::new(Float32Array::from(vec![0.1, f32::INFINITY])),
        ),
        ("cpc", Arc::new(Float64Array::from(vec![1e300, f64::NAN]))),
        (
            "brand",
            Arc::new(BooleanArray::from(vec![Some(true), None])),
        ),
        ("price", Arc::new(decimal.unwrap())),
        ("day", Arc::new(Date32Array::from(vec![Some(1), None]))),
        (
            "seen",
            Arc::new(TimestampMicrosecondArray::from(vec![1_999, -1])),
        ),
        ("since", Arc::new(UInt32Array::from(vec![1_700_000_000, 0]))),
        ("tags", Arc::new(tags.finish())),
        (REASON_COLUMN, text(&["an", "earlier one"])),
        (VERSION_COLUMN, Arc::new(Int64Array::from(vec![7, 0]))),
    ]);
    let expected = [
        json!({"index": {"_id": "us/a", "version": 7, "version_type": "external"}}),
        json!({"country": "us", "keyword": "a", "volume": u64::MAX, "small": -128, "share": 0.1,
            "cpc": 1e300, "brand": true, "price": "-1.205", "day": 86_400_000, "seen": 1,
            "since": 1_700_000_000, "tags": ["a\"b", null, ""]}),
        json!({"index": {"_id": "de/b", "version": 0, "version_type": "external"}}),
        json!({"country": "de", "keyword": "b", "volume": 0, "small": null, "share": null,
            "cpc": null, "brand": null, "price": null, "day": null, "seen": -1,
            "since": 0, "tags": null}),
    ];
    let found = all(&batch);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert_eq!(found, expected);
    }
}

#[test]
fn different_keys_have_different_ids() {
    let pairs = [
        ("us", "a"),
        ("us/a", ""),
        ("us", "/a"),
        ("us/", "a"),
        ("us\\", "a"),
        ("us\\/a", ""),
    ];
    let ids: std::collections::BTreeSet<String> = pairs
        .iter()
        .map(|(country, keyword)| {
            id_of(&rows(vec![
                ("country", text(&[country])),
                ("keyword", text(&[keyword])),
                (VERSION_COLUMN, Arc::new(Int64Array::from(vec![1]))),
            ]))
        })
        .collect();
    assert_eq!(ids.len(), pairs.len(), "{ids:?}");
    assert!(ids.contains("us/a"));
}

#[test]
fn an_id_of_512_bytes_stays_and_a_longer_one_is_hashed() {
    let longest = "é".repeat(254) + "x";
    assert_eq!(id_of(&keywords(&[&longest])), format!("us/{longest}"));
    let too_long = "é".repeat(255);
    let id = id_of(&keywords(&[&too_long]));
    // printf 'us/%s' "$(printf 'é%.0s' $(seq 255))" | sha256sum
    assert_eq!(
        id,
        "sha256:c2c4860021fc6badfe7c9e957cde31fb63c7902aa648f5de97424464d930d2db"
    );
}

#[test]
fn a_row_that_cannot_be_a_document_is_refused_alone_with_the_reason() {
    let batch = rows(vec![
        (
            "country",
            Arc::new(BinaryArray::from_opt_vec(vec![
                Some(b"us"),
                None,
                Some(b"us"),
                Some(b"us"),
                Some(b"us"),
            ])),
        ),
        (
            "keyword",
            text(&[b"ok".as_slice(), b"a", b"b\xff", b"c", b"d"]),
        ),
        (
            VERSION_COLUMN,
            Arc::new(Int64Array::from(vec![
                Some(1),
                Some(1),
                Some(1),
                Some(-5),
                None,
            ])),
        ),
    ]);
    let documents = documents(&batch, &[IndexSettings::default()]);
    let reasons: Vec<_> = documents
        .refused()
        .iter()
        .map(|(row, why)| (*row, why.as_str()))
        .collect();
    assert_eq!(reasons[0], (1, "key column country is null"));
    assert_eq!(
        reasons[1],
        (2, "column keyword is not UTF-8 from byte 1 on")
    );
    assert_eq!(reasons[2].0, 3);
    assert!(reasons[2].1.contains("_version is -5"), "{reasons:?}");
    assert_eq!(reasons[3], (4, "column _version is null"));
    assert_eq!(encode(&[documents], 0, PLENTY)[0].rows, [0]);
}

#[test]
fn bytes_that_are_text_only_together_are_refused_apart() {
    let batch = keywords(&[b"\xc3".as_slice(), b"\xa9", b"fine"]);
    let documents = documents(&batch, &[IndexSettings::default()]);
    assert_eq!(
        documents.refused().keys().copied().collect::<Vec<_>>(),
        [0, 1]
    );
}

#[test]
fn an_item_of_a_list_that_is_not_text_refuses_its_row() {
    let mut tags = ListBuilder::new(BinaryBuilder::new());
    tags.append_value([Some(b"a"), Some(b"b")]);
    tags.append_value(std::iter::empty::<Option<&[u8]>>());
    tags.append_value([Some(b"c"), Some(b"\xff")]);
    let batch = with(&["x", "y", "z"], vec![("tags", Arc::new(tags.finish()))]);
    let documents = documents(&batch, &[IndexSettings::default()]);
    let refused: Vec<_> = documents.refused().iter().collect();
    let why = "column tags is not UTF-8 from byte 0 on".to_owned();
    assert_eq!(refused, [(&2, &why)]);
    let bulks = encode(&[documents], 0, PLENTY);
    assert_eq!(lines(&bulks)[1]["tags"], json!(["a", "b"]));
    assert_eq!(lines(&bulks)[3]["tags"], json!([]));
}

#[test]
fn rows_below_the_minimum_stay_out_of_that_index_alone() {
    let volume = UInt64Array::from(vec![Some(9), Some(10), None, Some(u64::MAX)]);
    let batch = with(
        &["a", "b", "c", "d"],
        vec![("processed_volume", Arc::new(volume))],
    );
    let lite = IndexSettings {
        fields: vec!["volume".into()],
        minimum: Some(Minimum {
            field: "volume".into(),
            value: 10.0,
        }),
        ..IndexSettings::default()
    };
    let batches = [documents(&batch, &[IndexSettings::default(), lite])];
    assert_eq!(encode(&batches, 0, PLENTY)[0].rows, [0, 1, 2, 3]);
    let bulks = encode(&batches, 1, PLENTY);
    assert_eq!(bulks[0].rows, [1, 3]);
    assert_eq!(
        lines(&bulks)[1],
        json!({"country": "us", "keyword": "b", "volume": 10})
    );
}

#[test]
fn a_minimum_is_compared_in_the_type_of_its_column() {
    let at_least =
        |column: ArrayRef, minimum| JsonColumn::new(&column, &mut Vec::new()).at_least(minimum);
    let exact = 1_u64 << 53;
    let large = UInt64Array::from(vec![exact + 3, exact + 4, u64::MAX]);
    assert_eq!(
        at_least(Arc::new(large), (exact + 4) as f64),
        [false, true, true]
    );
    let negative = Int64Array::from(vec![Some(-1), Some(i64::MIN), None]);
    assert_eq!(at_least(Arc::new(negative), -1.5), [true, false, false]);
    let single = Float32Array::from(vec![0.7, 0.699, f32::NAN, f32::INFINITY]);
    assert_eq!(at_least(Arc::new(single), 0.7), [true, false, false, true]);
    let decimal = Decimal128Array::from(vec![Some(1000), Some(999), None]);
    let decimal = decimal.with_precision_and_scale(18, 2).unwrap();
    assert_eq!(at_least(Arc::new(decimal), 10.0), [true, false, false]);
}

#[test]
fn rows_are_numbered_through_all_batches_of_a_group() {
    let a = documents(
        &keywords(&[b"a".as_slice(), b"\xff"]),
        &[IndexSettings::default()],
    );
    let b = documents(&keywords(&["b"]), &[IndexSettings::default()]);
    assert_eq!(encode(&[a, b], 0, PLENTY)[0].rows, [0, 2]);
}

#[test]
fn a_group_is_cut_by_rows_and_by_bytes_without_losing_a_row() {
    let batch = keywords(&["a", "b", "c", &"d".repeat(600), "e"]);
    let batches = [documents(&batch, &[IndexSettings::default()])];
    let whole = encode(&batches, 0, PLENTY);
    let cut = |rows, bytes| {
        let bulks = encode(&batches, 0, BulkLimits { rows, bytes });
        assert_eq!(lines(&bulks), lines(&whole));
        bulks.into_iter().map(|bulk| bulk.rows).collect::<Vec<_>>()
    };
    assert_eq!(cut(2, 1 << 20), [vec![0, 1], vec![2, 3], vec![4]]);
    assert_eq!(cut(1000, 250), [vec![0, 1], vec![2], vec![3], vec![4]]);
    assert_eq!(cut(1000, 1), [[0], [1], [2], [3], [4]]);
}

#[test]
fn a_bulk_is_made_again_for_some_of_its_rows() {
    let batches = [documents(
        &keywords(&["a", "b", "c"]),
        &[IndexSettings::default()],
    )];
    let bulk = &encode(&batches, 0, PLENTY)[0];
    let some = bulk.only(&[0, 2]);
    assert_eq!(some.rows, [0, 2]);
    assert_eq!(
        lines(std::slice::from_ref(&some))[3],
        json!({"country": "us", "keyword": "c"})
    );
    let [left, right] = some.halves().unwrap();
    assert_eq!((left.rows.clone(), right.rows.clone()), (vec![0], vec![2]));
    assert_eq!(lines(&[left, right.clone()]), lines(&[some]));
    assert!(right.halves().is_none());
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        any::<String>().prop_map(String::into_bytes),
        any::<Vec<u8>>()
    ]
}

/// Fractions that serde_json's own reader, which may be off by the last bit, reads back exactly.
fn eighths() -> impl Strategy<Value = Option<f64>> {
    prop::option::of(any::<i32>().prop_map(|n| f64::from(n) / 8.0))
}

proptest! {
    #[test]
    fn every_float_reads_back_to_the_last_bit(value in any::<f64>()) {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![value]));
        let mut out = Vec::new();
        JsonColumn::new(&column, &mut Vec::new()).write_json(0, &mut out);
        let out = String::from_utf8(out).unwrap();
        if value.is_finite() {
            prop_assert_eq!(out.parse::<f64>().unwrap().to_bits(), value.to_bits());
        } else {
            prop_assert_eq!(out, "null");
        }
    }

    #[test]
    fn any_row_is_a_document_that_reads_back_or_is_refused(
        rows_in in prop::collection::vec(
            (any_text(), any_text(), any::<Option<u64>>(), eighths(), any::<i64>()), 1..20),
    ) {
        let countries: Vec<_> = rows_in.iter().map(|r| &r.0).collect();
        let words: Vec<_> = rows_in.iter().map(|r| &r.1).collect();
        let batch = rows(vec![
            ("country", text(&countries)),
            ("keyword", text(&words)),
            ("volume", Arc::new(UInt64Array::from_iter(rows_in.iter().map(|r| r.2)))),
            ("cpc", Arc::new(Float64Array::from_iter(rows_in.iter().map(|r| r.3)))),
            (VERSION_COLUMN, Arc::new(Int64Array::from_iter_values(rows_in.iter().map(|r| r.4)))),
        ]);
        let documents = documents(&batch, &[IndexSettings::default()]);
        let refused = documents.refused().clone();
        let bulks = encode(&[documents], 0, PLENTY);
        let mut found = lines(&bulks).into_iter();
        for (row, (country, keyword, volume, cpc, version)) in rows_in.iter().enumerate() {
            let texts = (std::str::from_utf8(country), std::str::from_utf8(keyword));
            let (Ok(country), Ok(keyword), 0..) = (texts.0, texts.1, *version) else {
                prop_assert!(refused.contains_key(&row));
                continue;
            };
            prop_assert!(!refused.contains_key(&row));
            let action = found.next().unwrap();
            prop_assert!(action["index"]["_id"].as_str().unwrap().len() <= 512);
            prop_assert_eq!(&action["index"]["version"], &json!(version));
            let document = found.next().unwrap();
            prop_assert_eq!(document, json!({
                "country": country, "keyword": keyword, "volume": volume, "cpc": cpc }));
        }
        prop_assert!(found.next().is_none());
    }
}
