use std::collections::VecDeque;

use super::Acknowledgement;

/// Which deliveries are answered for. Turns completions in any order into few acknowledgements:
/// one for all up to a tag where order allows, single ones for the rest.
#[derive(Debug, Default)]
pub struct AckBook {
    /// Tag of the first entry.
    first: u64,
    entries: VecDeque<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Entry {
    InWork,
    Done,
    Answered,
}

impl AckBook {
    pub fn new() -> Self {
        Self {
            first: 1,
            entries: VecDeque::new(),
        }
    }

    /// A delivery came in; tags come in order.
    pub fn delivered(&mut self, tag: u64) {
        debug_assert_eq!(tag, self.first + self.entries.len() as u64);
        self.entries.push_back(Entry::InWork);
    }

    /// Everything that the delivery takes is confirmed.
    pub fn done(&mut self, tag: u64) {
        self.set(tag, Entry::Done);
    }

    /// The delivery was given back.
    pub fn given_back(&mut self, tag: u64) {
        self.set(tag, Entry::Answered);
    }

    fn set(&mut self, tag: u64, entry: Entry) {
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
                Entry::InWork => break,
                Entry::Done => last_done = Some(self.first),
                Entry::Answered => {}
            }
            self.entries.pop_front();
            self.first += 1;
        }
        last_done.map(|tag| Acknowledgement::Ack {
            tag,
            multiple: true,
        })
    }

    /// [`Self::front`], then one acknowledgement for each completion behind a gap.
    pub fn all(&mut self) -> Vec<Acknowledgement> {
        let mut answers: Vec<_> = self.front().into_iter().collect();
        for (n, entry) in self.entries.iter_mut().enumerate() {
            if *entry == Entry::Done {
                *entry = Entry::Answered;
                answers.push(Acknowledgement::Ack {
                    tag: self.first + n as u64,
                    multiple: false,
                });
            }
        }
        answers
    }

    /// Tags that nobody has answered for.
    pub fn in_work(&self) -> impl Iterator<Item = u64> + '_ {
        let tags = self.entries.iter().enumerate();
        tags.filter(|(_, entry)| **entry == Entry::InWork)
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
        let mut book = AckBook::new();
        (1..=5).for_each(|tag| book.delivered(tag));
        (1..=4).for_each(|tag| book.done(tag));
        assert_eq!(book.all(), [ack(4, true)]);
        book.done(5);
        assert_eq!(book.front(), Some(ack(5, true)));
        assert_eq!(book.front(), None);
    }

    #[test]
    fn a_gap_is_never_acknowledged_over() {
        let mut book = AckBook::new();
        (1..=4).for_each(|tag| book.delivered(tag));
        book.done(1);
        book.done(3);
        assert_eq!(book.all(), [ack(1, true), ack(3, false)]);
        assert_eq!(book.in_work().collect::<Vec<_>>(), [2, 4]);
        book.done(2);
        assert_eq!(book.all(), [ack(2, true)]);
    }

    proptest! {
        /// The model: a set of tags. Whatever the order of completions and flushes, exactly the
        /// completed deliveries are acknowledged, each once.
        #[test]
        fn exactly_the_completed_deliveries_are_acknowledged(
            order in Just((1u64..=40).collect::<Vec<_>>()).prop_shuffle(),
            keep in 0usize..=40,
            flush_every in 1usize..10,
        ) {
            let mut book = AckBook::new();
            (1..=40).for_each(|tag| book.delivered(tag));
            let mut open: std::collections::BTreeSet<u64> = (1..=40).collect();
            let mut apply = |answers: Vec<Acknowledgement>| {
                for answer in answers {
                    match answer {
                        Acknowledgement::Ack { tag, multiple: true } => {
                            assert!(open.contains(&tag), "{tag} is acknowledged twice");
                            open.retain(|t| *t > tag);
                        }
                        Acknowledgement::Ack { tag, .. } => assert!(open.remove(&tag)),
                        Acknowledgement::GiveBack { .. } => unreachable!(),
                    }
                }
            };
            for (n, tag) in order[..keep].iter().enumerate() {
                book.done(*tag);
                if n % flush_every == 0 {
                    apply(if n % 2 == 0 { book.all() } else { book.front().into_iter().collect() });
                }
            }
            apply(book.all());
            let mut left: Vec<u64> = order[keep..].to_vec();
            left.sort_unstable();
            prop_assert_eq!(open.into_iter().collect::<Vec<_>>(), left);
        }
    }
}
