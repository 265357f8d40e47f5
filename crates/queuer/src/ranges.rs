//! Cuts the key space of each shard into ranges of nearly equal rows. Pure.

use batch::{KeyRange, KeyValue};

/// The first key of a granule and the number of rows from there: one entry of a primary index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    pub key: Vec<KeyValue>,
    pub rows: u64,
}

/// A range and the rows that the primary index counts in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeEstimate {
    pub range: KeyRange,
    pub rows: u64,
}

/// Cuts each shard, given by its entries in the order of their keys, into ranges: at least `min_ranges`
/// over all shards together, each shard's share in proportion to its rows.
///
/// Ranges of a shard are disjoint, and cover every key: the first has no lower bound, the last no upper one. Each begins
/// at the key of an entry, so none is empty, and there are no more ranges than distinct keys of entries. The largest
/// holds at most one granule of each part more than the mean. Granules of several parts overlap, and count where they
/// begin.
pub fn split_into_ranges(shards: &[Vec<IndexEntry>], min_ranges: usize) -> Vec<Vec<RangeEstimate>> {
    let segments: Vec<Vec<IndexEntry>> = shards.iter().map(|entries| distinct(entries)).collect();
    let counts = range_counts(&segments, min_ranges);
    segments
        .iter()
        .zip(counts)
        .map(|(segments, count)| ranges(segments, count))
        .collect()
}

/// One entry for each key, with the rows of all entries of that key. A part's last entry has no rows: it
/// marks the end of the part.
fn distinct(entries: &[IndexEntry]) -> Vec<IndexEntry> {
    let mut distinct: Vec<IndexEntry> = Vec::with_capacity(entries.len());
    for entry in entries.iter().filter(|entry| entry.rows > 0) {
        match distinct.last_mut() {
            Some(last) if last.key == entry.key => last.rows = last.rows.saturating_add(entry.rows),
            _ => distinct.push(entry.clone()),
        }
    }
    distinct
}

/// How many ranges each shard is cut into, so that no range exceeds a number of rows that is the same for all shards
/// and as large as `min_ranges` allows.
fn range_counts(shards: &[Vec<IndexEntry>], min_ranges: usize) -> Vec<usize> {
    let rows: Vec<u64> = shards.iter().map(|entries| total(entries)).collect();
    let max: usize = shards.iter().map(Vec::len).sum();
    let counts = |rows_per_range: u64| {
        let for_shard = move |(entries, rows): (&Vec<IndexEntry>, &u64)| {
            let wanted = usize::try_from(rows.div_ceil(rows_per_range)).unwrap_or(usize::MAX);
            wanted.min(entries.len())
        };
        shards.iter().zip(&rows).map(for_shard)
    };
    // Ranges of one row are enough for any number of ranges that the entries allow.
    let (mut enough, mut too_large) = (1, rows.iter().copied().max().unwrap_or(0).max(1) + 1);
    while too_large - enough > 1 {
        let middle = enough + (too_large - enough) / 2;
        if counts(middle).sum::<usize>() >= min_ranges.min(max) {
            enough = middle;
        } else {
            too_large = middle;
        }
    }
    counts(enough).collect()
}

/// Cuts one shard into exactly `count` ranges, each boundary as near as it can be to its quantile.
fn ranges(segments: &[IndexEntry], count: usize) -> Vec<RangeEstimate> {
    let mut before = Vec::with_capacity(segments.len() + 1);
    before.push(0);
    for segment in segments {
        before.push(before[before.len() - 1] + u128::from(segment.rows));
    }
    let all = before[segments.len()];
    let mut starts = Vec::with_capacity(count + 1);
    for n in 0..count {
        let Some(last) = starts.last() else {
            starts.push(0);
            continue;
        };
        let quantile = all * n as u128 / count as u128;
        // Every range gets a segment: this one begins after the last, and leaves enough for the others.
        starts.push(nearest(&before, quantile).clamp(last + 1, segments.len() - (count - n)));
    }
    starts.push(segments.len());
    let key = |at: usize| segments.get(at).map(|segment| segment.key.clone());
    starts
        .windows(2)
        .map(|ends| RangeEstimate {
            range: KeyRange {
                lower: key(ends[0]).filter(|_| ends[0] > 0),
                upper: key(ends[1]),
            },
            rows: total(&segments[ends[0]..ends[1]]),
        })
        .collect()
}

/// Position of the entry nearest to `wanted`, in ascending entries.
fn nearest(entries: &[u128], wanted: u128) -> usize {
    let above = entries.partition_point(|entry| *entry < wanted);
    match entries.get(above) {
        Some(entry) if above > 0 && entry - wanted > wanted - entries[above - 1] => above - 1,
        Some(_) => above,
        None => entries.len() - 1,
    }
}

