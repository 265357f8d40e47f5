//! How far the replicas of a replicated source are behind.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use batch::Task;
use serde::Deserialize;
use stores::clickhouse::{Error, Query, Replica};

/// A delay is asked for again after this: a range is read in seconds, and no delay grows faster than time.
const FRESH: Duration = Duration::from_secs(5);

/// What each replica says of its delay.
pub(crate) struct Delays {
    longest_seconds: u64,
    known: Mutex<HashMap<Place, Known>>,
}

/// Address of a replica, database and table.
type Place = (String, String, String);

struct Known {
    at: Instant,
    seconds: u64,
}

impl Delays {
    /// Delays of more than `longest_seconds` are too long.
    pub fn new(longest_seconds: u64) -> Self {
        Self {
            longest_seconds,
            known: Mutex::default(),
        }
    }

    /// Says what is wrong with a replica that is too far behind to be read from. A table that is not
    /// replicated has no delay.
    pub async fn too_long(&self, replica: &Replica, task: &Task) -> Result<Option<String>, Error> {
        let (of, plan) = (replica.address(), &task.plan);
        let place = (of.to_owned(), plan.database.clone(), plan.table.clone());
        let seconds = match self.known(&place) {
            Some(seconds) => seconds,
            None => {
                let seconds = delay(replica, task).await?;
                let at = Instant::now();
                self.lock().insert(place, Known { at, seconds });
                seconds
            }
        };
        let longest = self.longest_seconds;
        Ok((seconds > longest).then(|| {
            format!("it is {seconds} s behind; source.max_replica_delay_seconds allows {longest} s")
        }))
    }

    fn known(&self, place: &Place) -> Option<u64> {
        let known = self.lock();
        let known = known.get(place).filter(|known| known.at.elapsed() < FRESH);
        known.map(|known| known.seconds)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Place, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Seconds for which a replica has not taken over what it knows to be there. A replica that does not know
/// yet says an age of the world.
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
