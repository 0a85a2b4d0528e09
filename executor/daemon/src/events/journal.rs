//! The events on disk: `events.jsonl`, one JSON document a line, the oldest first.
//!
//! *Bounds*: when the file has [`MAX_FILE`] bytes it is replaced by what is remembered, which is less. *Guarantees*: who adds an
//! event never waits for the disk; one thread writes, and where it can't keep up, or the disk is full, events are left out and
//! counted, and remembered all the same. Nothing is synced: a power cut takes what the kernel had not written. A line that is
//! torn or damaged costs itself and no other.

use super::{Event, now};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, sync_channel},
    },
    time::Duration,
};
use tank_plan::events::{History, Kind, MAX_BYTES, MAX_MESSAGE, Subject};

/// The file's name.
const FILE: &str = "events.jsonl";

/// The most bytes of the file: more than what is remembered takes, whose every byte may be one that is escaped by six.
const MAX_FILE: u64 = 8 * MAX_BYTES as u64;

/// The most bytes of a line: a message whose every byte is escaped, and what is beside it.
const MAX_LINE: u64 = 8 * MAX_MESSAGE as u64;

/// The most events that wait for the disk.
const MAX_QUEUE: usize = 1_024;

/// What the thread is asked.
#[derive(Debug)]
enum Order {
    Write(Box<Event>),
    /// To answer when all that came before is written.
    Flush(SyncSender<()>),
}

/// The file, and the thread that writes it. It ends with this.
#[derive(Debug)]
pub struct Journal {
    orders: SyncSender<Order>,
    lost: Arc<AtomicU64>,
}

impl Journal {
    /// Reads what there is, into `history`, and begins to write what comes. The text says what could not be read.
    ///
    /// # Errors
    /// When there is something that can't be opened as a file, or no thread for it.
    pub fn open(folder: &Path, history: Arc<Mutex<History>>) -> io::Result<(Self, Option<String>)> {
        let path = folder.join(FILE);
        let at =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
        let mut file = open(&path).map_err(at)?;
        let (events, damaged) = read(&mut file).map_err(at)?;
        {
            let mut history = history.lock().unwrap_or_else(PoisonError::into_inner);
            events.into_iter().for_each(|event| history.restore(event));
        }
        let lost = Arc::<AtomicU64>::default();
        let (orders, receiver) = sync_channel(MAX_QUEUE);
        let writer = Writer {
            size: file.metadata().map_err(at)?.len(),
            torn: true,
            failing: false,
            path: path.clone(),
            file,
            history,
            lost: Arc::clone(&lost),
        };
        let thread = std::thread::Builder::new().name("events".to_owned());
        thread.spawn(move || writer.run(&receiver))?;
        let said = (damaged > 0).then(|| {
            format!(
                "{damaged} events of before can't be read: {} is damaged",
                path.display()
            )
        });
        Ok((Self { orders, lost }, said))
    }

    /// Has an event written, unless too many wait.
    pub fn write(&self, event: &Event) {
        if self
            .orders
            .try_send(Order::Write(Box::new(event.clone())))
            .is_err()
        {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until all that was added is written, or `limit` is over. Blocking.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.orders.try_send(Order::Flush(done)).is_ok() {
            let _: Result<(), mpsc::RecvTimeoutError> = written.recv_timeout(limit);
        }
    }
}

/// Opens the file, or makes it: a regular one of this name, for root alone.
fn open(path: &Path) -> io::Result<File> {
    let nofollow = i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or(0)
        | i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(nofollow)
        .open(path)?;
    let found = file.metadata()?;
    if !found.is_file() || found.nlink() > 1 {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "it is no file of Tank's: remove it",
        ));
    }
    Ok(file)
}

/// The events of a file, and how many lines of it are none. Of one that is too long, the end.
fn read(file: &mut File) -> io::Result<(Vec<Event>, u64)> {
    let begin = file.metadata()?.len().saturating_sub(MAX_FILE + MAX_LINE);
    file.seek(SeekFrom::Start(begin))?;
    let mut reader = BufReader::new(file.take(MAX_FILE + MAX_LINE));
    let (mut events, mut damaged) = (Vec::new(), 0);
    if begin > 0 {
        // The first is cut.
        skip_line(&mut reader)?;
    }
    loop {
        let mut line = Vec::new();
        let length = (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)?;
        if length == 0 {
            return Ok((events, damaged));
        }
        let is_whole = line.last() == Some(&b'\n');
        if !is_whole && length as u64 == MAX_LINE {
            skip_line(&mut reader)?;
        }
        let line = line.trim_ascii();
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Event>(line) {
            // One that was not written whole is read where all of it happens to be there.
            Ok(event) if event.message.len() <= MAX_MESSAGE => events.push(event),
            _ => damaged += 1,
        }
    }
}

fn skip_line(reader: &mut impl BufRead) -> io::Result<()> {
    loop {
        let mut line = Vec::new();
        let length = reader.take(MAX_LINE).read_until(b'\n', &mut line)?;
        if length == 0 || line.last() == Some(&b'\n') {
            return Ok(());
        }
    }
}

