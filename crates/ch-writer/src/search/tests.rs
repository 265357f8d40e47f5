use std::collections::BTreeSet;
use std::sync::Mutex;

use batch::Reason;
use batch::arrow::{self, Limits};
use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::rows::tests::{parse, sample, texts};

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

impl Store for Picky {
    async fn insert(&self, frames: Vec<Frame>) -> Verdict {
        let mut left = self.inserts_left.lock().unwrap();
        let Some(fewer) = left.checked_sub(1) else {
            return Verdict::Failed(Outcome::retry("away", "shard 0"));
        };
        *left = fewer;
        let body = arrow::join_contiguous(&self.schema, &frames);
        let keywords = texts(&parse(&body), "keyword");
        if let Some(bad) = keywords.iter().find(|k| self.refuses.contains(*k)) {
            return Verdict::Refused(format!("{bad} is bad"));
        }
        self.stored.lock().unwrap().extend(keywords);
        Verdict::Taken
    }
}

async fn insert(store: &Picky, batches: &[Stream], max_refused: usize) -> Vec<Fate> {
    let batches: Vec<_> = batches.iter().collect();
    insert_all(store, &batches, max_refused).await
}

fn refused(fate: &Fate) -> Vec<usize> {
    match fate {
        Fate::Taken { refused } => refused.keys().copied().collect(),
        other => panic!("{other:?}"),
    }
}

fn group() -> Vec<Stream> {
    (0..8).map(|n| sample(n * 100, &[60, 40])).collect()
}

#[tokio::test]
async fn good_batches_are_one_insert() {
    let store = Picky::new([]);
    let fates = insert(&store, &group(), 50).await;
    assert!(fates.iter().all(|fate| refused(fate).is_empty()));
    assert_eq!(store.inserts(), 1);
    assert_eq!(store.stored.lock().unwrap().len(), 800);
}

#[tokio::test]
async fn refused_rows_are_found_with_few_inserts_and_every_other_row_is_in() {
    let store = Picky::new([350, 399, 700]);
    let fates = insert(&store, &group(), 50).await;
    let found: Vec<_> = fates.iter().map(refused).collect();
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
    let Fate::Taken { refused } = &fates[3] else {
        panic!("{:?}", fates[3])
    };
    assert_eq!(refused[&50], "keyword 350 is bad");
    assert_eq!(store.stored.lock().unwrap().len(), 797);
    // Two inserts for each halving on the way to a row: 3 among the batches, 7 among the rows.
    assert!(store.inserts() <= 2 * 3 * 10, "{}", store.inserts());
}

#[tokio::test]
async fn a_batch_with_too_many_refused_rows_is_not_searched_to_its_end() {
    let store = Picky::new(0..1000);
    let fates = insert(&store, &[sample(0, &[1000])], 5).await;
    assert_eq!(refused(&fates[0]).len(), 1000);
    let Fate::Taken { refused } = &fates[0] else {
        panic!("{:?}", fates[0])
    };
    assert_eq!(refused[&4], "keyword 4 is bad");
    assert!(refused[&5].starts_with("not tried"), "{}", refused[&5]);
    assert!(refused[&5].ends_with("keyword 4 is bad"), "{}", refused[&5]);
    assert!(store.inserts() < 30, "{}", store.inserts());
}

#[tokio::test]
async fn a_store_that_fails_in_the_middle_fails_the_batches_that_are_not_decided() {
    // The first half of the batches goes in with the second insert, the third one fails.
    let store = Picky::new([750]).failing_after(2);
    let fates = insert(&store, &group(), 50).await;
    let failed = Fate::Failed(Outcome::retry("away", "shard 0"));
    assert!(fates[..4].iter().all(|fate| refused(fate).is_empty()));
    assert_eq!(fates[4..], vec![failed; 4]);
}

#[tokio::test]
async fn a_batch_whose_search_is_cut_short_fails_whole() {
    let store = Picky::new([10]).failing_after(4);
    let fates = insert(&store, &[sample(0, &[100])], 50).await;
    assert_eq!(fates, [Fate::Failed(Outcome::retry("away", "shard 0"))]);
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
    impl Store for Strict {
        async fn insert(&self, frames: Vec<Frame>) -> Verdict {
            let body = arrow::join_contiguous(&self.0.schema, &frames);
            match parse(&body).decode() {
                Ok(_) => self.0.insert(frames).await,
                Err(error) => Verdict::Refused(error.to_string()),
            }
        }
    }
    let store = Strict(Picky::new([]));
    let other = sample(100, &[100]);
    let fates = insert_all(&store, &[&other, &broken], 50).await;
    assert_eq!(refused(&fates[0]), Vec::<usize>::new());
    let Fate::Unreadable(invalid) = &fates[1] else {
        panic!("{:?}", fates[1])
    };
    assert_eq!(invalid.reason, Reason::NotReadable);
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
        let fates = runtime.block_on(insert(&store, &batches, 50));
        let mut from = 0;
        let mut found = BTreeSet::new();
        for (fate, size) in fates.iter().zip(&sizes) {
            found.extend(refused(fate).into_iter().map(|row| from + row));
            from += size;
        }
        let expected: BTreeSet<_> = bad.into_iter().filter(|row| *row < from).collect();
        prop_assert_eq!(store.stored.lock().unwrap().len(), from - expected.len());
        prop_assert_eq!(found, expected);
    }
}
