//! The process that reads folders of backups and writes archives into them.
//!
//! A disk that is gone keeps whoever waits for it: neither SIGKILL nor the end of the daemon ends such a thread, and what that has
//! open stays open. So no thread of the daemon ever looks into such a folder: a process does that has nothing of the daemon's but one
//! end of a socket. It gets on, or another thread of it says that it does not; it ends when the daemon has closed the other end, and takes with
//! it what is half written. The daemon's side is [`super::writer`].

mod reading;

use super::{
    folder::{Folder, MAX_EMPTY, New},
    wire::{Kept, Listed, MAX_ORDER, Next, Order, Packet, Work},
};
use crate::{
    actuate::sources::Sources,
    events::now,
    generations::{Error, error::Context},
};
use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tank_image::{Budget, Exported, Refusal, Share};
use tank_model::Name;
use tank_plan::backups::{Archive, newest_of_the_past, replaced_since};
use tank_sys::{packet, with_causes};

/// How often it says whether it gets on.
const BEAT: Duration = Duration::from_secs(1);

/// What an archive may have: the disk is the bound of its bytes, and what can't be imported again is not exported.
const ARCHIVE: Share = Share {
    bytes: u64::MAX,
    entries: u64::MAX,
    time: 2 * 3600 * 1000,
};

/// The entries of a snapshot.
const MAX_SHARED: u64 = 1_000_000;

/// How hard an archive is compressed: zstd's own default.
const LEVEL: i32 = 3;

/// The bytes between two looks at what is free.
const LOOK: u64 = 1 << 20;

/// The most bytes of what an error says, and of the names of what stays: a packet holds them.
const MAX_TEXT: usize = 8 << 10;

/// What it is at, for the thread that says so.
struct Doing {
    socket: OwnedFd,
    count: AtomicU64,
    in_folder: AtomicBool,
    /// The daemon is to say what is next.
    idle: AtomicBool,
    /// What ends when the daemon is gone.
    budgets: Mutex<Vec<Budget>>,
}

