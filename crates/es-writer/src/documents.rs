//! The rows of one batch, checked one by one and ready to be written as documents.

use std::fmt::Write;
use std::sync::Arc;

use arrow_array::{Array, RecordBatch};
use batch::VERSION_COLUMN;
use pipeline::RefusedRows;
use sha2::{Digest, Sha256};

use crate::json_column::JsonColumn;
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
}

impl BatchDocuments {
    /// `batch` has the schema that `layout` was resolved for.
    pub fn new(batch: &RecordBatch, layout: Arc<DocumentLayout>) -> Self {
        let mut refused = RefusedRows::new();
        let mut columns: Vec<Option<JsonColumn>> = (0..batch.num_columns()).map(|_| None).collect();
        for column in layout.used_columns() {
            let mut not_text = Vec::new();
            columns[column] = Some(JsonColumn::new(batch.column(column), &mut not_text));
            for bad in not_text {
                let name = &layout.names[column];
                let why = format!("column {name} is not UTF-8 from byte {} on", bad.at);
                refused.entry(bad.row).or_insert(why);
            }
        }
        let mut documents = Self {
            layout,
            columns,
            rows: batch.num_rows(),
            actions: Vec::new(),
            action_ends: Vec::with_capacity(batch.num_rows()),
            refused,
        };
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

    /// Whether `row` belongs into the `index`-th index. A refused row belongs into none.
    pub fn belongs(&self, row: usize, index: usize) -> bool {
        let minimum = self.layout.indices[index].minimum;
        minimum
            .is_none_or(|ColumnMinimum { column, value }| self.column(column).at_least(row, value))
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
