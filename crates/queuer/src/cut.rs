//! Cuts the key space of each shard into ranges of nearly equal rows. Pure.

use batch::{KeyRange, KeyValue};

/// The first key of a granule and the number of rows from there: one entry of a primary index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    pub key: Vec<KeyValue>,
    pub rows: u64,
}

/// A range and the rows that the primary index counts in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    pub range: KeyRange,
    pub rows: u64,
}

/// Cuts each shard, given by its marks in the order of their keys, into ranges: at least `min_ranges`
/// over all shards together, each shard's share in proportion to its rows.
///
/// Ranges of a shard are disjoint, and cover every key: the first has no lower bound, the last no upper
/// one. A range begins at the key of a mark, which a row has, so none is empty; hence there are no
/// more ranges than distinct keys of marks, even if fewer than `min_ranges`. The largest range of a
/// shard holds at most one granule of each part more than the shard's mean.
///
/// Granules of several parts overlap. Each counts where it begins, which shifts all boundaries alike
/// by about half a granule of each part.
pub fn cut(shards: &[Vec<Mark>], min_ranges: usize) -> Vec<Vec<Cut>> {
    let segments: Vec<Vec<Mark>> = shards.iter().map(|marks| distinct(marks)).collect();
    let counts = share(&segments, min_ranges);
    segments
        .iter()
        .zip(counts)
        .map(|(segments, count)| ranges(segments, count))
        .collect()
}

/// One mark for each key, with the rows of all marks of that key. A part's last mark has no rows: it
/// says where the part ends.
fn distinct(marks: &[Mark]) -> Vec<Mark> {
    let mut distinct: Vec<Mark> = Vec::with_capacity(marks.len());
    for mark in marks.iter().filter(|mark| mark.rows > 0) {
        match distinct.last_mut() {
            Some(last) if last.key == mark.key => last.rows = last.rows.saturating_add(mark.rows),
            _ => distinct.push(mark.clone()),
        }
    }
    distinct
}

/// How many ranges each shard is cut into: as many as it takes to hold each range to a number of rows
/// that is the same for all shards, and as large as `min_ranges` allows.
fn share(shards: &[Vec<Mark>], min_ranges: usize) -> Vec<usize> {
    let rows: Vec<u64> = shards.iter().map(|marks| total(marks)).collect();
    let most: usize = shards.iter().map(Vec::len).sum();
    let counts = |rows_per_range: u64| {
        let of_shard = move |(marks, rows): (&Vec<Mark>, &u64)| {
            let wanted = usize::try_from(rows.div_ceil(rows_per_range)).unwrap_or(usize::MAX);
            wanted.min(marks.len())
        };
        shards.iter().zip(&rows).map(of_shard)
    };
    // A range of one row would do for any `min_ranges` there are marks for.
    let (mut enough, mut too_large) = (1, rows.iter().copied().max().unwrap_or(0).max(1) + 1);
    while too_large - enough > 1 {
        let middle = enough + (too_large - enough) / 2;
        if counts(middle).sum::<usize>() >= min_ranges.min(most) {
            enough = middle;
        } else {
            too_large = middle;
        }
    }
    counts(enough).collect()
}

