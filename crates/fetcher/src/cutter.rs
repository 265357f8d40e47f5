//! Cuts the answer of the source into batches without decoding it.

use std::collections::VecDeque;

use arrow_array::RecordBatch;
use batch::Invalid;
use batch::arrow::{self, Frame, Framer, Limits, Stream};
use bytes::Bytes;

/// Bytes of the end of an Arrow stream.
const END_MARKER: usize = 8;

/// How large a batch may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchSize {
    /// Rows of a batch, at most.
    pub rows: u64,
    /// Bytes of a batch's body as it travels. A single row may exceed them: its limit is that of [`Limits`].
    pub bytes: usize,
}

/// The body of one batch: a complete Arrow stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedBatch {
    pub body: Bytes,
    pub rows: u64,
}

/// Joins the record batches of one answer, in their order, as long as they fit into one batch.
/// A record batch with more rows or bytes than a batch may have is decoded, divided and encoded again: a
/// server that respects `max_block_size` sends none but of long rows.
#[derive(Debug)]
pub struct BatchCutter {
    size: BatchSize,
    limits: Limits,
    framer: Framer,
    /// The rest of a large record batch that was divided.
    waiting: VecDeque<Frame>,
    pending: PendingBatch,
}

#[derive(Debug, Default)]
struct PendingBatch {
    frames: Vec<Frame>,
    rows: u64,
    bytes: usize,
    decoded_bytes: u64,
}

impl PendingBatch {
    fn add(&mut self, frame: Frame) {
        self.rows += frame.rows;
        self.bytes += frame.bytes().len();
        self.decoded_bytes += frame.decoded_bytes;
        self.frames.push(frame);
    }
}

impl BatchCutter {
    /// `limits`: those of the programs that read the batches.
    pub fn new(size: BatchSize, limits: Limits) -> Self {
        Self {
            size,
            limits,
            framer: Framer::new(limits),
            waiting: VecDeque::new(),
            pending: PendingBatch::default(),
        }
    }

    /// Adds the next piece of the answer. Every batch has to be taken out before.
    pub fn push(&mut self, piece: Bytes) {
        self.framer.push(piece);
    }

    /// The next full batch, or `None` when more of the answer is needed.
    pub fn next_batch(&mut self) -> Result<Option<EncodedBatch>, Invalid> {
        while let Some(frame) = self.next_frame()? {
            let full = (!self.fits(&frame)).then(|| self.encode());
            self.pending.add(frame);
            if full.is_some() {
                return Ok(full);
            }
            if self.pending.rows == self.size.rows {
                return Ok(Some(self.encode()));
            }
        }
        Ok(None)
    }

    /// After the last piece: the batch that was not full yet, if the answer was complete.
    pub fn finish(mut self) -> Result<Option<EncodedBatch>, Invalid> {
        let last = (!self.pending.frames.is_empty()).then(|| self.encode());
        self.framer.finish()?;
        Ok(last)
    }

    fn fits(&self, frame: &Frame) -> bool {
        let pending = &self.pending;
        pending.frames.is_empty()
            || (pending.rows + frame.rows <= self.size.rows
                && pending.bytes + frame.bytes().len() <= self.frame_bytes()
                && pending.decoded_bytes + frame.decoded_bytes <= self.limits.decoded_bytes)
    }

    /// What the schema message and the end marker leave of the bytes of a batch.
    fn frame_bytes(&self) -> usize {
        let schema = self.framer.schema_bytes().map_or(0, Bytes::len);
        self.size.bytes.saturating_sub(schema + END_MARKER)
    }

    /// Whether a batch can have this record batch as it is.
    fn is_small(&self, frame: &Frame) -> bool {
        frame.rows <= self.size.rows
            && (frame.rows == 1 || frame.bytes().len() <= self.frame_bytes())
    }

    fn encode(&mut self) -> EncodedBatch {
        let pending = std::mem::take(&mut self.pending);
        let schema = self.framer.schema_bytes().expect("frames follow a schema");
        EncodedBatch {
            body: arrow::join_contiguous(schema, &pending.frames),
            rows: pending.rows,
        }
    }