fn total(entries: &[IndexEntry]) -> u64 {
    entries.iter().map(|entry| entry.rows).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRANULE: u64 = 8192;

    fn entry(key: &[u8], rows: u64) -> IndexEntry {
        let digits: String = key.iter().map(|byte| format!("{byte:02X}")).collect();
        IndexEntry {
            key: vec![KeyValue::Hex(digits)],
            rows,
        }
    }

    fn numbered(count: u64) -> Vec<IndexEntry> {
        (0..count)
            .map(|n| entry(&n.to_be_bytes(), GRANULE))
            .collect()
    }

    fn count(split: &[Vec<RangeEstimate>]) -> usize {
        split.iter().map(Vec::len).sum()
    }

    #[test]
    fn a_large_table_is_cut_into_at_least_as_many_ranges_as_asked_for() {
        let split = split_into_ranges(&[numbered(5_000), numbered(2_500)], 1024);
        assert!(count(&split) >= 1024, "{}", count(&split));
        assert!(count(&split) <= 1024 + 2, "{}", count(&split));
        assert!(split[0].len().abs_diff(2 * split[1].len()) <= 2);
    }

    #[test]
    fn as_many_entries_as_ranges_asked_for_are_enough() {
        assert_eq!(
            count(&split_into_ranges(&[numbered(1_000), numbered(24)], 1024)),
            1024
        );
    }

    #[test]
    fn few_rows_give_fewer_ranges_and_an_empty_shard_none() {
        let split = split_into_ranges(&[numbered(3), vec![], vec![entry(b"a", 0)]], 1024);
        assert_eq!(split.iter().map(Vec::len).collect::<Vec<_>>(), [3, 0, 0]);
        assert_eq!(split[0][0].range.lower, None);
        assert_eq!(split[0][2].range.upper, None);
    }

    #[test]
    fn entries_of_one_key_stay_together() {
        let entries = [
            entry(b"a", 1),
            entry(b"b", 5),
            entry(b"b", 7),
            entry(b"c", 1),
        ];
        let split = split_into_ranges(&[entries.to_vec()], 1024);
        let rows: Vec<u64> = split[0].iter().map(|estimate| estimate.rows).collect();
        assert_eq!(rows, [1, 12, 1]);
    }

    #[test]
    fn one_range_is_asked_for_and_one_is_given_to_each_shard() {
        let split = split_into_ranges(&[numbered(50), numbered(60)], 1);
        let open = KeyRange::default();
        assert!(
            split
                .iter()
                .all(|split| split.len() == 1 && split[0].range == open)
        );
    }

    /// Index entries of a shard of several overlapping parts, with keys of any bytes.
    fn shard() -> impl Strategy<Value = Vec<IndexEntry>> {
        let key = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3),
            prop::collection::vec(prop_oneof![Just(0u8), Just(0xFF)], 0..6),
        ];
        let rows = prop_oneof![4 => Just(GRANULE), 1 => 0..=GRANULE];
        prop::collection::vec((key, rows), 0..300).prop_map(|mut entries| {
            entries.sort();
            entries
                .iter()
                .map(|(key, rows)| entry(key, *rows))
                .collect()
        })
    }

    fn holds(range: &KeyRange, key: &[KeyValue]) -> bool {
        let from = range.lower.as_deref().is_none_or(|lower| lower <= key);
        from && range.upper.as_deref().is_none_or(|upper| key < upper)
    }

    proptest! {
        #[test]
        fn every_key_is_in_exactly_one_range(
            shard in shard(),
            min_ranges in 1usize..200,
            key: Vec<u8>,
        ) {
            let split = &split_into_ranges(std::slice::from_ref(&shard), min_ranges)[0];
            prop_assume!(!split.is_empty());
            let key = entry(&key, 0).key;
            for key in shard.iter().map(|entry| &entry.key).chain([&key]) {
                prop_assert_eq!(split.iter().filter(|estimate| holds(&estimate.range, key)).count(), 1);
            }
        }

        #[test]
        fn no_range_is_empty_and_all_rows_are_counted_where_they_are(
            shard in shard(),
            min_ranges in 1usize..200,
        ) {
            for estimate in &split_into_ranges(std::slice::from_ref(&shard), min_ranges)[0] {
                let inside = shard.iter().filter(|entry| holds(&estimate.range, &entry.key));
                prop_assert_eq!(estimate.rows, inside.map(|entry| entry.rows).sum::<u64>());
                prop_assert!(estimate.rows > 0);
            }
        }

        #[test]
        fn there_are_as_many_ranges_as_asked_for_or_as_there_are_keys(
            shards in prop::collection::vec(shard(), 0..5),
            min_ranges in 1usize..400,
        ) {
            let keys: usize = shards.iter().map(|entries| distinct(entries).len()).sum();
            prop_assert!(count(&split_into_ranges(&shards, min_ranges)) >= min_ranges.min(keys));
        }

        #[test]
        fn the_largest_range_holds_at_most_one_segment_more_than_the_mean(
            shard in shard(),
            min_ranges in 1usize..200,
        ) {
            let split = &split_into_ranges(std::slice::from_ref(&shard), min_ranges)[0];
            prop_assume!(!split.is_empty());
            let segment = distinct(&shard).iter().map(|entry| entry.rows).max().unwrap_or(0);
            let mean = total(&shard).div_ceil(split.len() as u64);
            for estimate in split {
                prop_assert!(estimate.rows <= mean + segment, "{} of mean {mean}", estimate.rows);
            }
        }
    }
}
