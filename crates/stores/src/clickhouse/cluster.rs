use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use batch::{Invalid, Reason};
use bytes::Bytes;
use serde::de::DeserializeOwned;

use super::address::parse_cluster;
use super::replica::Transports;
use super::{ConnectionSettings, Error, Query, Replica, Summary};
use crate::ConfigError;
use crate::health::in_order_to_try;

/// All shards of a ClickHouse installation.
#[derive(Debug)]
pub struct Cluster {
    shards: Vec<Shard>,
}

impl Cluster {
    /// Reads the cluster string; connects to nothing yet.
    pub fn new(settings: &ConnectionSettings) -> Result<Self, ConfigError> {
        let addresses = parse_cluster(&settings.cluster)
            .map_err(|detail| ConfigError(format!("{}.cluster: {detail}", settings.section)))?;
        let transports = Transports::new(settings)?;
        let settings = Arc::new(settings.clone());
        let replica = |url| Replica::new(url, settings.clone(), transports.clone());
        let shards = (0..).zip(addresses).map(|(number, urls)| Shard {
            number,
            replicas: urls.into_iter().map(replica).collect(),
            turn: AtomicUsize::new(0),
        });
        Ok(Self {
            shards: shards.collect(),
        })
    }

    pub fn shard_count(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The shard of this number, from 0; [`Reason::UnknownShard`] when there is none.
    pub fn shard(&self, number: u32) -> Result<&Shard, Invalid> {
        self.shards.get(number as usize).ok_or_else(|| {
            let count = self.shards.len();
            let detail =
                format!("there is no shard {number}: the cluster has {count}, numbered from 0");
            Invalid::new(Reason::UnknownShard, detail)
        })
    }

    /// All shards, in the order of their numbers.
    pub fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.shards.iter()
    }
}

/// One shard: replicas that hold the same rows.
///
/// Each method fails over: it tries the next replica as long as an error may be the replica's alone
/// ([`Error::allows_failover`]), and returns the last error. A replica that failed is tried after the
/// others for `replica_cooldown_seconds`.
#[derive(Debug)]
pub struct Shard {
    number: u32,
    replicas: Vec<Replica>,
    turn: AtomicUsize,
}

impl Shard {
    /// Its number in the cluster, from 0.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Its replicas in the order to try them: the healthy ones, starting at the next one for each call,
    /// then those in cooldown. Never empty.
    pub fn replicas(&self) -> Vec<&Replica> {
        in_order_to_try(&self.replicas, &self.turn, |r| &r.endpoint.health)
    }

    /// The rows of a query, from JSONEachRow: fields of `T` are named as the columns. For small
    /// answers; rows of batches are read with [`Replica::stream`].
    pub async fn rows<T: DeserializeOwned>(&self, query: &Query) -> Result<Vec<T>, Error> {
        Ok(self.counted_rows(query).await?.0)
    }

    /// [`Shard::rows`], and what the server read for them.
    pub async fn counted_rows<T: DeserializeOwned>(
        &self,
        query: &Query,
    ) -> Result<(Vec<T>, Summary), Error> {
        self.fail_over(self.replicas(), Error::allows_failover, |replica| {
            replica.counted_rows(query)
        })
        .await
    }

    /// Executes a statement on one replica. It may be executed twice, when a connection breaks before the
    /// answer: it has to be idempotent, such as `CREATE … IF NOT EXISTS`.
    pub async fn execute(&self, query: &Query) -> Result<Summary, Error> {
        self.fail_over(self.replicas(), Error::allows_failover, |replica| {
            replica.execute(query)
        })
        .await
    }

    /// Sends an `INSERT … FORMAT …` with the concatenation of `pieces` as its data, uncopied.
    ///
    /// With a [`Query::deduplication_token`] it is tried on every replica, and twice on a single one;
    /// without, on another one only if the first certainly got nothing.
    pub async fn insert(&self, query: &Query, pieces: Vec<Bytes>) -> Result<Summary, Error> {
        let repeatable = query.has_deduplication_token();
        let mut order = self.replicas();
        if order.len() == 1 {
            // A connection may break for no lasting reason: the server closes idle ones by itself.
            order.push(order[0]);
        }
        let again = |e: &Error| e.nothing_was_sent() || (repeatable && e.allows_failover());
        self.fail_over(order, again, |replica| {
            replica.insert(query, pieces.clone())
        })
        .await
    }

    /// Sends a request to each replica of `order` until one answers, or fails with an error that is not for `again`.
    async fn fail_over<'a, T, F: Future<Output = Result<T, Error>>>(
        &self,
        order: Vec<&'a Replica>,
        again: impl Fn(&Error) -> bool,
        request: impl Fn(&'a Replica) -> F,
    ) -> Result<T, Error> {
        let mut failed = None;
        for replica in order {
            match request(replica).await {
                Err(error) if again(&error) => {
                    let (shard, replica) = (self.number, &error.replica);
                    tracing::warn!(shard, replica, %error, "a replica failed");
                    failed = Some(error);
                }
                result => return result,
            }
        }
        Err(failed.expect("a shard has a replica"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::TargetSettings;
    use super::*;

    fn cluster(text: &str) -> Result<Cluster, ConfigError> {
        let settings = TargetSettings {
            cluster: text.to_owned(),
            ..TargetSettings::default()
        };
        Cluster::new(&settings.connection())
    }

    #[tokio::test]
    async fn shards_are_numbered_from_0_and_another_number_is_refused_by_name() {
        let cluster = cluster("a|b,c").unwrap();
        assert_eq!(cluster.shard_count(), 2);
        assert_eq!(
            cluster.shard(1).unwrap().replicas()[0].address(),
            "http://c:8123"
        );
        let refused = cluster.shard(2).unwrap_err();
        assert_eq!(refused.reason, Reason::UnknownShard);
        assert!(refused.detail.contains("no shard 2: the cluster has 2"));
    }

    #[tokio::test]
    async fn replicas_take_turns_and_a_failed_one_is_tried_last() {
        let cluster = cluster("a|b").unwrap();
        let shard = cluster.shard(0).unwrap();
        let first = || shard.replicas()[0].address().to_owned();
        assert_eq!(
            [first(), first(), first()],
            ["http://a:8123", "http://b:8123", "http://a:8123"]
        );
        shard.replicas()[0].mark_down();
        let down = ["http://a:8123", "http://b:8123"].map(str::to_owned);
        let up = first();
        assert!(down.contains(&up));
        assert_eq!([first(), first()], [up.clone(), up]);
    }

    #[test]
    fn a_broken_cluster_string_names_its_section() {
        let error = cluster("a{1..").unwrap_err().to_string();
        assert!(error.starts_with("clickhouse.cluster: "), "{error}");
    }
}
