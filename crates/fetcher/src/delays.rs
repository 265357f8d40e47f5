//! How far the replicas of a replicated source are behind.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use batch::Task;
use serde::Deserialize;
use stores::clickhouse::{Error, Query, Replica};

/// How long an answer is used: a range is read in seconds, and no delay grows faster than time.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The latest delay of each replica.
pub(crate) struct ReplicaDelays {
    max_seconds: u64,
    known: Mutex<HashMap<ReplicaTable, KnownDelay>>,
}

#[derive(PartialEq, Eq, Hash)]
struct ReplicaTable {
    address: String,
    database: String,
    table: String,
}

struct KnownDelay {
    at: Instant,
    seconds: u64,
}

impl ReplicaDelays {
    /// Delays of more than `max_seconds` are too long.
    pub fn new(max_seconds: u64) -> Self {
        Self {
            max_seconds,
            known: Mutex::default(),
        }
    }

    /// Describes by how much a replica is too far behind to be read from; `None` if it is not. A table that is not
    /// replicated has no delay.
    pub async fn too_long(&self, replica: &Replica, task: &Task) -> Result<Option<String>, Error> {
        let table = ReplicaTable {
            address: replica.address().to_owned(),
            database: task.plan.database.clone(),
            table: task.plan.table.clone(),
        };
        let seconds = match self.known(&table) {
            Some(seconds) => seconds,
            None => {
                let seconds = delay(replica, task).await?;
                let at = Instant::now();
                self.lock().insert(table, KnownDelay { at, seconds });
                seconds
            }
        };
        let max = self.max_seconds;
        Ok((seconds > max).then(|| {
            format!("it is {seconds} s behind; source.max_replica_delay_seconds allows {max} s")
        }))
    }

    fn known(&self, table: &ReplicaTable) -> Option<u64> {
        let known = self.lock();
        let delay = known.get(table).filter(|d| d.at.elapsed() < MAX_AGE);
        delay.map(|delay| delay.seconds)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ReplicaTable, KnownDelay>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds since the oldest change that the replica knows of and has not fetched yet. A replica that does not know
/// yet says a very large number.
async fn delay(replica: &Replica, task: &Task) -> Result<u64, Error> {
    #[derive(Deserialize)]
    struct Row {
        absolute_delay: u64,
    }
    let query = Query::new(
        "SELECT absolute_delay FROM system.replicas \
         WHERE database = {database:String} AND table = {table:String}",
    )
    .param("database", &task.plan.database)
    .param("table", &task.plan.table);
    let rows: Vec<Row> = replica.rows(&query).await?;
    Ok(rows.first().map_or(0, |row| row.absolute_delay))
}