    fn next_frame(&mut self) -> Result<Option<Frame>, Invalid> {
        loop {
            if let Some(frame) = self.waiting.pop_front() {
                return Ok(Some(frame));
            }
            match self.framer.next_frame()? {
                None => return Ok(None),
                Some(frame) if frame.rows == 0 => {}
                Some(frame) if self.is_small(&frame) => return Ok(Some(frame)),
                Some(frame) => self.waiting = self.divide(frame)?.into(),
            }
        }
    }

    /// The rows of `frame` in record batches that are small. They fit the schema message of
    /// the answer: strings decode as Binary, whose buffers are those of Utf8.
    fn divide(&self, frame: Frame) -> Result<Vec<Frame>, Invalid> {
        let schema = self.framer.schema().expect("frames follow a schema");
        let schema_bytes = self.framer.schema_bytes().expect("frames follow a schema");
        let whole = Stream {
            schema: schema.clone(),
            schema_bytes: schema_bytes.clone(),
            frames: vec![frame],
        };
        let mut divided = Vec::new();
        for rows in whole.decode()? {
            let step = self.size.rows as usize;
            for from in (0..rows.num_rows()).step_by(step) {
                let part = rows.slice(from, step.min(rows.num_rows() - from));
                self.divide_rows(&part, &mut divided)?;
            }
        }
        Ok(divided)
    }

