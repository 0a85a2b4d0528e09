//! What goes wrong, and where.

use std::io;

/// The most characters of a path that an error says.
const MAX_SHOWN: usize = 300;

/// Why something was not copied.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// At a file.
    #[error("`{path}`: {problem}")]
    At {
        /// As it is shown: without control characters, and cut.
        path: String,
        /// What it is.
        problem: Problem,
    },
    /// The stream can't be read.
    #[error("read what is copied: {0}")]
    Read(#[source] io::Error),
    /// The stream can't be written.
    #[error("send what is copied: {0}")]
    Write(#[source] io::Error),
    /// It has no end.
    #[error("what is copied ended in the middle")]
    Cut,
    /// It has nothing in it.
    #[error("nothing came")]
    Nothing,
    /// It is something else than what it was asked for.
    #[error("something else came than what is copied: `{0}`")]
    Unexpected(String),
}

impl Error {
    /// Whether nobody reads what is sent any more: the other side has more to say about it.
    pub fn is_unread(&self) -> bool {
        matches!(self, Self::Write(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// What is wrong with one file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The kernel says so.
    #[error("{}", in_words(.0))]
    Io(#[from] io::Error),
    /// It would take the place of a directory.
    #[error("it is a folder there, and none in what is copied")]
    IsDirectory,
    /// It would have to be one.
    #[error("it is no folder there, and is one in what is copied")]
    IsNoDirectory,
    /// A trailing `/`.
    #[error("there is no such folder")]
    NoDirectory,
    /// Nothing that has bytes of its own.
    #[error("it is {0}, which is not copied")]
    Special(&'static str),
    /// A file of `/proc` or `/sys`.
    #[error(
        "it is of the kernel, and has no size: `tank exec POD -- cat FILE` reads it, where the image has `cat`"
    )]
    Kernel,
    /// It was exchanged between two looks at it.
    #[error("something else took its place while it was copied")]
    Replaced,
    /// There are fewer bytes than it had.
    #[error("it became shorter while it was copied")]
    Shrunk,
    /// A part of its path is `..`.
    #[error("its path leads out of what is copied")]
    Outside,
    /// A name with a zero byte, or none.
    #[error("it has no name")]
    NoName,
    /// Deeper than `MAX_LEVELS`.
    #[error("it is deeper than {} folders", crate::MAX_LEVELS)]
    TooDeep,
    /// Longer than `MAX_PATH`.
    #[error("its path has more than {} bytes", crate::MAX_PATH)]
    TooLong,
    /// More than `MAX_ENTRIES`.
    #[error("with it there are more than {} files", crate::MAX_ENTRIES)]
    TooMany,
    /// More than `MAX_BYTES`.
    #[error("with it files have more than 1 TiB, holes counted in")]
    TooLarge,
    /// A hard link, where none belongs.
    #[error("it is a hard link, which nothing that is copied has")]
    HardLink,
}

impl From<rustix::io::Errno> for Problem {
    fn from(errno: rustix::io::Errno) -> Self {
        Self::Io(errno.into())
    }
}

/// What the kernel says, and what follows where that is not plain.
fn in_words(error: &io::Error) -> String {
    use rustix::io::Errno;
    let is = |errno: Errno| error.raw_os_error() == Some(errno.raw_os_error());
    if is(Errno::BUSY) {
        return format!("something is mounted there, and can't be replaced ({error})");
    }
    if is(Errno::LOOP) {
        return format!("it leads through a link that is not followed ({error})");
    }
    if is(Errno::XDEV) {
        return "its path leads out of what is copied".to_owned();
    }
    error.to_string()
}

/// A path that others chose, as it is shown.
pub(crate) fn shown(path: &[u8]) -> String {
    let path = String::from_utf8_lossy(path);
    path.escape_debug().take(MAX_SHOWN).collect()
}

/// Says where something went wrong.
pub(crate) trait At<T> {
    fn at(self, path: impl FnOnce() -> Vec<u8>) -> Result<T, Error>;
}

impl<T, E: Into<Problem>> At<T> for Result<T, E> {
    fn at(self, path: impl FnOnce() -> Vec<u8>) -> Result<T, Error> {
        self.map_err(|problem| Error::At {
            path: shown(&path()),
            problem: problem.into(),
        })
    }
}
