//! What another server answered, passed on as it is.
//!
//! Its records are never read into values and written again: the names of 64 KB of records can be
//! megabytes when they are not compressed, and a tenth of a second of work. The message is walked
//! once, to see that it is whole, where its times to live are, and for how long it holds; what is
//! kept and sent is its bytes. A name in it may refer to what comes before it (RFC 1035, section
//! 4.1.4), which stays where it was: the reply's question is as long as the answer's.
//!
//! *Guarantees*: total on any bytes, in time linear in their number. What is read is an answer only
//! if it is the answer to the question that was asked.

use crate::answer::{Frame, HEADER};
use hickory_proto::op::ResponseCode;

/// The longest that an answer is kept, in seconds, whatever it says.
const MAX_TTL: u32 = 3_600;

/// The longest that it is kept that there is nothing (RFC 2308, section 5, advises one to three
/// hours; a resolver this near to its clients should notice sooner).
const MAX_NEGATIVE_TTL: u32 = 300;

/// The most bytes of a name (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 255;

const TYPE_SOA: u16 = 6;
const TYPE_OPT: u16 = 41;

/// Bits of a message's third and fourth byte (RFC 1035, section 4.1.1; RFC 4035, section 3.2.3).
const RESPONSE: u8 = 0x80;
const OPCODE: u8 = 0x78;
const TRUNCATED: u8 = 0x02;
const AUTHENTIC: u8 = 0x20;
const CODE: u8 = 0x0f;

/// What a server sent.
#[derive(Debug)]
pub enum Received {
    /// It is not about what was asked, or not whole.
    Nothing,
    /// It did not fit into its way.
    Truncated,
    /// An answer.
    Answer(Answer),
}

/// An answer to a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    code: u8,
    authentic: bool,
    /// How many records its three sections have.
    counts: [u16; 3],
    /// The records, as they were sent after the question.
    records: Box<[u8]>,
    /// Where in them the times to live are.
    ttls: Box<[u16]>,
    /// For how many seconds it holds. 0: it is not kept.
    ttl: u32,
}

impl Answer {
    /// For how many seconds it may be kept. 0: it may not.
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// How many bytes of memory it takes.
    pub fn size(&self) -> usize {
        self.records.len() + 2 * self.ttls.len() + size_of::<Self>()
    }

    /// Whether it says what there is, or that there is nothing: another server need not be asked.
    pub fn settles(&self) -> bool {
        self.code == 0 || u16::from(self.code) == u16::from(ResponseCode::NXDomain)
    }

    /// The reply to a client's query, of an answer that is `age` seconds old.
    pub fn reply(&self, frame: &Frame, age: u32) -> Vec<u8> {
        let Some(mut bytes) = frame.head(self.code, self.authentic) else {
            return Vec::new();
        };
        let begin = bytes.len();
        bytes.extend_from_slice(&self.records);
        for at in &self.ttls {
            let at = begin + usize::from(*at);
            if let Some(ttl) = bytes.get_mut(at..at + 4) {
                let left = read_ttl(ttl).saturating_sub(age);
                ttl.copy_from_slice(&left.to_be_bytes());
            }
        }
        let [answers, authorities, mut additionals] = self.counts;
        if let Some(options) = frame.options() {
            bytes.extend_from_slice(&options);
            additionals = additionals.saturating_add(1);
        }
        for (place, count) in [answers, authorities, additionals].iter().enumerate() {
            let at = 6 + 2 * place;
            bytes[at..at + 2].copy_from_slice(&count.to_be_bytes());
        }
        if bytes.len() > frame.limit() {
            return frame.truncated(self.code);
        }
        bytes
    }
}

/// Reads what a server sent about `question` (as it was sent: name, type, class) with the number
/// `id`.
pub fn read(bytes: &[u8], id: u16, question: &[u8]) -> Received {
    let begin = HEADER + question.len();
    let is_answer = bytes.len() >= begin
        && bytes[..2] == id.to_be_bytes()
        && bytes[2] & (RESPONSE | OPCODE) == RESPONSE
        && bytes[4..6] == [0, 1]
        && bytes[HEADER..begin].eq_ignore_ascii_case(question);
    if !is_answer {
        return Received::Nothing;
    }
    if bytes[2] & TRUNCATED != 0 {
        return Received::Truncated;
    }
    walk(bytes, begin).map_or(Received::Nothing, Received::Answer)
}

