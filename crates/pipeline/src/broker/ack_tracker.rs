use std::collections::VecDeque;

use super::Acknowledgement;

/// Which deliveries are acknowledged. Turns completions in any order into few acknowledgements:
/// one for all up to a tag where order allows, single ones for the rest.
#[derive(Debug, Default)]
pub struct AckTracker {
    /// Tag of the first entry.
    first: u64,
    entries: VecDeque<DeliveryStatus>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum DeliveryStatus {
    InFlight,
    Done,
    /// Or requeued.
    Acknowledged,
}

impl AckTracker {
    pub fn new() -> Self {
        Self {
            first: 1,
            entries: VecDeque::new(),
        }
    }

    /// A delivery came in; tags come in order.
    pub fn delivered(&mut self, tag: u64) {
        debug_assert_eq!(tag, self.first + self.entries.len() as u64);
        self.entries.push_back(DeliveryStatus::InFlight);
    }

    /// Everything that the delivery takes is confirmed.
    pub fn done(&mut self, tag: u64) {
        self.set(tag, DeliveryStatus::Done);
    }

    /// The delivery was requeued.
    pub fn requeued(&mut self, tag: u64) {
        self.set(tag, DeliveryStatus::Acknowledged);
    }

    fn set(&mut self, tag: u64, entry: DeliveryStatus) {
        let index = tag.checked_sub(self.first).map(|n| n as usize);
        if let Some(slot) = index.and_then(|n| self.entries.get_mut(n)) {
            *slot = entry;
        }
    }

    /// One acknowledgement for the unbroken run of completions at the front, if there is one.
    pub fn front(&mut self) -> Option<Acknowledgement> {
        let mut last_done = None;
        while let Some(entry) = self.entries.front() {
            match entry {
                DeliveryStatus::InFlight => break,
                DeliveryStatus::Done => last_done = Some(self.first),
                DeliveryStatus::Acknowledged => {}
            }
            self.entries.pop_front();
            self.first += 1;
        }
        let multiple = true;
        last_done.map(|tag| Acknowledgement::Ack { tag, multiple })
    }

    /// [`Self::front`], then one acknowledgement for each completion behind a gap.
    pub fn all(&mut self) -> Vec<Acknowledgement> {
        let mut acknowledgements: Vec<_> = self.front().into_iter().collect();
        for (n, entry) in self.entries.iter_mut().enumerate() {
            if *entry == DeliveryStatus::Done {
                *entry = DeliveryStatus::Acknowledged;
                acknowledgements.push(Acknowledgement::single(self.first + n as u64));
            }
        }
        acknowledgements
    }

    /// Tags that are neither acknowledged nor requeued.
    #[cfg(test)]
    fn in_flight(&self) -> impl Iterator<Item = u64> + '_ {
        let tags = self.entries.iter().enumerate();
        tags.filter(|(_, entry)| **entry == DeliveryStatus::InFlight)
            .map(|(n, _)| self.first + n as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn ack(tag: u64, multiple: bool) -> Acknowledgement {
        Acknowledgement::Ack { tag, multiple }
    }

    #[test]
    fn completions_in_order_take_one_acknowledgement() {
        let mut tracker = AckTracker::new();
        (1..=5).for_each(|tag| tracker.delivered(tag));
        (1..=4).for_each(|tag| tracker.done(tag));
        assert_eq!(tracker.all(), [ack(4, true)]);
        tracker.done(5);
        assert_eq!(tracker.front(), Some(ack(5, true)));
        assert_eq!(tracker.front(), None);
    }

    #[test]
    fn a_gap_is_never_acknowledged_over() {
        let mut tracker = AckTracker::new();
        (1..=4).for_each(|tag| tracker.delivered(tag));
        tracker.done(1);
        tracker.done(3);
        assert_eq!(tracker.all(), [ack(1, true), ack(3, false)]);
        assert_eq!(tracker.in_flight().collect::<Vec<_>>(), [2, 4]);
        tracker.done(2);
        assert_eq!(tracker.all(), [ack(2, true)]);
    }

    proptest! {
        /// The model: a set of tags. In every order of completions and flushes, exactly the completed deliveries are
        /// acknowledged, each once.
        #[test]
        fn exactly_the_completed_deliveries_are_acknowledged(
            order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle(),
            keep in 0usize..=40,
            flush_every in 1usize..10,
        ) {
            let mut tracker = AckTracker::new();
            (1..=40).for_each(|tag| tracker.delivered(tag));
            let mut open: std::collections::BTreeSet<u64> = (1..=40).collect();
            let mut apply = |acknowledgements: Vec<Acknowledgement>| {
                for acknowledgement in acknowledgements {
                    match acknowledgement {
                        Acknowledgement::Ack { tag, multiple: true } => {
                            assert!(open.contains(&tag), "{tag} is acknowledged twice");
                            open.retain(|t| *t > tag);
                        }
                        Acknowledgement::Ack { tag, .. } => assert!(open.remove(&tag)),
                        Acknowledgement::Requeue { .. } => unreachable!(),
                    }
                }
            };
            for (n, tag) in order[..keep].iter().enumerate() {
                tracker.done(*tag);
                if n % flush_every == 0 {
                    apply(if n % 2 == 0 { tracker.all() } else { tracker.front().into_iter().collect() });
                }
            }
            apply(tracker.all());
            let mut left: Vec<u64> = order[keep..].to_vec();
            left.sort_unstable();
            prop_assert_eq!(open.into_iter().collect::<Vec<_>>(), left);
        }
    }
}
