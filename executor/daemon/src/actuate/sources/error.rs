//! Why a source of the host is not used. The message says what is wrong with which path; where the
//! kernel gave a reason, that is the source.

use super::{Kind, MAX_SECRET, limited, path::MAX_LINKS, record};
use rustix::{fs::FileType, io::Errno};
use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

/// Why a source is not used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no {kind} `{}` on this host", path.display())]
    Missing { kind: Kind, path: PathBuf },
    #[error("open `{}`", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("look at `{}`", path.display())]
    Look { path: PathBuf, source: io::Error },
    #[error("`{}` is {}, and no regular file", path.display(), words(*.found))]
    NotRegular { path: PathBuf, found: FileType },
    #[error("`{}` is an interface of the kernel and no file that somebody keeps", .0.display())]
    KernelInterface(PathBuf),
    #[error("it is {}, and no device", words(*.0))]
    NotADevice(FileType),
    /// Of a device no link is followed, not even root's.
    #[error("`{}` has a link in it: declare what it stands for", .0.display())]
    DeviceLink(PathBuf),
    #[error("`{}` has more than {MAX_LINKS} links in it", .0.display())]
    TooManyLinks(PathBuf),
    #[error("`{}` is no path of this host", .0.display())]
    Foreign(PathBuf),
    #[error("`{}` is a link inside of `{}`, which containers may write", link.display(), inside.display())]
    WritableLink { link: PathBuf, inside: PathBuf },
    #[error("`{}` is a link that others than root may have put there", .0.display())]
    OthersLink(PathBuf),
    #[error("`{}` is a link to what is no UTF-8 text", .0.display())]
    LinkNotText(PathBuf),
    #[error("`{0}` has a link in it, and what containers may write is not known")]
    NoRecord(String),
    #[error("`{0}` has a link in it, and what containers may write keeps changing")]
    RecordChanges(String),
    #[error("write {}", path.display())]
    Record {
        path: PathBuf,
        source: record::Error,
    },
    #[error(
        "`{}` in it is set-user-id, set-group-id or has capabilities, and a container that may write it would be \
         whoever runs it: mount the volume `read_only`, or move that file away",
        .0.display()
    )]
    SetId(PathBuf),
    #[error(
        "nothing that the host mounts below `{}` would appear in the container: its mount is private \
         (`mount --make-shared` makes it hand that on, to a tankd that starts afterwards)",
        .0.display()
    )]
    Private(PathBuf),
    #[error("it has more than {MAX_SECRET} bytes")]
    TooLarge,
    /// An attempt for this path has not come back.
    #[error("the file system of `{0}` has not answered an earlier attempt yet")]
    Unanswered(String),
    #[error(
        "{} attempts to open sources of this host have not been answered",
        limited::MAX_STUCK
    )]
    TooManyUnanswered,
    #[error("the file system of `{path}` does not answer ({} s)", limit.as_secs())]
    Silent { path: String, limit: Duration },
    #[error("make a thread")]
    Thread(#[source] io::Error),
    /// Of a path that whoever asked names.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Error {
    /// That a path can't be opened as what it should be.
    pub fn open(path: &Path, kind: Kind, error: Errno) -> Self {
        let path = path.to_owned();
        match error {
            Errno::NOENT | Errno::NOTDIR => Self::Missing { kind, path },
            error => Self::Open {
                path,
                source: error.into(),
            },
        }
    }

    /// What `path` is could not be found out.
    pub fn look(path: &Path, error: Errno) -> Self {
        Self::Look {
            path: path.to_owned(),
            source: error.into(),
        }
    }
}

impl From<Errno> for Error {
    fn from(error: Errno) -> Self {
        Self::Io(error.into())
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Directory => "directory",
            Self::File => "file",
        })
    }
}

fn words(found: FileType) -> &'static str {
    match found {
        FileType::Directory => "a directory",
        FileType::Fifo => "a pipe",
        FileType::Socket => "a socket",
        FileType::CharacterDevice | FileType::BlockDevice => "a device",
        FileType::Symlink => "a link",
        FileType::RegularFile => "a regular file",
        _ => "something else",
    }
}
