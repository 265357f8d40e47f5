use std::collections::HashMap;
use std::hash::Hash;

use tokio::time::Instant;

use crate::{GroupLimits, Weight};

/// Messages that are processed together.
#[derive(Debug)]
pub(super) struct MessageGroup<K, T> {
    pub key: K,
    pub members: Vec<T>,
    weight: Weight,
    since: Instant,
}

impl<K, T> MessageGroup<K, T> {
    pub fn new(key: K, members: Vec<T>) -> Self {
        Self {
            key,
            members,
            weight: Weight::default(),
            since: Instant::now(),
        }
    }
}

/// Groups that are being gathered, one for each key.
pub(super) struct Groups<K, T> {
    limits: GroupLimits,
    open: HashMap<K, MessageGroup<K, T>>,
}

impl<K: Clone + Eq + Hash, T> Groups<K, T> {
    pub fn new(limits: GroupLimits) -> Self {
        Self {
            limits,
            open: HashMap::new(),
        }
    }

    /// Adds a member; returns the groups that this makes full, in the order of their members.
    pub fn add(&mut self, key: K, weight: Weight, member: T) -> Vec<MessageGroup<K, T>> {
        let mut full = Vec::new();
        if let Some(open) = self.open.get(&key) {
            let rows = open.weight.rows + weight.rows;
            let bytes = open.weight.bytes + weight.bytes;
            if rows > self.limits.rows || bytes > self.limits.bytes {
                full.extend(self.open.remove(&key));
            }
        }
        let group = self.open.entry(key.clone());
        let group = group.or_insert_with(|| MessageGroup::new(key.clone(), Vec::new()));
        group.members.push(member);
        group.weight.rows += weight.rows;
        group.weight.bytes += weight.bytes;
        if group.weight.rows >= self.limits.rows || group.weight.bytes >= self.limits.bytes {
            full.extend(self.open.remove(&key));
        }
        full
    }

    /// When the next group is full by time.
    pub fn due_at(&self) -> Option<Instant> {
        let since = self.open.values().map(|group| group.since).min();
        since.map(|since| since + self.limits.wait)
    }

    /// Groups that are full by time.
    pub fn due(&mut self) -> Vec<MessageGroup<K, T>> {
        let now = Instant::now();
        let wait = self.limits.wait;
        let due = self.open.extract_if(|_, group| group.since + wait <= now);
        due.map(|(_, group)| group).collect()
    }

    /// Everything that is being gathered.
    pub fn take(&mut self) -> Vec<MessageGroup<K, T>> {
        self.open.drain().map(|(_, group)| group).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn groups(rows: u64) -> Groups<u8, u64> {
        Groups::new(GroupLimits {
            rows,
            bytes: 1000,
            wait: Duration::from_millis(100),
        })
    }

    const fn rows(rows: u64) -> Weight {
        Weight { rows, bytes: 1 }
    }

    #[tokio::test]
    async fn a_group_is_full_at_its_limit_and_apart_from_others() {
        let mut groups = groups(10);
        assert!(groups.add(0, rows(6), 1).is_empty());
        assert!(groups.add(1, rows(6), 2).is_empty());
        let full = groups.add(0, rows(4), 3);
        assert_eq!(full.len(), 1);
        assert_eq!((full[0].key, &full[0].members), (0, &vec![1, 3]));
    }

    #[tokio::test]
    async fn a_member_that_would_exceed_the_limit_begins_the_next_group() {
        let mut groups = groups(10);
        groups.add(0, rows(6), 1);
        let full = groups.add(0, rows(12), 2);
        let members: Vec<_> = full.into_iter().map(|group| group.members).collect();
        assert_eq!(members, [vec![1], vec![2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_full_by_time() {
        let mut groups = groups(10);
        groups.add(0, rows(1), 1);
        assert!(groups.due().is_empty());
        tokio::time::sleep_until(groups.due_at().unwrap()).await;
        assert_eq!(groups.due()[0].members, [1]);
        assert_eq!(groups.due_at(), None);
    }
}
