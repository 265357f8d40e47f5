//! The rows of one batch, checked one by one and ready to be written as documents.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use batch::VERSION_COLUMN;
use pipeline::RefusedRows;
use sha2::{Digest, Sha256};

use crate::json_column::{JsonColumn, NotText};
use crate::layout::{ColumnMinimum, DocumentLayout};

/// Longest `_id` that Elasticsearch takes, in bytes of UTF-8.
const MAX_ID_BYTES: usize = 512;

/// A batch whose columns are typed, whose text is text, and whose rows have their action lines.
pub(crate) struct BatchDocuments {
    layout: Arc<DocumentLayout>,
    /// By column; only of the columns that some document takes.
    columns: Vec<Option<JsonColumn>>,
    rows: usize,
    /// The action lines of all rows, one after the other; empty for a refused row.
    actions: Vec<u8>,
    /// Where the action line of each row ends.
    action_ends: Vec<usize>,
    refused: RefusedRows,
    /// One for each index of the layout.
    memberships: Vec<IndexMembership>,
}

/// Which rows of the batch an index takes.
struct IndexMembership {
    /// By row; `None` where the index has no minimum.
    at_least_minimum: Option<Vec<bool>>,
    /// Rows that belong into the index, and have a text for it that is none.
    refused: RefusedRows,
}

impl IndexMembership {
    fn new(minimum: Option<ColumnMinimum>, columns: &[Option<JsonColumn>]) -> Self {
        let at_least =
            |ColumnMinimum { column, value }| Some(columns[column].as_ref()?.at_least(value));
        Self {
            at_least_minimum: minimum.and_then(at_least),
            refused: RefusedRows::new(),
        }
    }

    fn wants(&self, row: usize) -> bool {
        self.at_least_minimum.as_ref().is_none_or(|rows| rows[row])
    }
}

impl BatchDocuments {
    /// `batch` has the schema that `layout` was resolved for.
    pub fn new(batch: &RecordBatch, layout: Arc<DocumentLayout>) -> Self {
        let mut columns: Vec<Option<JsonColumn>> = (0..batch.num_columns()).map(|_| None).collect();
        let mut not_text = Vec::new();
        for column in layout.used_columns() {
            let mut bad = Vec::new();
            columns[column] = Some(JsonColumn::new(batch.column(column), &mut bad));
            not_text.extend(bad.into_iter().map(|bad| (column, bad)));
        }
        let memberships = layout.indices.iter();
        let memberships = memberships.map(|index| IndexMembership::new(index.minimum, &columns));
        let mut documents = Self {
            memberships: memberships.collect(),
            layout,
            columns,
            rows: batch.num_rows(),
            actions: Vec::new(),
            action_ends: Vec::with_capacity(batch.num_rows()),
            refused: RefusedRows::new(),
        };
        for (column, bad) in not_text {
            documents.refuse(column, &bad);
        }
        documents.refuse_everywhere();
        documents.write_actions();
        documents
    }

    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Rows that no index can take, with the reason.
    pub fn refused(&self) -> &RefusedRows {
        &self.refused
    }

    /// Rows that the `index`-th index alone cannot take, with the reason.
    pub fn refused_by(&self, index: usize) -> &RefusedRows {
        &self.memberships[index].refused
    }

    /// Whether `row` is to be written to the `index`-th index.
    pub fn belongs(&self, row: usize, index: usize) -> bool {
        let index = &self.memberships[index];
        !self.refused.contains_key(&row) && !index.refused.contains_key(&row) && index.wants(row)
    }

    /// Refuses a row for a text that is none: all of it when the text is of its key, or else in the indices that
    /// would have it.
    fn refuse(&mut self, column: usize, bad: &NotText) {
        let name = &self.layout.names[column];
        let why = format!("column {name} is not UTF-8 from byte {} on", bad.at);
        if self.layout.key.contains(&column) {
            self.refused.entry(bad.row).or_insert(why);
            return;
        }
        for (index, fields) in self.memberships.iter_mut().zip(&self.layout.indices) {
            if fields.takes(column) && index.wants(bad.row) {
                index.refused.entry(bad.row).or_insert_with(|| why.clone());
            }
        }
    }

