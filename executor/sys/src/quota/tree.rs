//! Having all that is in a directory count to a project, however deep it is and whoever keeps its files from being opened.
//!
//! Few directories are open at once: of those above them their handles are kept, by which they are opened again wherever they were
//! moved meanwhile, and how far they were listed. What can't be changed is noted, and keeps nothing else from being changed.
//!
//! *Never*: opens by its name, waiting, what may be a pipe by then.

use super::{Project, project, set_project};
use rustix::{
    fs::{AtFlags, Dir, DirEntry, FileType, Mode, OFlags},
    io::Errno,
};
use std::{
    collections::VecDeque,
    ffi::CStr,
    fmt::Display,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// How many directories are open at once.
const OPEN: usize = 32;

/// The deepest tree: so many handles are kept.
const MAX_LEVELS: usize = 1 << 20;

/// The longest handle that is kept: ext4 and XFS have 8 to 12 bytes.
const HANDLE: usize = 16;

/// How many files under a lease are tried once more.
const MAX_LEASED: usize = 4096;

/// How many of them are waited for at once.
const WAITING: usize = 64;

/// The longest that the kernel may be set to let somebody keep a lease that was called back.
const LEASE_BREAK: Duration = Duration::from_secs(60);

/// How many of those that are left out are named.
const NAMED: usize = 3;

/// What `name_to_handle_at` gives: a file's number and generation, which no other file ever has.
#[repr(C)]
#[derive(Clone, Copy)]
struct Handle {
    bytes: u32,
    kind: i32,
    id: [u8; HANDLE],
}

impl Handle {
    fn of(dir: BorrowedFd<'_>, name: &CStr, flags: i32) -> io::Result<Self> {
        let mut handle = Self {
            bytes: HANDLE as u32,
            kind: 0,
            id: [0; HANDLE],
        };
        let mut mount = 0;
        // SAFETY: the kernel writes a `struct file_handle` with at most as many bytes as its first field says, and a number;
        // both addresses are those of what is that large.
        let got = unsafe {
            libc::name_to_handle_at(
                dir.as_raw_fd(),
                name.as_ptr(),
                (&raw mut handle).cast(),
                &raw mut mount,
                flags,
            )
        };
        match got {
            0 => Ok(handle),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Opens what it is of, on the mount that `top` is on.
    fn open(mut self, top: BorrowedFd<'_>, flags: OFlags) -> io::Result<OwnedFd> {
        let flags = (flags | OFlags::RDONLY | OFlags::CLOEXEC).bits();
        // SAFETY: the kernel reads a `struct file_handle` at the address, with as many bytes as its first field says, which
        // `name_to_handle_at` has set.
        let opened = unsafe {
            libc::open_by_handle_at(top.as_raw_fd(), (&raw mut self).cast(), flags.cast_signed())
        };
        if opened < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just opened it for nobody else.
        Ok(unsafe { OwnedFd::from_raw_fd(opened) })
    }
}

/// A directory that is being listed.
struct Level {
    dir: Dir,
    /// Behind the last entry that was read.
    at: i64,
}

impl Level {
    /// Changes a directory, and then lists it.
    fn enter(dir: OwnedFd, wanted: Project) -> io::Result<Self> {
        change(dir.as_fd(), wanted)?;
        Ok(Self {
            dir: Dir::new(dir)?,
            at: 0,
        })
    }

    fn next(&mut self) -> Option<io::Result<DirEntry>> {
        let entry = self.dir.read()?;
        if let Ok(entry) = &entry {
            self.at = entry.offset();
        }
        Some(entry.map_err(io::Error::from))
    }
}

/// What could not be changed.
#[derive(Default)]
struct Left {
    count: usize,
    named: Vec<String>,
}

impl Left {
    fn add(&mut self, name: &CStr, why: impl Display) {
        self.count += 1;
        if self.named.len() < NAMED {
            self.named.push(format!("{name:?}: {why}"));
        }
    }

    fn ended(self) -> io::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        let more = match self.count.saturating_sub(self.named.len()) {
            0 => String::new(),
            more => format!(", and {more} more"),
        };
        let named = self.named.join(", ");
        Err(io::Error::other(format!(
            "all but {} of what is in it is changed ({named}{more})",
            self.count
        )))
    }
}

/// Has a directory and all that is in it count to a project, or with 0 to none; others may write to it meanwhile. A directory is
/// changed before what is in it: from then on nothing comes into it that does not count, so what is listed
/// afterwards is all. Links, sockets and pipes can't be opened and stay what they are. For a file under a lease it waits until the kernel
/// takes that away.
///
/// # Errors
/// What the kernel gives for the directory itself; what `go_on` does, which is asked at each entry. Whatever else can't be changed, and what is deeper than
/// 1048576 levels, is named at the end, when all the rest is. What was changed by then stays so.
pub fn count_tree(
    top: OwnedFd,
    id: u32,
    go_on: &mut dyn FnMut() -> io::Result<()>,
) -> io::Result<()> {
    let mut walk = Walk {
        disk: rustix::fs::fstat(&top)?.st_dev,
        top: top.try_clone()?,
        wanted: Project {
            id,
            inherits: id != 0,
        },
        open: VecDeque::from([]),
        above: Vec::new(),
        leased: Vec::new(),
        left: Left::default(),
    };
    walk.open.push_back(Level::enter(top, walk.wanted)?);
    while let Some(level) = walk.open.back_mut() {
        go_on()?;
        match level.next() {
            None => walk.leave(),
            Some(Err(error)) => {
                walk.left.add(c".", error);
                walk.leave();
            }
            Some(Ok(entry)) if matches!(entry.file_name().to_bytes(), b"." | b"..") => {}
            Some(Ok(entry)) => {
                if let Err(error) = walk.take(&entry) {
                    walk.left.add(entry.file_name(), error);
                }
            }
        }
    }
    walk.wait(go_on)?;
    walk.left.ended()
}

struct Walk {
    disk: u64,
    /// What all of it is in.
    top: OwnedFd,
    wanted: Project,
    /// The innermost directories, the last one being listed.
    open: VecDeque<Level>,
    /// Those above them, and how far they were listed.
    above: Vec<(Handle, i64)>,
    /// Files that somebody holds a lease of.
    leased: Vec<Handle>,
    left: Left,
}

impl Walk {
    /// Changes what an entry of the innermost directory is; a directory becomes the innermost one.
    fn take(&mut self, entry: &DirEntry) -> io::Result<()> {
        let Some(level) = self.open.back() else {
            return Ok(());
        };
        let dir = level.dir.fd()?;
        let name = entry.file_name();
        match below(dir, name, entry.file_type(), self.disk) {
            Ok(Below::Nothing) => Ok(()),
            Ok(Below::File(file)) => change(file.as_fd(), self.of_file()),
            Ok(Below::Dir(below)) => self.enter(below),
            // It was removed or replaced meanwhile; what took its place counts already.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => Ok(()),
            // Somebody holds a lease of the file, which the kernel has called back by now.
            Err(Errno::AGAIN) if self.leased.len() < MAX_LEASED => {
                self.leased.extend(of_file(dir, name)?);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn of_file(&self) -> Project {
        Project {
            inherits: false,
            ..self.wanted
        }
    }

    fn enter(&mut self, below: OwnedFd) -> io::Result<()> {
        if self.above.len() + self.open.len() >= MAX_LEVELS {
            return Err(io::Error::other("it is too deep"));
        }
        let below = Level::enter(below, self.wanted)?;
        if self.open.len() >= OPEN
            && let Some(first) = self.open.front()
        {
            let handle = Handle::of(first.dir.fd()?, c"", libc::AT_EMPTY_PATH)?;
            self.above.push((handle, first.at));
            self.open.pop_front();
        }
        self.open.push_back(below);
        Ok(())
    }

    /// Leaves the innermost directory, which is listed. One above it that was removed meanwhile has nothing in it.
    fn leave(&mut self) {
        self.open.pop_back();
        while self.open.is_empty()
            && let Some((handle, at)) = self.above.pop()
        {
            match self.reopen(handle, at) {
                Ok(level) => self.open.push_back(level),
                Err(error) if error.raw_os_error() == Some(libc::ESTALE) => {}
                Err(error) => self.left.add(c"..", error),
            }
        }
    }

    fn reopen(&self, handle: Handle, at: i64) -> io::Result<Level> {
        let dir = handle.open(self.top.as_fd(), OFlags::DIRECTORY)?;
        let mut dir = Dir::new(dir)?;
        dir.seek(at)?;
        Ok(Level { dir, at })
    }

    /// Opens and changes the files under leases. Nobody takes a new lease of what somebody waits to open, so each is had when
    /// the kernel has taken the lease away.
    fn wait(&mut self, go_on: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()> {
        let leased = std::mem::take(&mut self.leased);
        // A wait that would have no end is none.
        let flags = match is_bounded() {
            true => OFlags::empty(),
            false => OFlags::NONBLOCK,
        };
        let (top, wanted) = (self.top.as_fd(), self.of_file());
        let one = |handle: Handle| match handle.open(top, flags) {
            Err(error) if error.raw_os_error() == Some(libc::ESTALE) => Ok(()),
            file => change(file?.as_fd(), wanted),
        };
        for some in leased.chunks(WAITING) {
            go_on()?;
            let ended: Vec<io::Result<()>> = std::thread::scope(|scope| {
                let begun: Vec<_> = some
                    .iter()
                    .map(|handle| std::thread::Builder::new().spawn_scoped(scope, || one(*handle)))
                    .collect();
                let ended = begun.into_iter().map(|thread| {
                    let panicked = |_| io::Error::other("its thread ended");
                    thread?.join().map_err(panicked)?
                });
                ended.collect()
            });
            for error in ended.into_iter().filter_map(Result::err) {
                self.left.add(c"a file under a lease", error);
            }
        }
        Ok(())
    }
}

/// Whether the kernel takes a lease away that its holder does not give back, and soon.
fn is_bounded() -> bool {
    let set = std::fs::read_to_string("/proc/sys/fs/lease-break-time").ok();
    let seconds = set.and_then(|text| text.trim().parse().ok());
    seconds.is_some_and(|seconds| (1..=LEASE_BREAK.as_secs()).contains(&seconds))
}

/// The handle of what is a file, without opening it.
fn of_file(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<Option<Handle>> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let found = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&found)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Handle::of(found.as_fd(), c"", libc::AT_EMPTY_PATH).map(Some),
        _ => Ok(None),
    }
}

enum Below {
    Nothing,
    File(OwnedFd),
    Dir(OwnedFd),
}

fn below(dir: BorrowedFd<'_>, name: &CStr, kind: FileType, disk: u64) -> Result<Below, Errno> {
    let kind = match kind {
        FileType::Unknown => {
            let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            FileType::from_raw_mode(stat.st_mode)
        }
        known => known,
    };
    let mut flags =
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => flags |= OFlags::DIRECTORY,
        FileType::RegularFile => {}
        _ => return Ok(Below::Nothing),
    }
    let opened = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    if stat.st_dev != disk {
        return Ok(Below::Nothing);
    }
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Below::Dir(opened),
        FileType::RegularFile => Below::File(opened),
        _ => Below::Nothing,
    })
}

fn change(file: BorrowedFd<'_>, wanted: Project) -> io::Result<()> {
    match project(file)? {
        Some(found) if found == wanted => Ok(()),
        _ => set_project(file, wanted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_and_the_rest_is_a_number() {
        let mut left = Left::default();
        for name in [c"a", c"b\n", c"c", c"d", c"e"] {
            left.add(name, "no");
        }
        assert_eq!(
            left.ended().expect_err("left").to_string(),
            r#"all but 5 of what is in it is changed ("a": no, "b\n": no, "c": no, and 2 more)"#
        );
        Left::default().ended().expect("nothing is left");
    }
}
