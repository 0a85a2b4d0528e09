//! What others have answered, for as long as they said it holds. Bounded in entries and in bytes.
//!
//! Whom was asked is part of the key: a server that one pod has for itself answers for nobody else.

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};
use std::{
    collections::{HashMap, VecDeque},
    net::IpAddr,
    rc::Rc,
    time::{Duration, Instant},
};

/// The most answers.
const MAX_ENTRIES: usize = 8_192;

/// The most bytes of answers as they were received.
const MAX_BYTES: usize = 8 << 20;

/// The longest that an answer is kept, in seconds, whatever it says.
const MAX_TTL: u32 = 3_600;

/// The longest that it is kept that there is nothing (RFC 2308, section 5, advises one to three
/// hours; a resolver this near to its clients should notice sooner).
const MAX_NEGATIVE_TTL: u32 = 300;

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
    message: Rc<Message>,
    size: usize,
    at: Instant,
    ttl: u32,
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
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<(Rc<Message>, u32)> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.at);
        if age >= Duration::from_secs(entry.ttl.into()) {
            let gone = self.entries.remove(key)?;
            self.bytes -= gone.size;
            return None;
        }
        // Less than its time, which fits.
        Some((Rc::clone(&entry.message), age.as_secs() as u32))
    }

    /// Keeps an answer of so many bytes, if it says for how long it holds.
    pub fn put(&mut self, key: Key, message: Rc<Message>, size: usize, now: Instant) {
        let ttl = ttl_of(&message);
        if ttl == 0 {
            return;
        }
        self.number += 1;
        let number = self.number;
        let entry = Entry {
            message,
            size,
            at: now,
            ttl,
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

/// For how many seconds an answer holds. 0: it is not kept.
fn ttl_of(message: &Message) -> u32 {
    let code = message.metadata.response_code;
    let kind = message.queries.first().map(|query| query.query_type);
    let answered = message
        .answers
        .iter()
        .any(|record| Some(record.record_type()) == kind);
    match code {
        ResponseCode::NoError if answered => {
            let records = message.answers.iter().chain(&message.authorities);
            records
                .map(|record| record.ttl)
                .min()
                .unwrap_or(0)
                .min(MAX_TTL)
        }
        // There is no such name, or nothing of that kind: how long that holds is in the record of
        // who is responsible (RFC 2308, section 5).
        ResponseCode::NoError | ResponseCode::NXDomain => {
            let times = message
                .authorities
                .iter()
                .filter_map(|record| match &record.data {
                    RData::SOA(soa) => Some(record.ttl.min(soa.minimum)),
                    _ => None,
                });
            let answers = message.answers.iter().map(|record| record.ttl);
            let soa = times.min().unwrap_or(0).min(MAX_NEGATIVE_TTL);
            answers.fold(soa, u32::min)
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::{
        op::{OpCode, Query},
        rr::{
            Name, Record,
            rdata::{A, SOA},
        },
    };
    use std::net::Ipv4Addr;

    fn key(name: &str, upstream: u8) -> Key {
        Key {
            name: name.to_owned(),
            kind: RecordType::A,
            dnssec_ok: false,
            checking_disabled: false,
            upstreams: Rc::from([IpAddr::from([192, 0, 2, upstream])]),
        }
    }

    fn answer(ttl: u32) -> Message {
        let name = Name::from_ascii("a.example.").expect("a name");
        let mut message = Message::response(1, OpCode::Query);
        message.add_query(Query::query(name.clone(), RecordType::A));
        message.add_answer(Record::from_rdata(
            name,
            ttl,
            RData::A(A(Ipv4Addr::LOCALHOST)),
        ));
        message
    }

    #[test]
    fn an_answer_holds_as_long_as_it_says() {
        let (mut cache, start) = (Cache::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        cache.put(key("a", 1), answer(60).into(), 100, start);
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
        cache.put(key("a", 1), answer(0).into(), 100, start);
        assert!(cache.get(&key("a", 1), start).is_none());
        cache.put(key("a", 1), answer(u32::MAX).into(), 100, start);
        assert!(cache.get(&key("a", 1), after(3_600)).is_none());
    }

    #[test]
    fn that_there_is_nothing_holds_as_long_as_its_zone_says() {
        let name = Name::from_ascii("example.").expect("a name");
        let mut message = answer(60);
        message.answers.clear();
        message.metadata.response_code = ResponseCode::NXDomain;
        assert_eq!(ttl_of(&message), 0, "nobody says how long");
        let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, 30);
        message.add_authority(Record::from_rdata(name, 60, RData::SOA(soa)));
        assert_eq!(ttl_of(&message), 30);
        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(ttl_of(&message), 0);
    }

    #[test]
    fn it_is_bounded_in_entries_and_in_bytes() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for number in 0..3 * MAX_ENTRIES {
            cache.put(key(&number.to_string(), 1), answer(60).into(), 100, now);
        }
        assert_eq!(cache.entries.len(), MAX_ENTRIES);
        assert!(
            cache.get(&key("0", 1), now).is_none(),
            "the oldest went first"
        );
        for _ in 0..3 * MAX_ENTRIES {
            cache.put(key("same", 1), answer(60).into(), 100, now);
        }
        assert!(cache.order.len() <= 2 * MAX_ENTRIES);
        for number in 0..1_000 {
            cache.put(key(&number.to_string(), 2), answer(60).into(), 60_000, now);
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