/// Runs one, on its standard input.
pub fn main() -> ExitCode {
    let run = || -> io::Result<()> {
        let doing = Arc::new(Doing {
            socket: io::stdin().as_fd().try_clone_to_owned()?,
            count: AtomicU64::new(0),
            in_folder: AtomicBool::new(false),
            idle: AtomicBool::new(true),
            budgets: Mutex::default(),
        });
        let (_, fds) = doing.receive()?;
        let order = fds.into_iter().next().ok_or(io::ErrorKind::InvalidData)?;
        let order: Order = serde_json::from_slice(&packet::read_sealed(order, MAX_ORDER)?)?;
        let beats = Arc::clone(&doing);
        std::thread::Builder::new().spawn(move || beats.beat())?;
        match work(&doing, &order) {
            Ok(()) => Ok(()),
            Err(error) => doing.send(&failed(&error)),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn failed(error: &Error) -> Packet {
    let (what, why) = match error {
        Error::Internal { what, source } => (*what, with_causes(source.as_ref())),
        other => ("make a backup", with_causes(other)),
    };
    Packet::Failed {
        what: what.to_owned(),
        why: why.chars().take(MAX_TEXT / 4).collect(),
    }
}

impl Doing {
    fn budgets(&self) -> std::sync::MutexGuard<'_, Vec<Budget>> {
        self.budgets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says once a second whether it gets on, and ends what it does once nobody reads that.
    #[expect(clippy::disallowed_methods, reason = "it is no thread of the daemon's")]
    fn beat(&self) {
        loop {
            std::thread::sleep(BEAT);
            if self.idle.load(Ordering::Relaxed) {
                continue;
            }
            let budgets = self.budgets().clone();
            // What was taken of them by way of entries.
            let taken = budgets.iter().map(|one| u64::MAX - one.left().entries);
            let own = self.count.load(Ordering::Relaxed);
            let progress = Packet::Progress {
                count: taken.fold(own, u64::wrapping_add),
                in_folder: self.in_folder.load(Ordering::Relaxed),
            };
            if self.send(&progress).is_err() {
                for budget in budgets {
                    drop(budget.cancel_on_drop());
                }
            }
        }
    }

    fn send(&self, packet: &Packet) -> io::Result<()> {
        packet::send(self.socket.as_fd(), &serde_json::to_vec(packet)?, &[])
    }

    fn receive(&self) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
        packet::receive(self.socket.as_fd())?.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }

    /// Waits for what is next.
    fn next(&self) -> Result<(Next, Vec<OwnedFd>), Error> {
        self.idle.store(true, Ordering::Relaxed);
        let (text, fds) = self.receive().doing("wait for what is next")?;
        self.idle.store(false, Ordering::Relaxed);
        let next = serde_json::from_slice(&text).doing("read what is next")?;
        Ok((next, fds))
    }

    fn gets_on(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Does something that waits for the folder.
    fn in_folder<T>(&self, work: impl FnOnce() -> T) -> T {
        self.gets_on();
        self.in_folder.store(true, Ordering::Relaxed);
        let done = work();
        self.in_folder.store(false, Ordering::Relaxed);
        self.gets_on();
        done
    }

    /// A budget that ends with the daemon.
    fn budget(&self, share: Share, disk: &std::path::Path, place: Option<OwnedFd>) -> Budget {
        let budget = Budget::of(share, disk, place);
        self.budgets().push(budget.clone());
        budget
    }
}

fn work(doing: &Doing, order: &Order) -> Result<(), Error> {
    doing.idle.store(false, Ordering::Relaxed);
    let sources = Sources::open(&order.state_dir);
    let open = |of: &(Name, Name)| {
        let of = (&of.0, &of.1);
        let open = || Folder::open(&sources, (&order.to, &order.roots), &order.state_dir, of);
        doing.in_folder(open)
    };
    match &order.work {
        Work::List(all) => {
            for of in all {
                let archives = open(of).and_then(|folder| doing.in_folder(|| folder.archives()));
                let archives = archives?;
                let times: Vec<u64> = archives.iter().map(|one| one.time).collect();
                let wall = now();
                let listed = Listed {
                    count: times.len(),
                    dated: newest_of_the_past(wall, &times),
                    newest: times.into_iter().filter(|time| *time <= wall).max(),
                };
                let sent = doing.send(&Packet::Listed(listed));
                sent.doing("say what a folder has")?;
            }
            Ok(())
        }
        Work::Write {
            of,
            begun,
            keep,
            began,
        } => {
            let folder = Arc::new(open(of)?);
            write(doing, order, (&folder, *begun), (*keep, *began))
        }
        Work::Look(of) => {
            let folder = open(of)?;
            doing.in_folder(|| folder.refuse_unwritable())?;
            let sent = doing.send(&Packet::Usable);
            sent.doing("answer the daemon")
        }
        Work::Archives(of) => reading::list(doing, &open(of)?),
        Work::Read { of, time } => {
            let folder = open(of)?;
            let file = doing.in_folder(|| folder.open_archive(*time))?;
            reading::read(doing, file)
        }
    }
}

fn write(
    doing: &Doing,
    order: &Order,
    (folder, begun): (&Arc<Folder>, u64),
    stay: (u32, Option<u64>),
) -> Result<(), Error> {
    let say = |packet: &Packet| doing.send(packet).doing("answer the daemon");
    say(&Packet::Opened {
        path: folder.path.clone(),
        name: folder.name(begun),
    })?;
    let mut written = None;
    loop {
        let (next, fds) = doing.next()?;
        let mut fds = fds.into_iter();
        match next {
            Next::Share => {
                let pair = fds.next().zip(fds.next());
                let (from, into) = pair.ok_or("no directory came").doing("take a snapshot")?;
                let share = Share {
                    entries: MAX_SHARED,
                    ..ARCHIVE
                };
                // Its own disk is what it takes of.
                let budget = doing.budget(share, &order.state_dir, None);
                let copied = tank_image::clone_tree(from.as_fd(), into.as_fd(), &budget);
                let left = budget.space().map_err(io::Error::from);
                left.doing("take a snapshot")?;
                say(&Packet::Shared(copied.is_ok()))?;
            }
            Next::Write => {
                let from = fds.next().ok_or("no directory came");
                let from = from.doing("write an archive")?;
                written = Some(write_archive(doing, folder, begun, &from)?);
                say(&Packet::Written)?;
            }
            Next::Read => return Err("it is written").doing("read the backup"),
            Next::Keep => {
                let written = written.take().ok_or("nothing is written");
                let kept = doing
                    .in_folder(|| keep_archive(folder, written.doing("keep an archive")?, stay));
                return say(&Packet::Kept(kept?));
            }
        }
    }
}

/// An archive that is whole and has no name yet.
struct Written {
    new: New,
    tally: Exported,
    bytes: u64,
}

/// Writes an archive, all but its name.
fn write_archive(
    doing: &Doing,
    folder: &Arc<Folder>,
    begun: u64,
    from: &OwnedFd,
) -> Result<Written, Error> {
    let what = "write an archive";
    let disk = folder.disk().doing("use the folder of backups")?;
    let budget = doing.budget(ARCHIVE, &folder.path, Some(disk));
    let new = doing.in_folder(|| folder.begin(begun))?;
    let out = Checked {
        out: &new.file,
        budget: &budget,
        doing,
        unlooked: LOOK,
        bytes: 0,
    };
    let mut packer = zstd::stream::write::Encoder::new(out, LEVEL).doing(what)?;
    packer.include_checksum(true).doing(what)?;
    let mut read = Read {
        out: &mut packer,
        doing,
    };
    let tally = tank_image::export(from.as_fd(), &mut read, &budget).doing("back up the volume")?;
    let bytes = packer.finish().doing(what)?.bytes;
    doing.in_folder(|| new.sync())?;
    Ok(Written { new, tally, bytes })
}

/// Gives an archive its name, and removes those that are beyond what is kept.
fn keep_archive(
    folder: &Folder,
    written: Written,
    stay: (u32, Option<u64>),
) -> Result<Kept, Error> {
    let Written { new, tally, bytes } = written;
    let (path, time) = (new.path(), new.time().unwrap_or_default());
    new.take()?;
    let empty = tally.entries == 0 && bytes <= MAX_EMPTY;
    let (count, left, stay) = rotate(folder, Archive { time, empty }, stay);
    Ok(Kept {
        path,
        time,
        entries: tally.entries,
        bytes,
        count,
        left: bounded(left),
        stay,
    })
}

/// As many as a packet holds.
fn bounded(all: Vec<String>) -> Vec<String> {
    let mut length = 0;
    let fits = |text: &String| {
        length += text.len();
        length <= MAX_TEXT
    };
    all.into_iter().take_while(fits).collect()
}

/// Removes the archives in whose place the new one is: how many there are now, which could not be removed, and whether older
/// ones stay since it is empty. The new one is good whatever becomes of them: one that failed would be made again, beside it.
fn rotate(
    folder: &Folder,
    new: Archive,
    (keep, began): (u32, Option<u64>),
) -> (usize, Vec<String>, bool) {
    let mut all = match folder.archives() {
        Ok(all) => all,
        Err(error) => return (1, vec![with_causes(&error)], false),
    };
    all.retain(|one| one.time != new.time);
    all.push(new);
    let gone = replaced_since(now(), &all, (new.time, began), keep);
    let left = folder.remove(&gone);
    let stay = new.empty && all.iter().any(|one| !one.empty);
    (all.len() - gone.len() + left.len(), left, stay)
}

/// What is read of a volume: with each piece it gets on.
struct Read<'a, W> {
    out: &'a mut W,
    doing: &'a Doing,
}

impl<W: Write> Write for Read<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.doing.gets_on();
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file on a disk of which some stays free, for Tank's own store or for whoever else has something there.
struct Checked<'a> {
    out: &'a std::fs::File,
    budget: &'a Budget,
    doing: &'a Doing,
    unlooked: u64,
    bytes: u64,
}

impl Write for Checked<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { out, budget, .. } = self;
        if self.unlooked >= LOOK {
            self.unlooked = 0;
            let space = self.doing.in_folder(|| budget.space());
            space.map_err(no_space)?;
        }
        let mut out: &std::fs::File = out;
        let written = self.doing.in_folder(|| out.write(bytes))?;
        self.unlooked += written as u64;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// In the words of a backup.
fn no_space(refusal: Refusal) -> io::Error {
    match refusal {
        Refusal::NoSpace { disk, free, spare } => {
            let disk = disk.display();
            let why = format!("`{disk}` has {free} free, and {spare} of that stay free");
            io::Error::new(io::ErrorKind::StorageFull, why)
        }
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn doing() -> (Arc<Doing>, OwnedFd) {
        let (ours, theirs) = packet::pair().expect("a pair");
        let doing = Doing {
            socket: theirs,
            count: AtomicU64::new(0),
            in_folder: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            budgets: Mutex::default(),
        };
        (Arc::new(doing), ours)
    }

    #[test]
    fn a_full_disk_is_said_in_the_words_of_a_backup() {
        let error = no_space(Refusal::NoSpace {
            disk: "/srv/backups".into(),
            free: "15 MiB".into(),
            spare: "64 MiB".into(),
        });
        let expected = "`/srv/backups` has 15 MiB free, and 64 MiB of that stay free";
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn what_is_written_is_counted_and_ends_with_the_daemon() {
        let path = std::env::temp_dir().join(format!("tank-backup-{}", std::process::id()));
        let file = std::fs::File::create(&path).expect("a file");
        std::fs::remove_file(&path).expect("goes");
        let (doing, daemon) = doing();
        let budget = doing.budget(ARCHIVE, std::path::Path::new("/"), None);
        let mut out = Checked {
            out: &file,
            budget: &budget,
            doing: &doing,
            unlooked: 0,
            bytes: 0,
        };
        out.write_all(&[7; 1000]).expect("writes");
        assert_eq!((out.bytes, out.unlooked), (1000, 1000));
        budget.entry().expect("there is one");
        let beats = Arc::clone(&doing);
        std::thread::spawn(move || beats.beat());
        let (text, _) = packet::receive(daemon.as_fd())
            .expect("received")
            .expect("a packet");
        let progress = r#"{"progress":{"count":3,"in_folder":false}}"#;
        assert_eq!(String::from_utf8(text).expect("text"), progress);
        drop(daemon);
        while budget.go_on().is_ok() {
            std::thread::yield_now();
        }
        out.unlooked = LOOK;
        out.write_all(&[7]).expect_err("nobody waits");
    }

    #[test]
    fn what_a_packet_can_not_hold_is_left_out() {
        let all = vec!["x".repeat(100); 10_000];
        assert_eq!(bounded(all).len(), MAX_TEXT / 100);
        let error = Err::<(), _>("\u{1}".repeat(100_000)).doing("make a backup");
        let text = serde_json::to_vec(&failed(&error.expect_err("it is one"))).expect("JSON");
        assert!(text.len() < packet::MAX_PACKET);
    }
}
