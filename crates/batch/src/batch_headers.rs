use crate::{BatchId, Headers, Invalid, Reason, RunId, header};

/// The headers of a batch: whose it is, and how many rows it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchHeaders {
    pub run: RunId,
    pub batch: BatchId,
    pub shard: u32,
    pub rows: u32,
}

impl BatchHeaders {
    /// Reads them, of whatever schema version they are: [`Headers::check_schema`] is a check of its own.
    pub fn from_headers(headers: &Headers) -> Result<Self, Invalid> {
        Ok(Self {
            run: headers.run()?,
            batch: headers.batch_id()?,
            shard: headers.shard()?,
            rows: headers.rows()?,
        })
    }

    /// Refuses a body of another number of rows.
    pub fn check_rows(&self, body_rows: u64) -> Result<(), Invalid> {
        let (name, rows) = (header::ROWS, self.rows);
        if u64::from(rows) == body_rows {
            return Ok(());
        }
        let detail = format!("header {name} says {rows} rows; the body has {body_rows}");
        Err(Invalid::new(Reason::BadHeader, detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::TaskHash;

    fn batch() -> BatchHeaders {
        BatchHeaders {
            run: "r-1".parse().unwrap(),
            batch: BatchId {
                task: TaskHash::new([b"t".as_slice()]),
                attempt: 2,
                sequence: 3,
            },
            shard: 4,
            rows: 5,
        }
    }

    #[test]
    fn the_headers_of_a_batch_read_back() {
        let known = batch();
        let headers = Headers::for_batch(&known.run, known.batch, known.shard, 5);
        assert_eq!(BatchHeaders::from_headers(&headers), Ok(known));
    }

    #[test]
    fn a_header_that_is_absent_or_absurd_is_named() {
        let known = batch();
        let whole = Headers::for_batch(&known.run, known.batch, known.shard, 5);
        for name in [
            header::RUN,
            header::TASK,
            header::ATTEMPT,
            header::SEQUENCE,
            header::SHARD,
            header::ROWS,
        ] {
            let mut absent = whole.clone();
            absent.remove(name);
            let mut absurd = whole.clone();
            absurd.set(name, -1);
            for headers in [absent, absurd] {
                let error = BatchHeaders::from_headers(&headers).unwrap_err();
                assert_eq!(error.reason, Reason::BadHeader);
                assert!(error.detail.contains(name), "{error}");
            }
        }
    }

    #[test]
    fn a_body_of_another_number_of_rows_is_refused() {
        assert_eq!(batch().check_rows(5), Ok(()));
        let error = batch().check_rows(6).unwrap_err();
        assert_eq!(error.reason, Reason::BadHeader);
        assert!(error.detail.ends_with("says 5 rows; the body has 6"));
    }
}
