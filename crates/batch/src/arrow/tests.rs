use super::*;
use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, BinaryArray, Int64Array, StringArray};
use arrow_schema::Field;
use proptest::prelude::*;

fn sample(rows: usize) -> (Schema, RecordBatch) {
    let schema = Schema::new(vec![
        Field::new("keyword", DataType::Utf8, false),
        Field::new("volume", DataType::Int64, true),
    ]);
    let keywords = StringArray::from_iter_values((0..rows).map(|n| format!("keyword {n}")));
    let volumes = Int64Array::from_iter((0..rows).map(|n| (n % 3 > 0).then_some(n as i64)));
    let batch = RecordBatch::try_new(
        Arc::new(schema.clone()),
        vec![Arc::new(keywords), Arc::new(volumes)],
    )
    .unwrap();
    (schema, batch)
}

fn body(rows: usize) -> Bytes {
    let (schema, batch) = sample(rows);
    encode(&schema, &[batch]).unwrap()
}

#[test]
fn a_body_decodes_to_what_was_encoded() {
    let stream = Stream::parse(&body(1000), &Limits::default()).unwrap();
    assert_eq!(stream.rows(), 1000);
    let decoded = stream.decode().unwrap();
    let keywords = decoded[0].column(0).as_any().downcast_ref::<BinaryArray>();
    assert_eq!(keywords.unwrap().value(999), b"keyword 999");
}

#[test]
fn text_inside_lists_and_structs_can_be_decoded_as_bytes() {
    let list = |item| DataType::new_list(item, true);
    let fields = |item| Fields::from(vec![Field::new("a", item, true)]);
    for (text, bytes) in [
        (list(DataType::Utf8), list(DataType::Binary)),
        (list(list(DataType::Utf8)), list(list(DataType::Binary))),
        (
            DataType::Struct(fields(list(DataType::Utf8))),
            DataType::Struct(fields(list(DataType::Binary))),
        ),
    ] {
        let schema = Schema::new(vec![Field::new("x", text, true)]);
        assert_eq!(
            binary_schema(&schema, Text::All).field(0).data_type(),
            &bytes
        );
    }
}

#[test]
fn frames_of_several_bodies_join_into_one() {
    let a = Stream::parse(&body(10), &Limits::default()).unwrap();
    let b = Stream::parse(&body(5), &Limits::default()).unwrap();
    let joined = join_contiguous(&a.schema_bytes, a.frames.iter().chain(&b.frames));
    let stream = Stream::parse(&joined, &Limits::default()).unwrap();
    assert_eq!((stream.frames.len(), stream.rows()), (2, 15));
    let all = stream.decode_all().unwrap();
    let keywords = all.column(0).as_any().downcast_ref::<BinaryArray>();
    assert_eq!(
        (all.num_rows(), keywords.unwrap().value(14)),
        (15, &b"keyword 4"[..])
    );
}

#[test]
fn a_body_without_a_record_batch_decodes_to_no_rows() {
    let (schema, _) = sample(0);
    let empty = encode(&schema, &[]).unwrap();
    let rows = Stream::parse(&empty, &Limits::default())
        .unwrap()
        .decode_all();
    assert_eq!(rows.unwrap().num_rows(), 0);
}

#[test]
fn a_stream_in_pieces_of_any_size_gives_the_same_frames() {
    let whole = body(100);
    for size in [1, 7, 64, 1000] {
        let mut framer = Framer::new(Limits::default());
        let mut rows = 0;
        for piece in whole.chunks(size) {
            framer.push(Bytes::copy_from_slice(piece));
            while let Some(frame) = framer.next_frame().unwrap() {
                rows += frame.rows;
            }
        }
        assert_eq!(rows, 100);
        framer.finish().unwrap();
    }
}

#[test]
fn limits_are_checked_before_decoding() {
    let limits = |f: fn(&mut Limits)| {
        let mut limits = Limits::default();
        f(&mut limits);
        Stream::parse(&body(1000), &limits).unwrap_err().reason
    };
    assert_eq!(limits(|l| l.body_bytes = 10), Reason::Oversized);
    assert_eq!(limits(|l| l.decoded_bytes = 10), Reason::DecompressionBomb);
    assert_eq!(limits(|l| l.rows = 999), Reason::DecompressionBomb);
}

