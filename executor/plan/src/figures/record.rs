//! One record: what was used by a time, in 64 bytes. All numbers are little-endian; a number that is not known is all ones.
//!
//! ```text
//! 0  time        8  cpu     16  memory   24  read   32  written   40  received   48  sent   56  pids (4)   60  CRC-32 (4)
//! ```

/// The bytes of a record.
pub const RECORD_BYTES: usize = 64;

/// What a file of records begins with. Another format is another header, and a file of it is begun anew.
pub const HEADER: [u8; RECORD_BYTES] = header(b"tank figures, format 1\n");

const fn header(text: &[u8]) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let (head, _) = bytes.split_at_mut(text.len());
    head.copy_from_slice(text);
    bytes
}

/// Where the checksum is.
const SUM: usize = RECORD_BYTES - 4;

/// What a pod or a container used at a time. None: it is not counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// Milliseconds since the epoch.
    pub time: u64,
    /// Microseconds of processors, counted.
    pub cpu: Option<u64>,
    /// Bytes, without what the kernel takes back first.
    pub memory: Option<u64>,
    /// Bytes read from disks, counted; those written to them.
    pub read: Option<u64>,
    /// Bytes written to disks, counted.
    pub written: Option<u64>,
    /// Bytes that went over its links to it, counted.
    pub received: Option<u64>,
    /// Those from it.
    pub sent: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
}

impl Sample {
    /// Its bytes.
    pub fn encode(&self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        let known = |value: Option<u64>| value.unwrap_or(u64::MAX);
        let numbers = [
            self.time,
            known(self.cpu),
            known(self.memory),
            known(self.read),
            known(self.written),
            known(self.received),
            known(self.sent),
        ];
        for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
            place.copy_from_slice(&number.to_le_bytes());
        }
        let pids = self
            .pids
            .map_or(u32::MAX, |pids| u32::try_from(pids).unwrap_or(u32::MAX - 1));
        let (numbers, sum) = bytes.split_at_mut(SUM);
        let (_, last) = numbers.split_at_mut(SUM - 4);
        last.copy_from_slice(&pids.to_le_bytes());
        sum.copy_from_slice(&crc32(numbers).to_le_bytes());
        bytes
    }

    /// None: it is no record, or one that was not written whole.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; RECORD_BYTES] = bytes.try_into().ok()?;
        let (numbers, sum) = bytes.split_at(SUM);
        if crc32(numbers).to_le_bytes() != *sum {
            return None;
        }
        let mut words = numbers.chunks_exact(8).map(|word| {
            let word: [u8; 8] = word.try_into().unwrap_or([0xff; 8]);
            u64::from_le_bytes(word)
        });
        let time = words.next()?;
        let mut next = || words.next().filter(|number| *number != u64::MAX);
        let (_, pids) = numbers.split_last_chunk::<4>()?;
        let pids = u32::from_le_bytes(*pids);
        Some(Self {
            time,
            cpu: next(),
            memory: next(),
            read: next(),
            written: next(),
            received: next(),
            sent: next(),
            pids: (pids != u32::MAX).then_some(u64::from(pids)),
        })
    }

    /// This and a later one as one: of what goes up and down the highest, of what is counted the later.
    pub(super) fn followed_by(self, later: Self) -> Self {
        Self {
            time: later.time.max(self.time),
            memory: self.memory.max(later.memory),
            pids: self.pids.max(later.pids),
            cpu: later.cpu.or(self.cpu),
            read: later.read.or(self.read),
            written: later.written.or(self.written),
            received: later.received.or(self.received),
            sent: later.sent.or(self.sent),
        }
    }
}

/// CRC-32 as of IEEE 802.3, bit by bit: records are short and few.
fn crc32(bytes: &[u8]) -> u32 {
    let sum = bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| {
            let low = 0u32.wrapping_sub(sum & 1);
            (sum >> 1) ^ (0xedb8_8320 & low)
        })
    });
    !sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Its bytes are pinned: a Tank of another version reads them.
    #[test]
    fn a_record_has_these_bytes() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        let sample = Sample {
            time: 0x0102_0304_0506_0708,
            cpu: Some(1),
            memory: Some(2),
            read: None,
            written: Some(3),
            received: Some(4),
            sent: Some(0),
            pids: Some(5),
        };
        let bytes = sample.encode();
        let mut expected = vec![8, 7, 6, 5, 4, 3, 2, 1];
        for number in [1, 2, u64::MAX, 3, 4, 0] {
            expected.extend(u64::to_le_bytes(number));
        }
        expected.extend([5, 0, 0, 0]);
        assert_eq!(bytes[..SUM], expected);
        assert_eq!(Sample::decode(&bytes), Some(sample));
        let none = Sample::default();
        assert_eq!(Sample::decode(&none.encode()), Some(none));
        let many = Sample {
            pids: Some(1 << 40),
            ..none
        };
        let read = Sample::decode(&many.encode()).expect("a record");
        assert_eq!(read.pids, Some(u64::from(u32::MAX - 1)));
    }

    #[test]
    fn what_is_torn_anywhere_is_no_record() {
        let bytes = Sample {
            time: 7,
            cpu: Some(9),
            ..Sample::default()
        }
        .encode();
        for at in 0..RECORD_BYTES {
            let mut torn = bytes;
            torn[at] ^= 0x10;
            assert_eq!(Sample::decode(&torn), None, "{at}");
            assert_eq!(Sample::decode(&bytes[..at]), None, "{at}");
        }
        assert_eq!(Sample::decode(&[0; RECORD_BYTES]), None);
        assert_eq!(Sample::decode(&[0xff; RECORD_BYTES]), None);
    }
}