    /// Encodes rows, and halves them for as long as they are too many bytes together.
    fn divide_rows(&self, rows: &RecordBatch, divided: &mut Vec<Frame>) -> Result<(), Invalid> {
        let body = arrow::encode(&rows.schema(), std::slice::from_ref(rows))?;
        let (count, half) = (rows.num_rows(), rows.num_rows() / 2);
        if count == 1 || body.len() <= self.size.bytes {
            divided.extend(Stream::parse(&body, &self.limits)?.frames);
            return Ok(());
        }
        self.divide_rows(&rows.slice(0, half), divided)?;
        self.divide_rows(&rows.slice(half, count - half), divided)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{Array, ArrayRef, Int64Array, StringArray};
    use batch::Reason;
    use proptest::prelude::*;

    use super::*;

    const SIZE: BatchSize = BatchSize {
        rows: 1000,
        bytes: 4 << 20,
    };

    /// An answer with record batches of these numbers of rows; the keys are numbered through all of them.
    fn answer(sizes: &[usize]) -> Bytes {
        let mut from = 0;
        let batches: Vec<_> = sizes
            .iter()
            .map(|rows| {
                let keys = (from..from + rows).map(|n| format!("keyword {n}"));
                let volumes = (from..from + rows).map(|n| (n % 3 > 0).then_some(n as i64));
                from += rows;
                let columns: [(&str, ArrayRef, bool); 2] = [
                    (
                        "keyword",
                        Arc::new(StringArray::from_iter_values(keys)),
                        false,
                    ),
                    ("volume", Arc::new(Int64Array::from_iter(volumes)), true),
                ];
                RecordBatch::try_from_iter_with_nullable(columns).unwrap()
            })
            .collect();
        arrow::encode(&batches[0].schema(), &batches).unwrap()
    }

    fn cut(answer: &Bytes, pieces: usize, size: BatchSize) -> Result<Vec<EncodedBatch>, Invalid> {
        let mut cutter = BatchCutter::new(size, Limits::default());
        let mut batches = Vec::new();
        for piece in answer.chunks(pieces) {
            cutter.push(Bytes::copy_from_slice(piece));
            while let Some(batch) = cutter.next_batch()? {
                batches.push(batch);
            }
        }
        batches.extend(cutter.finish()?);
        Ok(batches)
    }

    fn sizes(batches: &[EncodedBatch]) -> Vec<u64> {
        batches.iter().map(|batch| batch.rows).collect()
    }

    /// The volumes of a body, and a check of each key against them.
    fn rows(batch: &EncodedBatch) -> Vec<Option<i64>> {
        let stream = Stream::parse(&batch.body, &Limits::default()).unwrap();
        assert_eq!(stream.rows(), batch.rows);
        let mut all = Vec::new();
        for rows in stream.decode().unwrap() {
            let volumes = rows.column(1).as_any().downcast_ref::<Int64Array>();
            all.extend(volumes.unwrap().iter());
        }
        all
    }

    #[test]
    fn full_record_batches_become_batches_as_they_are() {
        let batches = cut(&answer(&[1000, 1000, 300]), 1 << 20, SIZE).unwrap();
        assert_eq!(sizes(&batches), [1000, 1000, 300]);
    }

    #[test]
    fn small_record_batches_are_joined_up_to_the_size_of_a_batch() {
        let batches = cut(&answer(&[400, 600, 300, 0, 300, 500]), 1 << 20, SIZE).unwrap();
        assert_eq!(sizes(&batches), [1000, 600, 500]);
    }

    #[test]
    fn a_batch_ends_before_it_exceeds_its_bytes() {
        let (answer, empty) = (answer(&[100; 10]), answer(&[0]).len());
        let one = (answer.len() - empty) / 10;
        let size = BatchSize {
            rows: 1000,
            // Of the ten record batches none is more than a few bytes larger than another.
            bytes: empty + one * 3 + 100,
        };
        let batches = cut(&answer, 1 << 20, size).unwrap();
        assert_eq!(sizes(&batches), [300, 300, 300, 100]);
        assert!(batches.iter().all(|batch| batch.body.len() <= size.bytes));
    }

    #[test]
    fn a_record_batch_of_too_many_bytes_is_divided_by_rows_and_one_row_goes_alone() {
        // Texts that no compression makes smaller.
        let text = |n: usize, bytes: usize| -> String {
            let mut seed = n as u64 + 1;
            let next = || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from(b'!' + ((seed >> 33) % 90) as u8)
            };
            std::iter::repeat_with(next).take(bytes).collect()
        };
        let length = |n| if n == 40 { 20_000 } else { 500 };
        let keys: ArrayRef = Arc::new(StringArray::from_iter_values(
            (0..100).map(|n| text(n, length(n))),
        ));
        let volumes: ArrayRef = Arc::new(Int64Array::from_iter(0..100i64));
        let columns = [("keyword", keys, false), ("volume", volumes, true)];
        let whole = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let answer = arrow::encode(&whole.schema(), &[whole]).unwrap();
        let size = BatchSize {
            rows: 1000,
            bytes: 10_000,
        };
        let batches = cut(&answer, 1 << 20, size).unwrap();
        let large: Vec<_> = batches
            .iter()
            .filter(|batch| batch.body.len() > size.bytes)
            .collect();
        assert_eq!(large.len(), 1);
        assert_eq!(rows(large[0]), [Some(40)]);
        let all: Vec<_> = batches.iter().flat_map(rows).collect();
        assert_eq!(all, (0..100).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn a_large_record_batch_is_divided_and_its_schema_stays() {
        let answer = answer(&[400, 2500]);
        let batches = cut(&answer, 1 << 20, SIZE).unwrap();
        assert_eq!(sizes(&batches), [400, 1000, 1000, 500]);
        let schema = |body| Stream::parse(body, &Limits::default()).unwrap().schema;
        for batch in &batches {
            assert_eq!(schema(&batch.body), schema(&answer));
        }
    }

    #[test]
    fn an_empty_answer_gives_no_batch() {
        assert_eq!(cut(&answer(&[0]), 1 << 20, SIZE).unwrap(), []);
    }

    #[test]
    fn the_last_batch_of_a_cut_answer_is_never_handed_out() {
        let whole = answer(&[1000, 300]);
        let error = cut(&whole.slice(..whole.len() - 1), 1 << 20, SIZE).unwrap_err();
        assert_eq!(error.reason, Reason::Truncated);
    }

    proptest! {
        #[test]
        fn every_row_comes_out_once_in_its_order_however_the_answer_is_cut(
            blocks in proptest::collection::vec(0usize..2500, 1..6),
            pieces in 1usize..5000,
        ) {
            let batches = cut(&answer(&blocks), pieces, SIZE).unwrap();
            prop_assert!(batches.iter().all(|batch| (1..=SIZE.rows).contains(&batch.rows)));
            let total: usize = blocks.iter().sum();
            let expected: Vec<_> = (0..total).map(|n| (n % 3 > 0).then_some(n as i64)).collect();
            prop_assert_eq!(batches.iter().flat_map(rows).collect::<Vec<_>>(), expected);
        }
    }
}