/// What writes.
struct Writer {
    path: PathBuf,
    file: File,
    size: u64,
    /// What was written last may have no end.
    torn: bool,
    /// The last one could not be written.
    failing: bool,
    history: Arc<Mutex<History>>,
    lost: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, orders: &Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            match order {
                Order::Write(event) => self.write(&event),
                Order::Flush(done) => drop(done.try_send(())),
            }
        }
    }

    fn write(&mut self, event: &Event) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let gap = (lost > 0).then(|| {
            let message = format!("{lost} events are not on disk: it was too slow, or full");
            Event::new(now(), Kind::Note, Subject::default(), message)
        });
        for event in gap.iter().chain([event]) {
            if let Err(error) = self.append(event) {
                self.torn = true;
                self.lost.fetch_add(lost + 1, Ordering::Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(%error, "events are not written");
                }
                return;
            }
        }
        self.failing = false;
        if self.size > MAX_FILE
            && let Err(error) = self.replace()
        {
            tracing::warn!(%error, "events are not written anew");
        }
    }

    fn append(&mut self, event: &Event) -> io::Result<()> {
        let mut line = Vec::new();
        if self.torn {
            line.push(b'\n');
        }
        serde_json::to_writer(&mut line, event)?;
        line.push(b'\n');
        // A file that can't be made smaller does not grow for ever either.
        if self.size + line.len() as u64 > MAX_FILE + MAX_LINE {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_all(&line)?;
        self.size += line.len() as u64;
        self.torn = false;
        Ok(())
    }

    /// Puts what is remembered in the place of the file.
    fn replace(&mut self) -> io::Result<()> {
        // Whoever adds one waits for the copy and not for the encoding of it.
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        let events: Vec<Event> = history.events().cloned().collect();
        drop(history);
        let mut text = Vec::new();
        for event in events {
            serde_json::to_writer(&mut text, &event)?;
            text.push(b'\n');
        }
        let new = self.path.with_extension("jsonl.new");
        let _ = fs::remove_file(&new);
        let mut file = open(&new)?;
        file.write_all(&text)?;
        fs::rename(&new, &self.path)?;
        (self.file, self.size, self.torn) = (file, text.len() as u64, false);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Events;
    use super::*;

    /// A folder of its own.
    fn folder(name: &str) -> PathBuf {
        let folder =
            std::env::temp_dir().join(format!("tankd-events-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        folder
    }

    fn said(events: &Events) -> Vec<(String, u64)> {
        let (past, _) = events.listen();
        past.into_iter()
            .map(|event| (event.message, event.count))
            .collect()
    }

    #[test]
    fn events_outlive_their_daemon_and_damage_costs_one_line() {
        let folder = folder("damage");
        let first = Events::open(&folder);
        first.add(Kind::Note, None, "one");
        for _ in 0..5 {
            first.add(Kind::Failed, Some("web"), "two\u{1b}[2J");
        }
        first.add(Kind::Note, None, "three");
        first.flush();
        drop(first);
        let path = folder.join(FILE);
        let whole = fs::read_to_string(&path).expect("a file");
        let mode = fs::metadata(&path).expect("there").mode() & 0o777;
        assert_eq!(mode, 0o600);
        // The last line is torn, one in the middle is no UTF-8, one has no end.
        let mut bytes = whole.trim_start().as_bytes().to_vec();
        bytes.splice(10..12, [0xff, 0]);
        bytes.truncate(bytes.len() - 10);
        bytes.splice(
            0..0,
            vec![b'x'; 3 * MAX_LINE as usize].into_iter().chain(*b"\n"),
        );
        fs::write(&path, &bytes).expect("written");
        let second = Events::open(&folder);
        let expected = [
            ("two\u{1b}[2J".to_owned(), 4),
            (
                format!(
                    "3 events of before can't be read: {} is damaged",
                    path.display()
                ),
                1,
            ),
        ];
        assert_eq!(said(&second), expected);
        // What is added is a line of its own, and a repetition goes on to be counted.
        second.add(Kind::Failed, Some("web"), "two\u{1b}[2J");
        second.add(Kind::Note, None, "four");
        second.flush();
        drop(second);
        let third = said(&Events::open(&folder));
        let last: Vec<&str> = third.iter().map(|(message, _)| message.as_str()).collect();
        assert!(last.contains(&"four"), "{last:?}");
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_flood_stays_within_the_bound() {
        let folder = folder("flood");
        let events = Events::open(&folder);
        for number in 0..4_000 {
            let pod = format!("pod-{}", number % 200);
            let message = format!("{number} {}", "\u{1b}".repeat(MAX_MESSAGE));
            events.add(Kind::Exited, Some(&pod), message);
            if number % 200 == 0 {
                events.flush();
                let size = fs::metadata(folder.join(FILE)).expect("there").len();
                assert!(size <= MAX_FILE + MAX_LINE, "{size}");
            }
        }
        events.flush();
        let before = said(&events).len();
        drop(events);
        assert!(before > 100, "{before}");
        assert!(said(&Events::open(&folder)).len() > 100);
        fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn what_is_no_file_is_not_written_to() {
        let folder = folder("link");
        let other = folder.join("other");
        fs::write(&other, "mine").expect("written");
        std::os::unix::fs::symlink(&other, folder.join(FILE)).expect("a link");
        let events = Events::open(&folder);
        events.add(Kind::Note, None, "one");
        events.flush();
        let all = said(&events);
        assert!(all[0].0.starts_with("events are not kept: "), "{all:?}");
        assert_eq!(all[1].0, "one");
        assert_eq!(fs::read_to_string(&other).expect("read"), "mine");
        fs::remove_dir_all(&folder).expect("removed");
    }
}
