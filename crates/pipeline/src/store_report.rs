//! What every program that writes to a store does alike: take a batch in, and account for each of its rows.

use std::borrow::Borrow;
use std::collections::BTreeMap;

use app::App;
use batch::arrow::{self, Limits, Stream};
use batch::{BatchHeaders, Fact, Invalid, Message, MessageKind, Reason, Rows, header};

use crate::{Job, Outcome, RECEIPTS, receipt};

/// A batch, checked and taken apart but not decoded.
#[derive(Debug, Clone)]
pub struct AdmittedBatch {
    pub headers: BatchHeaders,
    pub stream: Stream,
}

/// Why a store refused rows, by their index in the batch.
pub type RefusedRows = BTreeMap<usize, String>;

/// What became of the rows of one batch in one store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StoreReport {
    pub rows: Rows,
    /// The same by target, where the store has several.
    pub targets: BTreeMap<String, Rows>,
    pub refused: RefusedRows,
}

impl AdmittedBatch {
    /// Refuses, by name, a message that is no whole batch, or whose headers do not agree with its body.
    pub fn new(message: &Message) -> Result<Self, Invalid> {
        message.headers.check_schema(MessageKind::Batch)?;
        let headers = BatchHeaders::from_headers(&message.headers)?;
        let limits = Limits {
            // The loop has refused what is above `max_body_bytes`.
            body_bytes: usize::MAX,
            ..Limits::default()
        };
        let stream = Stream::parse(&message.body, &limits)?;
        headers.check_rows(stream.rows())?;
        Ok(Self { headers, stream })
    }
}

/// Settles each batch of a group by what the store made of it, and returns the outcomes in the same order.
pub async fn settle<B: Borrow<AdmittedBatch>>(
    group: &mut [(Job, B)],
    results: Vec<Result<StoreReport, Outcome>>,
) -> Vec<Outcome> {
    let mut outcomes = Vec::with_capacity(group.len());
    for ((job, batch), result) in group.iter_mut().zip(results) {
        outcomes.push(match result {
            Ok(report) => match report.settle(job, (*batch).borrow()).await {
                Ok(()) => Outcome::Done,
                Err(invalid) => invalid.into(),
            },
            Err(outcome) => outcome,
        });
    }
    outcomes
}

impl StoreReport {
    /// Sends the refused rows to quarantine before the receipt that counts them. The batch is acknowledged after both.
    async fn settle(self, job: &mut Job, batch: &AdmittedBatch) -> Result<(), Invalid> {
        if let Some(first) = self.refused.values().next() {
            let (refused, all) = (self.refused.len(), batch.headers.rows);
            let why = format!("{refused} of {all} rows refused, the first with: {first}");
            let rows = batch.stream.decode_all()?;
            let body = arrow::body_of_refused(&batch.stream, &rows, &self.refused)?;
            let mut part = Message::new(job.message().headers.clone(), body);
            part.headers.set(header::ROWS, refused as i64);
            let why = Invalid::new(Reason::RefusedRows, why);
            job.quarantine_rows(part, &why).await;
        }
        let app = job.program().app.clone();
        self.count(&app, "unchanged");
        let receipt = self.receipt(&app, &batch.headers, Reason::RefusedRows);
        job.send(RECEIPTS, receipt).await;
        Ok(())
    }

    /// Counts a batch that goes to quarantine whole, and returns its receipt. There is none when its headers do not
    /// tell which batch it is; and rows that its headers do not tell are not counted.
    pub fn quarantined(app: &App, message: &Message, why: &Invalid) -> Option<Message> {
        let mut report = Self::default();
        report.rows.quarantined = message.headers.rows().map_or(0, u64::from);
        report.count(app, "quarantined");
        let headers = BatchHeaders::from_headers(&message.headers).ok()?;
        Some(report.receipt(app, &headers, why.reason))
    }

    fn receipt(self, app: &App, headers: &BatchHeaders, reason: Reason) -> Message {
        let quarantined = self.rows.quarantined;
        let reasons = (quarantined > 0).then_some((reason, quarantined));
        let fact = Fact::Stored {
            store: app.name.to_string(),
            batch: headers.batch,
            shard: headers.shard,
            rows: self.rows,
            targets: self.targets,
            reasons: reasons.into_iter().collect(),
        };
        receipt(&headers.run, fact).to_message()
    }

    /// Counts a batch and its rows, each once. Of a mixed batch the first status counts: stored, if any row is. A
    /// batch without rows has the status `empty`.
    fn count(&self, app: &App, empty: &str) {
        let by_status = [
            ("stored", self.rows.stored),
            ("unchanged", self.rows.unchanged),
            ("skipped", self.rows.skipped),
            ("quarantined", self.rows.quarantined),
        ];
        let mut counted = by_status.into_iter().filter(|(_, n)| *n > 0).peekable();
        let status = counted.peek().map_or(empty, |(status, _)| status);
        app.stats.count("batches", &[("status", status)], 1);
        for (status, n) in counted {
            app.stats.count("rows", &[("status", status)], n);
        }
    }
}
