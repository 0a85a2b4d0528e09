//! Which answer belongs to which request of one connection. Pure.
//!
//! A shim of version 4 or later answers with the request's id; an older one in the order of the
//! requests. Until an answer comes nobody knows which it is, so whoever stops waiting leaves its
//! place behind: in order, the late answer is that place's and nobody else's.

use std::collections::BTreeMap;

/// The most requests that wait for an answer: a shim that answers none of them is asked no more.
const MAX_PENDING: usize = 256;

#[derive(Debug)]
pub struct Pending<T> {
    last: u64,
    waiting: BTreeMap<u64, Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    /// None: nobody waits any more.
    waiter: Option<T>,
    /// Milliseconds of CLOCK_BOOTTIME.
    since: u64,
    /// Until when the shim may carry it out without an answer, in milliseconds of CLOCK_BOOTTIME.
    until: u64,
}

impl<T> Default for Pending<T> {
    fn default() -> Self {
        Self {
            last: 0,
            waiting: BTreeMap::new(),
        }
    }
}

impl<T> Pending<T> {
    /// Registers a request that is about to be sent and gives its id. None: too many wait already.
    pub fn add(&mut self, waiter: T, since: u64, until: u64) -> Option<u64> {
        if self.waiting.len() >= MAX_PENDING {
            return None;
        }
        self.last += 1;
        self.waiting.insert(
            self.last,
            Waiting {
                waiter: Some(waiter),
                since,
                until,
            },
        );
        Some(self.last)
    }

    /// The request was not sent: no answer will come.
    pub fn remove(&mut self, id: u64) {
        self.waiting.remove(&id);
    }

    /// Nobody waits for the answer any more; it may still come.
    pub fn abandon(&mut self, id: u64) {
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.waiter = None;
        }
    }

    /// Whoever waits for the answer that came. None: nobody does, or not any more.
    pub fn take(&mut self, id: Option<u64>) -> Option<T> {
        match id {
            Some(id) => {
                let found = self.waiting.remove(&id);
                // They were sent before and nobody waits: a shim that answers by ids does so in
                // their order.
                self.waiting
                    .retain(|other, waiting| *other > id || waiting.waiter.is_some());
                found?.waiter
            }
            None => self.waiting.pop_first()?.1.waiter,
        }
    }

    /// Since when the oldest request waits for its answer.
    pub fn oldest(&self) -> Option<u64> {
        self.waiting.values().next().map(|waiting| waiting.since)
    }

    /// Whether the shim may still be carrying out the oldest request. It does one after the other:
    /// that later ones have no answer yet means nothing.
    pub fn is_busy(&self, now: u64) -> bool {
        self.waiting
            .values()
            .next()
            .is_some_and(|waiting| waiting.until > now)
    }

    /// Whether the oldest answer should have come `limit` milliseconds ago.
    pub fn is_overdue(&self, now: u64, limit: u64) -> bool {
        self.waiting
            .values()
            .next()
            .is_some_and(|waiting| waiting.until.saturating_add(limit) <= now)
    }

    /// No answer will come any more.
    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Pending<&'static str> {
        let mut pending = Pending::default();
        for (id, waiter) in [(1, "a"), (2, "b"), (3, "c")] {
            assert_eq!(pending.add(waiter, 10 * id, 10 * id), Some(id));
        }
        pending
    }

    #[test]
    fn answers_in_another_order_find_who_asked() {
        let mut pending = three();
        assert_eq!(
            [Some(3), Some(1), Some(2)].map(|id| pending.take(id)),
            [Some("c"), Some("a"), Some("b")]
        );
        assert_eq!(pending.oldest(), None);
    }

    #[test]
    fn an_answer_that_comes_twice_is_one() {
        let mut pending = three();
        assert_eq!(
            [Some(2), Some(2), Some(3)].map(|id| pending.take(id)),
            [Some("b"), None, Some("c")]
        );
        assert_eq!(pending.take(Some(99)), None, "to what was never asked");
        assert_eq!(pending.take(Some(1)), Some("a"));
    }

    #[test]
    fn an_answer_that_is_lost_is_nobody_elses() {
        let mut pending = three();
        assert_eq!(pending.take(Some(2)), Some("b"));
        pending.abandon(1);
        assert_eq!(pending.take(Some(3)), Some("c"));
        assert_eq!(
            pending.oldest(),
            None,
            "nobody waits for the first any more"
        );
    }

    #[test]
    fn without_ids_a_late_answer_goes_to_the_place_that_was_left() {
        let mut pending = three();
        pending.abandon(1);
        assert_eq!(
            [None, None, None, None].map(|id| pending.take(id)),
            [None, Some("b"), Some("c"), None]
        );
    }

    #[test]
    fn what_was_not_sent_has_no_place() {
        let mut pending = three();
        pending.remove(1);
        assert_eq!(pending.take(None), Some("b"));
        assert_eq!(pending.oldest(), Some(30));
        pending.remove(3);
        assert!(!pending.is_busy(0), "nothing was asked");
        pending.add("start", 40, 90);
        pending.add("state", 50, 50);
        assert!(pending.is_busy(89) && !pending.is_busy(90));
        assert!(!pending.is_overdue(99, 10) && pending.is_overdue(100, 10));
        assert_eq!(pending.take(None), Some("start"));
        pending.add("start", 60, 1_000);
        assert!(!pending.is_busy(60), "it is at what takes no time");
    }

    #[test]
    fn there_is_a_bound() {
        let mut pending = Pending::default();
        assert!((0..MAX_PENDING).all(|_| pending.add((), 0, 0).is_some()));
        assert_eq!(pending.add((), 0, 0), None);
        // Not even those that nobody waits for are more.
        pending.abandon(1);
        assert_eq!(pending.add((), 0, 0), None);
        pending.clear();
        assert_eq!(pending.add((), 0, 0), Some(MAX_PENDING as u64 + 1));
    }
}
