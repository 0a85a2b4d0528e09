//! Packets between a client and a shim, each one a byte that says which and its content.
//!
//! `exec` uses it for its end only: the shim sends [`FromShim::Exited`]; a client that closes the
//! socket detaches, and the command runs on. What a client runs by hand (`run`) ends when the client closes it, and
//! takes signals over it. `attach` also carries the terminal's bytes and its
//! size.

/// The most bytes of terminal data in one packet.
pub const MAX_DATA: usize = 32 << 10;

/// What a client sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromClient {
    /// Bytes that were typed.
    Input(Vec<u8>),
    /// The size of the client's terminal.
    Resize {
        /// Its height.
        rows: u16,
        /// Its width.
        columns: u16,
    },
    /// A signal for a main process that the client runs by hand, by the kernel's number.
    Signal(u8),
}

/// What a shim sends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FromShim {
    /// Bytes that were printed.
    Output(Vec<u8>),
    /// The process ended, with its status as shells have it.
    Exited(i32),
}

impl FromClient {
    /// The packet: `i` and the bytes, `w` and both numbers, little-endian, or `s` and the number.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Input(data) => tagged(b'i', data),
            Self::Resize { rows, columns } => {
                tagged(b'w', &[rows.to_le_bytes(), columns.to_le_bytes()].concat())
            }
            Self::Signal(signal) => tagged(b's', &[*signal]),
        }
    }

    /// None: the packet is no such message.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        match packet.split_first()? {
            (b'i', data) if data.len() <= MAX_DATA => Some(Self::Input(data.to_vec())),
            (b'w', &[a, b, c, d]) => Some(Self::Resize {
                rows: u16::from_le_bytes([a, b]),
                columns: u16::from_le_bytes([c, d]),
            }),
            (b's', &[signal]) => Some(Self::Signal(signal)),
            _ => None,
        }
    }
}

impl FromShim {
    /// The packet: `o` and the bytes, or `x` and the status, little-endian.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Output(data) => tagged(b'o', data),
            Self::Exited(status) => tagged(b'x', &status.to_le_bytes()),
        }
    }

    /// None: the packet is no such message.
    pub fn decode(packet: &[u8]) -> Option<Self> {
        match packet.split_first()? {
            (b'o', data) => Some(Self::Output(data.to_vec())),
            (b'x', data) => Some(Self::Exited(i32::from_le_bytes(data.try_into().ok()?))),
            _ => None,
        }
    }
}

fn tagged(tag: u8, data: &[u8]) -> Vec<u8> {
    [&[tag], data].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_round_trip() {
        for message in [
            FromClient::Input(b"ls\r".to_vec()),
            FromClient::Resize {
                rows: 40,
                columns: 132,
            },
            FromClient::Signal(15),
        ] {
            assert_eq!(FromClient::decode(&message.encode()), Some(message));
        }
        for message in [FromShim::Output(vec![0; MAX_DATA]), FromShim::Exited(-1)] {
            assert_eq!(FromShim::decode(&message.encode()), Some(message));
        }
    }

    #[test]
    fn other_packets_are_refused() {
        for packet in [
            &b""[..],
            b"w",
            b"w12",
            b"z",
            &[&b"i"[..], &vec![0; MAX_DATA + 1]].concat(),
        ] {
            assert_eq!(FromClient::decode(packet), None);
        }
    }
}