/// Cuts one shard into exactly `count` ranges, each boundary as near as it can be to its quantile.
fn ranges(segments: &[Mark], count: usize) -> Vec<Cut> {
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
        .map(|ends| Cut {
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

fn total(marks: &[Mark]) -> u64 {
    marks.iter().map(|mark| mark.rows).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GRANULE: u64 = 8192;

    fn mark(key: &[u8], rows: u64) -> Mark {
        let digits: String = key.iter().map(|byte| format!("{byte:02X}")).collect();
        Mark {
            key: vec![KeyValue::Hex(digits)],
            rows,
        }
    }

    fn numbered(count: u64) -> Vec<Mark> {
        (0..count)
            .map(|n| mark(&n.to_be_bytes(), GRANULE))
            .collect()
    }

    fn count(cuts: &[Vec<Cut>]) -> usize {
        cuts.iter().map(Vec::len).sum()
    }

    #[test]
    fn a_large_table_is_cut_into_at_least_as_many_ranges_as_asked_for() {
        let cuts = cut(&[numbered(5_000), numbered(2_500)], 1024);
        assert!(count(&cuts) >= 1024, "{}", count(&cuts));
        assert!(count(&cuts) <= 1024 + 2, "{}", count(&cuts));
        assert!(cuts[0].len().abs_diff(2 * cuts[1].len()) <= 2);
    }

    #[test]
    fn as_many_marks_as_ranges_asked_for_are_enough() {
        assert_eq!(count(&cut(&[numbered(1_000), numbered(24)], 1024)), 1024);
    }

    #[test]
    fn few_rows_give_fewer_ranges_and_an_empty_shard_none() {
        let cuts = cut(&[numbered(3), vec![], vec![mark(b"a", 0)]], 1024);
        assert_eq!(cuts.iter().map(Vec::len).collect::<Vec<_>>(), [3, 0, 0]);
        assert_eq!(cuts[0][0].range.lower, None);
        assert_eq!(cuts[0][2].range.upper, None);
    }

    #[test]
    fn marks_of_one_key_are_never_torn_apart() {
        let marks = [mark(b"a", 1), mark(b"b", 5), mark(b"b", 7), mark(b"c", 1)];
        let cuts = cut(&[marks.to_vec()], 1024);
        let rows: Vec<u64> = cuts[0].iter().map(|cut| cut.rows).collect();
        assert_eq!(rows, [1, 12, 1]);
    }

    #[test]
    fn one_range_is_asked_for_and_one_is_given_to_each_shard() {
        let cuts = cut(&[numbered(50), numbered(60)], 1);
        let open = KeyRange::default();
        assert!(
            cuts.iter()
                .all(|cuts| cuts.len() == 1 && cuts[0].range == open)
        );
    }

    /// Marks of a shard of several overlapping parts, with keys of any bytes.
    fn shard() -> impl Strategy<Value = Vec<Mark>> {
        let key = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..3),
            prop::collection::vec(prop_oneof![Just(0u8), Just(0xFF)], 0..6),
        ];
        let rows = prop_oneof![4 => Just(GRANULE), 1 => 0..=GRANULE];
        prop::collection::vec((key, rows), 0..300).prop_map(|mut marks| {
            marks.sort();
            marks.iter().map(|(key, rows)| mark(key, *rows)).collect()
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
            let cuts = &cut(std::slice::from_ref(&shard), min_ranges)[0];
            prop_assume!(!cuts.is_empty());
            let key = mark(&key, 0).key;
            for key in shard.iter().map(|mark| &mark.key).chain([&key]) {
                prop_assert_eq!(cuts.iter().filter(|cut| holds(&cut.range, key)).count(), 1);
            }
        }

        #[test]
        fn no_range_is_empty_and_all_rows_are_counted_where_they_are(
            shard in shard(),
            min_ranges in 1usize..200,
        ) {
            for cut in &cut(std::slice::from_ref(&shard), min_ranges)[0] {
                let inside = shard.iter().filter(|mark| holds(&cut.range, &mark.key));
                prop_assert_eq!(cut.rows, inside.map(|mark| mark.rows).sum::<u64>());
                prop_assert!(cut.rows > 0);
            }
        }

        #[test]
        fn there_are_as_many_ranges_as_asked_for_or_as_there_are_keys(
            shards in prop::collection::vec(shard(), 0..5),
            min_ranges in 1usize..400,
        ) {
            let keys: usize = shards.iter().map(|marks| distinct(marks).len()).sum();
            prop_assert!(count(&cut(&shards, min_ranges)) >= min_ranges.min(keys));
        }

        #[test]
        fn the_largest_range_holds_at_most_one_segment_more_than_the_mean(
            shard in shard(),
            min_ranges in 1usize..200,
        ) {
            let cuts = &cut(std::slice::from_ref(&shard), min_ranges)[0];
            prop_assume!(!cuts.is_empty());
            let segment = distinct(&shard).iter().map(|mark| mark.rows).max().unwrap_or(0);
            let mean = total(&shard).div_ceil(cuts.len() as u64);
            for cut in cuts {
                prop_assert!(cut.rows <= mean + segment, "{} of mean {mean}", cut.rows);
            }
        }
    }
}
