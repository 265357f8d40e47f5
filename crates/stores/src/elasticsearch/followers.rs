use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Client, Error};

/// A cache of the followers of indices.
#[derive(Debug)]
pub struct Followers {
    client: Client,
    every: Duration,
    /// By leader.
    known: Mutex<HashMap<String, KnownFollowers>>,
}

#[derive(Debug)]
struct KnownFollowers {
    looked_up: Instant,
    names: Arc<[String]>,
}

impl Followers {
    /// A look-up is valid for `every`.
    pub fn new(client: Client, every: Duration) -> Self {
        Self {
            client,
            every,
            known: Mutex::new(HashMap::new()),
        }
    }

    /// The followers of `leader`, as [`Client::followers`] finds them. A failed look-up is an error even if an
    /// older answer is known: documents written to the old followers alone would be missing in the new ones.
    pub async fn get(&self, leader: &str) -> Result<Arc<[String]>, Error> {
        self.cached(leader, || self.client.followers(leader)).await
    }

    /// One look-up at a time: callers that wait use its result.
    async fn cached<E>(
        &self,
        leader: &str,
        look_up: impl AsyncFnOnce() -> Result<Vec<String>, E>,
    ) -> Result<Arc<[String]>, E> {
        let mut known = self.known.lock().await;
        if let Some(followers) = known.get(leader)
            && followers.looked_up.elapsed() < self.every
        {
            return Ok(followers.names.clone());
        }
        let followers: Arc<[String]> = look_up().await?.into();
        let now = KnownFollowers {
            looked_up: Instant::now(),
            names: followers.clone(),
        };
        if let Some(before) = known.insert(leader.to_owned(), now)
            && before.names != followers
        {
            tracing::info!(leader, ?followers, "the followers of an index changed");
        }
        Ok(followers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::elasticsearch::ElasticsearchSettings;

    fn followers() -> Followers {
        let client = Client::new(&ElasticsearchSettings::default()).unwrap();
        Followers::new(client, Duration::from_secs(60))
    }

    #[tokio::test(start_paused = true)]
    async fn they_are_looked_up_once_a_minute() {
        let followers = followers();
        let found = async |name: &str| {
            let name = name.to_owned();
            let result = followers
                .cached("i", async || Ok::<_, ()>(vec![name]))
                .await;
            result.unwrap()[0].clone()
        };
        assert_eq!(found("first").await, "first");
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(found("second").await, "first");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(found("third").await, "third");
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_look_up_is_an_error_and_the_next_one_tries_again() {
        let followers = followers();
        let failed = followers.cached("i", async || Err("down")).await;
        assert_eq!(failed.unwrap_err(), "down");
        let found = followers.cached("i", async || Ok::<_, ()>(vec![])).await;
        assert!(found.unwrap().is_empty());
    }
}
