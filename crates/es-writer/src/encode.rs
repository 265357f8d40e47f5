//! Bodies of `_bulk` requests: an action line and a document for each row.

use bytes::Bytes;

use crate::table::Table;

/// The body of one `_bulk` request. It names no index: the same bytes go to a leader and its followers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bulk {
    /// Rows of the group, by their place in it, in the order of their actions.
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

/// Writes the rows of `tables` that belong into the index of field set `set`, as few requests as
/// `limits` allow. Rows are numbered through all tables; what a table refused is left out.
pub(crate) fn encode(tables: &[Table], set: usize, limits: BulkLimits) -> Vec<Bulk> {
    let mut bulks = Vec::new();
    let mut open = Open::new(limits);
    let mut first = 0;
    for table in tables {
        for row in 0..table.rows() {
            if table.refused().contains_key(&row) || !table.belongs(row, set) {
                continue;
            }
            let start = open.body.len();
            table.write(row, set, &mut open.body);
            if !open.rows.is_empty()
                && (open.body.len() > limits.bytes || open.rows.len() == limits.rows)
            {
                let mut next = Open::new(limits);
                next.body.extend_from_slice(&open.body[start..]);
                open.body.truncate(start);
                bulks.push(std::mem::replace(&mut open, next).close());
            }
            open.rows.push(first + row);
            open.ends.push(open.body.len());
        }
        first += table.rows();
    }
    if !open.rows.is_empty() {
        bulks.push(open.close());
    }
    bulks
}

struct Open {
    rows: Vec<usize>,
    ends: Vec<usize>,
    body: Vec<u8>,
}

impl Open {
    /// What a row takes at first; a buffer that is too small doubles.
    const ROW_BYTES: usize = 256;

    fn new(limits: BulkLimits) -> Self {
        Self {
            rows: Vec::with_capacity(limits.rows),
            ends: Vec::with_capacity(limits.rows),
            body: Vec::with_capacity(limits.bytes.min(limits.rows * Self::ROW_BYTES)),
        }
    }

    fn close(self) -> Bulk {
        Bulk {
            rows: self.rows,
            ends: self.ends,
            body: self.body.into(),
        }
    }
}

impl Bulk {
    /// The action and document of the row at `place`.
    fn part(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.body[start..self.ends[place]]
    }

    /// The same actions for the rows at `places` alone.
    pub fn only(&self, places: &[usize]) -> Self {
        if places.len() == self.rows.len() {
            return self.clone();
        }
        let size = places.iter().map(|place| self.part(*place).len()).sum();
        let (mut body, mut ends) = (Vec::with_capacity(size), Vec::with_capacity(places.len()));
        for place in places {
            body.extend_from_slice(self.part(*place));
            ends.push(body.len());
        }
        let rows = places.iter().map(|place| self.rows[*place]).collect();
        Self {
            rows,
            ends,
            body: body.into(),
        }
    }

    /// Two requests of half the rows each, or `None` when there is but one row.
    pub fn halves(&self) -> Option<[Self; 2]> {
        let middle = self.rows.len() / 2;
        let places: Vec<usize> = (0..self.rows.len()).collect();
        let (left, right) = places.split_at(middle);
        (middle > 0).then(|| [self.only(left), self.only(right)])
    }
}

#[cfg(test)]
mod tests;