/// The question of a message that begins with one.
pub fn question(bytes: &[u8]) -> Option<&[u8]> {
    bytes.get(HEADER..end_of_name(bytes, HEADER)? + 4)
}

/// A record's fixed part, and where it begins and ends.
struct Record {
    kind: u16,
    /// Where its time to live is.
    ttl_at: usize,
    ttl: u32,
    end: usize,
}

fn number(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?.first_chunk()?;
    Some(u16::from_be_bytes(*two))
}

/// A time to live; one with the highest bit is none (RFC 2181, section 8).
fn read_ttl(bytes: &[u8]) -> u32 {
    let ttl = bytes
        .first_chunk()
        .map_or(0, |four| u32::from_be_bytes(*four));
    if ttl > i32::MAX as u32 { 0 } else { ttl }
}

/// Where the name at `at` ends.
fn end_of_name(bytes: &[u8], at: usize) -> Option<usize> {
    let mut next = at;
    while next - at < MAX_NAME {
        match *bytes.get(next)? {
            0 => return Some(next + 1),
            length @ 1..=63 => next += 1 + usize::from(length),
            0xc0.. => return bytes.get(next + 1).map(|_| next + 2),
            _ => return None,
        }
    }
    None
}

fn record(bytes: &[u8], at: usize) -> Option<Record> {
    let fixed = end_of_name(bytes, at)?;
    let end = fixed + 10 + usize::from(number(bytes, fixed + 8)?);
    (end <= bytes.len()).then_some(())?;
    Some(Record {
        kind: number(bytes, fixed)?,
        ttl_at: fixed + 4,
        ttl: read_ttl(bytes.get(fixed + 4..fixed + 8)?),
        end,
    })
}

/// Walks the records that begin at `begin`. None: they are not all there.
fn walk(bytes: &[u8], begin: usize) -> Option<Answer> {
    let asked = number(bytes, begin - 4)?;
    let mut code = u16::from(bytes[3] & CODE);
    let mut counts = [0u16; 3];
    let (mut at, mut ttls) = (begin, Vec::new());
    let (mut answered, mut lowest, mut negative) = (false, [u32::MAX; 2], None);
    'sections: for (section, count) in counts.iter_mut().enumerate() {
        for _ in 0..number(bytes, 6 + 2 * section)? {
            let record = record(bytes, at)?;
            if record.kind == TYPE_OPT {
                // It is between two servers, and not passed on; nor is what comes after it, which is
                // signed with it or nothing. Half of the code is in it (RFC 6891, section 6.1.3).
                code |= u16::from(bytes[record.ttl_at]) << 4;
                break 'sections;
            }
            *count += 1;
            ttls.push(u16::try_from(record.ttl_at - begin).ok()?);
            if let Some(lowest) = lowest.get_mut(section) {
                *lowest = record.ttl.min(*lowest);
            }
            answered |= section == 0 && record.kind == asked;
            if section == 1 && record.kind == TYPE_SOA {
                // The last of its numbers is for how long there is nothing.
                let minimum = read_ttl(bytes.get(record.end.checked_sub(4)?..record.end)?);
                negative = Some(record.ttl.min(minimum));
            }
            at = record.end;
        }
    }
    let nothing = u16::from(ResponseCode::NXDomain);
    let ttl = match code {
        0 if answered => lowest[0].min(lowest[1]).min(MAX_TTL),
        // How long that holds is in the record of who is responsible (RFC 2308, section 5).
        code if code == 0 || code == nothing => {
            lowest[0].min(negative.unwrap_or(0)).min(MAX_NEGATIVE_TTL)
        }
        _ => 0,
    };
    // What has no place in four bits is a fault of the server that was asked.
    let failed = u16::from(ResponseCode::ServFail);
    Some(Answer {
        code: u8::try_from(code)
            .ok()
            .filter(|code| *code <= CODE)
            .unwrap_or(failed as u8),
        authentic: bytes[3] & AUTHENTIC != 0,
        counts,
        records: bytes.get(begin..at)?.into(),
        ttls: ttls.into(),
        ttl,
    })
}

#[cfg(test)]
pub mod tests;
