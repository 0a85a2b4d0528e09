//! What others have answered, for as long as they said it holds. Bounded in entries and in bytes.
//!
//! Whom was asked is part of the key: a server that one pod has for itself answers for nobody else.

use crate::relay::Answer;
use hickory_proto::rr::RecordType;
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// The most answers.
const MAX_ENTRIES: usize = 8_192;

/// The most bytes of memory that answers take, with their questions.
const MAX_BYTES: usize = 8 << 20;

/// A question, as the one who was asked was asked it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    /// In lower case.
    pub name: String,
    /// What is asked for.
    pub kind: RecordType,
    /// See [`crate::answer::Forward`].
    pub dnssec_ok: bool,
    /// See [`crate::answer::Forward`].
    pub checking_disabled: bool,
    /// Who was asked.
    pub upstreams: Rc<[IpAddr]>,
}

struct Entry {
    answer: Rc<Answer>,
    size: usize,
    at: Instant,
    /// Counts the insertions: an older mention of the key in the queue is of another entry.
    number: u64,
}

/// Answers by their questions.
#[derive(Default)]
pub struct Cache {
    entries: HashMap<Key, Entry>,
    /// In the order in which they were put.
    order: VecDeque<(Key, u64)>,
    bytes: usize,
    number: u64,
}

impl Cache {
    /// The answer, and how many seconds old it is.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<(Rc<Answer>, u32)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.at);
        if age >= Duration::from_secs(entry.answer.ttl().into()) {
            let gone = self.entries.remove(key)?;
            self.bytes -= gone.size;
            return None;
        }
        // Less than its time, which fits.
        Some((Rc::clone(&entry.answer), age.as_secs() as u32))
    }

    /// Keeps an answer, if it says for how long it holds.
    pub fn put(&mut self, key: Key, answer: Rc<Answer>, now: Instant) {
        if answer.ttl() == 0 {
            return;
        }
        self.number += 1;
        let number = self.number;
        // A key is in the map and in the queue.
        let size = answer.size() + 2 * (size_of::<Key>() + key.name.len());
        let entry = Entry {
            answer,
            size,
            at: now,
            number,
        };
        self.bytes += size;
        if let Some(before) = self.entries.insert(key.clone(), entry) {
            self.bytes -= before.size;
        }
        self.order.push_back((key, number));
        while self.entries.len() > MAX_ENTRIES
            || self.bytes > MAX_BYTES
            || self.order.len() > 2 * MAX_ENTRIES
        {
            let Some((key, number)) = self.order.pop_front() else {
                break;
            };
            if self
                .entries
                .get(&key)
                .is_some_and(|entry| entry.number == number)
                && let Some(gone) = self.entries.remove(&key)
            {
                self.bytes -= gone.size;
            }
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::tests::answer;

    fn key(name: &str, upstream: u8) -> Key {
        Key {
            name: name.to_owned(),
            kind: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
            upstreams: Rc::from([IpAddr::from([192, 0, 2, upstream])]),
        }
    }

    #[test]
    fn an_answer_holds_as_long_as_it_says() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        cache.put(key("a", 1), answer(60, 4).into(), start);
        assert_eq!(
            cache.get(&key("a", 1), after(59)).map(|(_, age)| age),
            Some(59)
        );
        assert!(
            cache.get(&key("a", 2), after(1)).is_none(),
            "another server was asked"
        );
        assert!(cache.get(&key("a", 1), after(60)).is_none());
        assert_eq!((cache.entries.len(), cache.bytes), (0, 0));
        cache.put(key("a", 1), answer(0, 4).into(), start);
        assert!(cache.get(&key("a", 1), start).is_none());
    }

    #[test]
    fn it_is_bounded_in_entries_and_in_bytes() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..3 * MAX_ENTRIES {
            cache.put(key(&number.to_string(), 1), answer(60, 4).into(), now);
        }
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
        assert!(
            cache.get(&key("0", 1), now).is_none(),
            "the oldest went first"
        );
        for _ in 0..3 * MAX_ENTRIES {
            cache.put(key("same", 1), answer(60, 4).into(), now);
        }
        assert!(cache.order.len() <= 2 * MAX_ENTRIES);
        for number in 0..1_000 {
            cache.put(key(&number.to_string(), 2), answer(60, 60_000).into(), now);
        }
        assert!(cache.bytes <= MAX_BYTES);
        assert_eq!(
            cache.bytes,
            cache
                .entries
                .values()
                .map(|entry| entry.size)
                .sum::<usize>()
        );
        assert!(cache.get(&key("999", 2), now).is_some());
    }
}
