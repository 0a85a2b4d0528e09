//! What may be a standard stream of a process in a container, when it comes from outside.
//!
//! A descriptor is a way to what it is of. One of a directory, or one opened with `O_PATH`, is a
//! way into the file system of whoever opened it: a link to `/proc/self/fd/0` leads there. A
//! terminal takes keys from every process that has it open (`TIOCSTI`, ioctl_tty(2)), and who reads
//! them may be a shell outside. What is left are the things that bytes go through.

use rustix::{
    fs::{FileType, OFlags},
    io::Errno,
};
use std::os::fd::BorrowedFd;

/// Why a descriptor can't be a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoStream {
    /// A directory.
    Directory,
    /// `O_PATH`: it names a file and is not open to be read or written.
    Path,
    /// A terminal: it is never handed into a container.
    Terminal,
    /// None of a pipe, a socket, a regular file and a character device.
    Kind,
    /// The kernel does not say what it is.
    Unknown(Errno),
}

impl std::fmt::Display for NoStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Directory => f.write_str("a directory"),
            Self::Path => f.write_str("the name of a file, which is not open (`O_PATH`)"),
            Self::Terminal => f.write_str("a terminal"),
            Self::Kind => f.write_str("no pipe, socket, regular file or character device"),
            Self::Unknown(error) => write!(f, "nothing that can be looked at ({error})"),
        }
    }
}

/// The names of the three, in their order.
pub const NAMES: [&str; 3] = ["standard input", "standard output", "standard error"];

/// Refuses what can't be a stream.
///
/// # Errors
/// Why it can't.
pub fn check(fd: BorrowedFd<'_>) -> Result<(), NoStream> {
    if rustix::fs::fcntl_getfl(fd)
        .map_err(NoStream::Unknown)?
        .contains(OFlags::PATH)
    {
        return Err(NoStream::Path);
    }
    let stat = rustix::fs::fstat(fd).map_err(NoStream::Unknown)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice if rustix::termios::isatty(fd) => Err(NoStream::Terminal),
        FileType::CharacterDevice | FileType::Fifo | FileType::Socket | FileType::RegularFile => {
            Ok(())
        }
        FileType::Directory => Err(NoStream::Directory),
        _ => Err(NoStream::Kind),
    }
}

/// Refuses the first of three that can't be a stream, by its name: `standard input is a directory`.
///
/// # Errors
/// Which one, and why it can't.
pub fn check_all<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> Result<(), BadStream> {
    for (index, fd) in fds.into_iter().enumerate() {
        check(fd).map_err(|why| BadStream { index, why })?;
    }
    Ok(())
}

/// Which descriptor can't be a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} is {why}", NAMES.get(*index).unwrap_or(&"a descriptor too many"))]
pub struct BadStream {
    /// Its place among those that came along, standard input first.
    pub index: usize,
    /// Why it can't.
    pub why: NoStream,
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{Mode, open};
    use std::os::fd::{AsFd, OwnedFd};

    #[test]
    fn bytes_go_through_a_stream_and_nothing_else_does() {
        let opened = |path: &str, flags: OFlags| open(path, flags, Mode::empty()).expect("opened");
        let (read, write) = rustix::pipe::pipe().expect("a pipe");
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let file = opened("/proc/self/exe", OFlags::RDONLY);
        let null = opened("/dev/null", OFlags::RDWR);
        for (name, fd) in [
            ("pipe", &read),
            ("pipe", &write),
            ("socket", &OwnedFd::from(socket)),
            ("file", &file),
            ("null", &null),
        ] {
            assert_eq!(check(fd.as_fd()), Ok(()), "{name}");
        }
        let refused: [(OwnedFd, NoStream); 6] = [
            (opened("/", OFlags::RDONLY), NoStream::Directory),
            (opened("/", OFlags::PATH), NoStream::Path),
            (opened("/dev/null", OFlags::PATH), NoStream::Path),
            (
                opened("/dev/ptmx", OFlags::RDWR | OFlags::NOCTTY),
                NoStream::Terminal,
            ),
            (
                rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)
                    .expect("an eventfd"),
                NoStream::Kind,
            ),
            (opened("/proc/self/exe", OFlags::PATH), NoStream::Path),
        ];
        for (fd, why) in &refused {
            assert_eq!(check(fd.as_fd()), Err(*why));
        }
        let mixed = [null.as_fd(), refused[0].0.as_fd(), null.as_fd()];
        assert_eq!(
            check_all(mixed).map_err(|bad| bad.to_string()),
            Err("standard output is a directory".to_owned())
        );
    }
}