    /// A row that every index refuses is refused as a whole.
    fn refuse_everywhere(&mut self) {
        let Some((first, others)) = self.memberships.split_first() else {
            return;
        };
        let by_all = |row: &usize| others.iter().all(|index| index.refused.contains_key(row));
        for (row, why) in first.refused.iter().filter(|(row, _)| by_all(row)) {
            self.refused.entry(*row).or_insert_with(|| why.clone());
        }
        let refused = &self.refused;
        for index in &mut self.memberships {
            index.refused.retain(|row, _| !refused.contains_key(row));
        }
    }

    /// Appends the action line and the document of `row` for the `index`-th index, each with its newline.
    pub fn write(&self, row: usize, index: usize, out: &mut Vec<u8>) {
        let start = row.checked_sub(1).map_or(0, |n| self.action_ends[n]);
        out.extend_from_slice(&self.actions[start..self.action_ends[row]]);
        for field in &self.layout.indices[index].fields {
            out.extend_from_slice(&field.before);
            self.column(field.column).write_json(row, out);
        }
        out.extend_from_slice(b"}\n");
    }

    fn column(&self, index: usize) -> &JsonColumn {
        self.columns[index]
            .as_ref()
            .expect("every column of the layout is typed")
    }

    fn write_actions(&mut self) {
        let (mut id, mut part) = (String::new(), String::new());
        let mut actions = Vec::with_capacity(self.rows * 96);
        for row in 0..self.rows {
            if !self.refused.contains_key(&row)
                && let Err(why) = self.write_action(row, &mut id, &mut part, &mut actions)
            {
                self.refused.insert(row, why);
            }
            self.action_ends.push(actions.len());
        }
        self.actions = actions;
    }

    fn write_action(
        &self,
        row: usize,
        id: &mut String,
        part: &mut String,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let version = match self.column(self.layout.version) {
            JsonColumn::Int(versions) if versions.is_valid(row) => versions.value(row),
            _ => return Err(format!("column {VERSION_COLUMN} is null")),
        };
        if version < 0 {
            return Err(format!(
                "column {VERSION_COLUMN} is {version}; a version is a time since 1970, in milliseconds"
            ));
        }
        id.clear();
        let (last, leading) = self.layout.key.split_last().expect("a key has a column");
        for column in leading {
            part.clear();
            self.write_key(*column, row, part)?;
            push_leading(id, part);
        }
        self.write_key(*last, row, id)?;
        if id.len() > MAX_ID_BYTES {
            *id = hash(id);
        }
        out.extend_from_slice(br#"{"index":{"_id":"#);
        serde_json::to_writer(&mut *out, id).expect("text goes into memory");
        out.extend_from_slice(br#","version":"#);
        serde_json::to_writer(&mut *out, &version).expect("a number goes into memory");
        out.extend_from_slice(br#","version_type":"external"}}"#);
        out.push(b'\n');
        Ok(())
    }

    fn write_key(&self, column: usize, row: usize, out: &mut String) -> Result<(), String> {
        let values = self.column(column);
        if values.is_null(row) {
            return Err(format!("key column {} is null", self.layout.names[column]));
        }
        let written = match values {
            JsonColumn::Text(array) => out.write_str(array.value(row)),
            JsonColumn::Int(array) => write!(out, "{}", array.value(row)),
            JsonColumn::UInt(array) => write!(out, "{}", array.value(row)),
            _ => unreachable!("a layout has only text and whole numbers as keys"),
        };
        written.expect("a string takes everything");
        Ok(())
    }
}

/// Appends a part of a key that another part follows, and the `/` between them. A `/` or `\` of its
/// own stands behind a `\`, so that no two keys give the same text: `us/buy shoes`, `a\/b/c`.
fn push_leading(id: &mut String, part: &str) {
    for c in part.chars() {
        if matches!(c, '/' | '\\') {
            id.push('\\');
        }
        id.push(c);
    }
    id.push('/');
}

/// What stands for a key that is too long: `sha256:` and the hash of the whole key in hexadecimal.
fn hash(id: &str) -> String {
    let digest = Sha256::digest(id.as_bytes());
    let digits: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}
