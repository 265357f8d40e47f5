//! Bodies of `_bulk` requests: an action line and a document for each row.

use bytes::Bytes;

use crate::documents::BatchDocuments;

/// The body of one `_bulk` request. It names no index: the same bytes go to a leader and its followers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bulk {
    /// Rows by their indices in the group, in the order of their actions.
    pub rows: Vec<usize>,
    /// Where the action and the document of each row end.
    ends: Vec<usize>,
    pub body: Bytes,
}

/// Bounds of one request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BulkLimits {
    pub rows: usize,
    /// A document that alone is larger is sent alone.
    pub bytes: usize,
}

/// Writes the rows of a group that belong into the `index`-th index, in as few requests as `limits` allow. Rows are
/// numbered through all batches; refused ones are left out.
pub(crate) fn encode(batches: &[BatchDocuments], index: usize, limits: BulkLimits) -> Vec<Bulk> {
    let mut bulks = Vec::new();
    let mut open = BulkBuilder::new(limits);
    let mut first = 0;
    for batch in batches {
        for row in 0..batch.rows() {
            if !batch.belongs(row, index) {
                continue;
            }
            let start = open.body.len();
            batch.write(row, index, &mut open.body);
            if !open.rows.is_empty()
                && (open.body.len() > limits.bytes || open.rows.len() == limits.rows)
            {
                let mut next = BulkBuilder::new(limits);
                next.body.extend_from_slice(&open.body[start..]);
                open.body.truncate(start);
                bulks.push(std::mem::replace(&mut open, next).build());
            }
            open.rows.push(first + row);
            open.ends.push(open.body.len());
        }
        first += batch.rows();
    }
    if !open.rows.is_empty() {
        bulks.push(open.build());
    }
    bulks
}

struct BulkBuilder {
    rows: Vec<usize>,
    ends: Vec<usize>,
    body: Vec<u8>,
}

impl BulkBuilder {
    /// Bytes reserved for a row; a buffer that is too small doubles.
    const ROW_BYTES: usize = 256;

    fn new(limits: BulkLimits) -> Self {
        Self {
            rows: Vec::with_capacity(limits.rows),
            ends: Vec::with_capacity(limits.rows),
            body: Vec::with_capacity(limits.bytes.min(limits.rows * Self::ROW_BYTES)),
        }
    }

    fn build(self) -> Bulk {
        Bulk {
            rows: self.rows,
            ends: self.ends,
            body: self.body.into(),
        }
    }
}

impl Bulk {
    /// The action and document of its `n`-th row.
    fn part(&self, n: usize) -> &[u8] {
        let start = n.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.body[start..self.ends[n]]
    }

    /// The same actions for some of its rows alone.
    pub fn only(&self, chosen: &[usize]) -> Self {
        if chosen.len() == self.rows.len() {
            return self.clone();
        }
        let size = chosen.iter().map(|n| self.part(*n).len()).sum();
        let (mut body, mut ends) = (Vec::with_capacity(size), Vec::with_capacity(chosen.len()));
        for n in chosen {
            body.extend_from_slice(self.part(*n));
            ends.push(body.len());
        }
        let rows = chosen.iter().map(|n| self.rows[*n]).collect();
        Self {
            rows,
            ends,
            body: body.into(),
        }
    }

    /// Two requests of half the rows each, or `None` when there is only one row.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let all: Vec<usize> = (0..self.rows.len()).collect();
        let (left, right) = all.split_at(all.len() / 2);
        (!left.is_empty()).then(|| [self.only(left), self.only(right)])
    }
}

#[cfg(test)]
mod tests;