#[test]
fn a_buffer_that_lies_about_its_size_is_refused() {
    let (schema, _) = sample(0);
    let text = "a".repeat(1 << 20);
    let keywords = StringArray::from_iter_values([text.as_str()]);
    let batch = RecordBatch::try_new(
        Arc::new(schema.clone()),
        vec![Arc::new(keywords), Arc::new(Int64Array::from(vec![1]))],
    )
    .unwrap();
    let honest = encode(&schema, &[batch]).unwrap();
    let size = (1u64 << 20).to_le_bytes();
    let at = honest.windows(8).rposition(|w| w == size).unwrap();
    let mut lying = honest.to_vec();
    lying[at..at + 8].copy_from_slice(&16u64.to_le_bytes());
    let stream = Stream::parse(&Bytes::from(lying), &Limits::default()).unwrap();
    assert_eq!(stream.decode().unwrap_err().reason, Reason::NotReadable);
}

#[test]
fn lists_are_columns_whose_values_are_more_or_fewer_than_the_rows() {
    let mut lists = ListBuilder::new(StringBuilder::new());
    for texts in [&["a", "b", "c", "d"][..], &[], &["e"]] {
        lists.append_value(texts.iter().map(Some));
    }
    let lists: ArrayRef = Arc::new(lists.finish());
    let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
    let columns = [("texts", lists), ("number", numbers)];
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let body = encode(&batch.schema(), std::slice::from_ref(&batch)).unwrap();
    let stream = Stream::parse(&body, &Limits::default()).unwrap();
    assert_eq!(stream.decode().unwrap()[0], batch);
}

#[test]
fn what_is_not_arrow_is_named() {
    let html = Bytes::from_static(b"<html><body>502 Bad Gateway</body></html>");
    let error = Stream::parse(&html, &Limits::default()).unwrap_err();
    assert_eq!(error.reason, Reason::NotReadable);
}

proptest! {
    #[test]
    fn every_cut_of_a_body_is_refused(cut in 0usize..5000) {
        let body = body(100);
        let cut = cut.min(body.len() - 1);
        let error = Stream::parse(&body.slice(..cut), &Limits::default()).unwrap_err();
        prop_assert_eq!(error.reason, Reason::Truncated);
    }

    #[test]
    fn any_bytes_are_refused_without_harm(bytes: Vec<u8>) {
        prop_assert!(Stream::parse(&bytes.into(), &Limits::default()).is_err());
    }
}

/// Each byte of a body, changed in each bit and in some at once: 33 at one position makes a length that arrow's
/// decoder asserts instead of checking.
#[test]
fn flipped_bytes_never_harm() {
    let body = body(10);
    let bits = (0..8).map(|bit| 1u8 << bit);
    for with in bits.chain([33, 0x7F, 0xFF]) {
        for at in 0..body.len() {
            let mut bytes = body.to_vec();
            bytes[at] ^= with;
            if let Ok(stream) = Stream::parse(&bytes.into(), &Limits::default()) {
                let _ = stream.decode();
            }
        }
    }
}

/// 2,000 fields that share one name of half a megabyte: a gigabyte, once they are read.
#[test]
fn a_schema_that_says_one_thing_many_times_is_refused_unread() {
    let name = "n".repeat(500_000);
    let mut fbb = flatbuffers::FlatBufferBuilder::new();
    let name = fbb.create_string(&name);
    let int = arrow_ipc::IntBuilder::new(&mut fbb)
        .finish()
        .as_union_value();
    let mut field = arrow_ipc::FieldBuilder::new(&mut fbb);
    field.add_name(name);
    field.add_type_type(arrow_ipc::Type::Int);
    field.add_type_(int);
    let field = field.finish();
    let fields = fbb.create_vector(&vec![field; 2000]);
    let mut schema = arrow_ipc::SchemaBuilder::new(&mut fbb);
    schema.add_fields(fields);
    let schema = schema.finish().as_union_value();
    let mut message = arrow_ipc::MessageBuilder::new(&mut fbb);
    message.add_version(arrow_ipc::MetadataVersion::V5);
    message.add_header_type(arrow_ipc::MessageHeader::Schema);
    message.add_header(schema);
    let message = message.finish();
    fbb.finish(message, None);
    let metadata = fbb.finished_data();
    let mut body = vec![0xFF; 4];
    body.extend((metadata.len() as i32).to_le_bytes());
    body.extend(metadata);
    body.extend(END);
    let error = Stream::parse(&body.into(), &Limits::default()).unwrap_err();
    assert_eq!(error.reason, Reason::NotReadable, "{error}");
}
