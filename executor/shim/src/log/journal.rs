//! The lines of a container to systemd-journald, in its own protocol (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>):
//! one datagram a line, with fields that `journalctl CONTAINER_NAME=web/app` finds it by.
//!
//! It is never waited for: what it does not take at once is counted, and noted in the log.

use super::rate::Dropped;
use std::{
    io,
    os::unix::net::UnixDatagram,
    path::PathBuf,
    time::{Duration, Instant, SystemTime},
};

/// Where journald listens.
pub const SOCKET: &str = "/run/systemd/journal/socket";

/// How often it is noted, at most, what was not sent.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// Priorities of syslog(3), as Docker and Podman give them.
const INFO: u8 = 6;
const ERROR: u8 = 3;

/// What a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// One that the container printed.
    Line,
    /// A part of one, which goes on in the next.
    Part,
    /// Tank's own: what is missing of the container's.
    Notice,
}

pub struct Journal {
    path: PathBuf,
    socket: Option<UnixDatagram>,
    /// The fields that every line has.
    fields: Vec<u8>,
    datagram: Vec<u8>,
    unsent: Dropped,
    noted: Instant,
}

impl Journal {
    pub fn new(path: PathBuf, pod: &str, container: &str) -> Self {
        let mut fields = Vec::new();
        let name = format!("{pod}/{container}");
        for (key, value) in [
            ("CONTAINER_NAME", name.as_str()),
            ("SYSLOG_IDENTIFIER", name.as_str()),
            ("TANK_POD", pod),
            ("TANK_CONTAINER", container),
        ] {
            field(&mut fields, key, &[value.as_bytes()]);
        }
        Self {
            path,
            socket: None,
            fields,
            datagram: Vec::new(),
            unsent: Dropped::default(),
            noted: Instant::now(),
        }
    }

    /// Sends one line, which is given in pieces.
    pub fn send(&mut self, stream: &str, text: &[&[u8]], kind: Kind, now: SystemTime) {
        self.datagram.clear();
        self.datagram.extend(&self.fields);
        let priority = if stream == "stderr" { ERROR } else { INFO };
        field(
            &mut self.datagram,
            "PRIORITY",
            &[priority.to_string().as_bytes()],
        );
        match kind {
            Kind::Line => {}
            Kind::Part => field(&mut self.datagram, "CONTAINER_PARTIAL_MESSAGE", &[b"true"]),
            Kind::Notice => field(&mut self.datagram, "TANK_NOTICE", &[b"1"]),
        }
        field(&mut self.datagram, "MESSAGE", text);
        if self.send_datagram().is_err() {
            self.socket = None;
            let bytes = text.iter().map(|piece| piece.len()).sum::<usize>() + 1;
            self.unsent.add(1, bytes as u64, now);
        }
    }

    fn send_datagram(&mut self) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket.connect(&self.path)?;
                socket
            }
        };
        let sent = socket.send(&self.datagram);
        // One that is full is the same one later; one that is gone is not.
        if !matches!(&sent, Err(error) if error.kind() != io::ErrorKind::WouldBlock) {
            self.socket = Some(socket);
        }
        sent.map(drop)
    }

    /// What was not sent and is not noted yet, once in a while or at once.
    pub fn unsent(&mut self, now: Instant, at_once: bool) -> Option<Dropped> {
        if !at_once && now.saturating_duration_since(self.noted) < NOTE_EVERY {
            return None;
        }
        self.noted = now;
        self.unsent.take()
    }
}

/// A field whose value may hold any byte: its name, its length in 64 bits, little-endian, and itself.
fn field(to: &mut Vec<u8>, key: &str, value: &[&[u8]]) {
    let length = value.iter().map(|piece| piece.len() as u64).sum::<u64>();
    to.extend(key.as_bytes());
    to.push(b'\n');
    to.extend(length.to_le_bytes());
    for piece in value {
        to.extend(*piece);
    }
    to.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A journald: reads the fields of datagrams.
    fn fields(mut rest: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut found = Vec::new();
        while !rest.is_empty() {
            let end = rest.iter().position(|byte| *byte == b'\n').expect("a name");
            let key = String::from_utf8(rest[..end].to_vec()).expect("text");
            let (length, behind) = rest[end + 1..].split_at(8);
            let length = u64::from_le_bytes(length.try_into().expect("8 bytes"));
            let (value, behind) = behind.split_at(usize::try_from(length).expect("fits"));
            assert_eq!(behind[0], b'\n');
            found.push((key, value.to_vec()));
            rest = &behind[1..];
        }
        found
    }

    #[test]
    fn a_line_is_sent_with_its_fields_whatever_it_holds() {
        let path = std::env::temp_dir().join(format!("tank-journal-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut journal = Journal::new(path.clone(), "blog:web", "app");
        let now = SystemTime::now();
        // Nobody is there.
        journal.send("stdout", &[b"lost"], Kind::Line, now);
        let unsent = journal.unsent(Instant::now(), true).expect("counted");
        assert!(
            unsent.to_string().starts_with("dropped 1 line, 5 bytes"),
            "{unsent}"
        );
        let journald = UnixDatagram::bind(&path).expect("binds");
        journal.send("stderr", &[b"a\nPRIORITY=0", b"\xff"], Kind::Part, now);
        let mut buffer = [0; 4096];
        let length = journald.recv(&mut buffer).expect("comes");
        let found = fields(&buffer[..length]);
        let of = |key: &str| {
            let values = found.iter().filter(|(name, _)| name == key);
            values.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of("MESSAGE"), [b"a\nPRIORITY=0\xff".to_vec()]);
        assert_eq!(of("PRIORITY"), [b"3".to_vec()]);
        assert_eq!(of("CONTAINER_NAME"), [b"blog:web/app".to_vec()]);
        assert_eq!(of("CONTAINER_PARTIAL_MESSAGE"), [b"true".to_vec()]);
        assert!(of("TANK_NOTICE").is_empty());
        // What is Tank's own says so.
        journal.send("stderr", &[b"tank: dropped"], Kind::Notice, now);
        let length = journald.recv(&mut buffer).expect("comes");
        let notice = fields(&buffer[..length]);
        assert!(notice.contains(&("TANK_NOTICE".to_owned(), b"1".to_vec())));
        // One that does not read is not waited for, and what it misses is counted.
        for _ in 0..5_000 {
            journal.send("stdout", &[&[b'x'; 1000]], Kind::Line, now);
        }
        assert!(journal.unsent(Instant::now(), false).is_none(), "not yet");
        assert!(journal.unsent(Instant::now(), true).is_some());
        // Read again, it gets more.
        journald.set_nonblocking(true).expect("sets");
        while journald.recv(&mut buffer).is_ok() {}
        journal.send("stdout", &[b"again"], Kind::Line, now);
        assert!(journald.recv(&mut buffer).is_ok());
        std::fs::remove_file(path).expect("removes");
    }
}
