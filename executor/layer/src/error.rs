//! Why a layer can't be had. [`Display`](std::fmt::Display) of an error says what was attempted and
//! not why: that is its source's to say.

use crate::budget::Refusal;
use serde::{Deserialize, Serialize};
use std::{fmt, io, path::PathBuf};
use tank_model::Digest;

/// The deepest path.
pub const MAX_DEPTH: usize = 256;

/// The most characters of the text of a [`Cause`].
const MAX_TEXT: usize = 500;

/// ENOSPC of errno(3).
const NO_SPACE: i32 = 28;

/// An [`io::Error`] that goes from one process to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Cause {
    /// The kernel's number, where it is one of the kernel's.
    pub errno: Option<i32>,
    text: String,
}

impl From<io::Error> for Cause {
    fn from(error: io::Error) -> Self {
        // What a budget refuses has no number of its own.
        let is_full = error.kind() == io::ErrorKind::StorageFull;
        Self {
            errno: error.raw_os_error().or(is_full.then_some(NO_SPACE)),
            text: error.to_string().chars().take(MAX_TEXT).collect(),
        }
    }
}

impl Cause {
    /// Whether there is no space on the disk.
    pub fn is_no_space(&self) -> bool {
        self.errno == Some(NO_SPACE)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What another process said is not for a terminal as it is.
        let clean = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = self.text.chars().take(MAX_TEXT).map(clean).collect();
        f.write_str(&text)
    }
}

impl std::error::Error for Cause {}

/// Why a layer can't be converted. Code matches on the variants; only people read the texts.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum LayerError {
    /// A layer's media type is none that Tank reads.
    #[error("it has the media type `{0}`, which is no layer Tank reads")]
    MediaType(String),
    /// A layer's uncompressed bytes are not what the image's configuration says.
    #[error("its content has the digest {actual}, its image says {expected}")]
    DiffId {
        /// The digest of the bytes.
        actual: Digest,
        /// The digest in the configuration (`rootfs.diff_ids`).
        expected: Digest,
    },
    /// A layer can't be read: its disk, its compression or the budget is why.
    #[error("can't read it")]
    Read(#[source] Cause),
    /// The image of a layer can't be written.
    #[error("can't write what is in it")]
    Write(#[source] Cause),
    /// The tar of a layer can't be written again.
    #[error("can't write its archive again")]
    Rebuild(#[source] Cause),
    /// A layer is no tar archive. Without a source where that quotes the archive's own bytes, which
    /// are an attacker's and not for a terminal.
    #[error("it is no tar archive")]
    NoTar(#[source] Option<Cause>),
    /// An archive has a path that no layer may have.
    #[error(transparent)]
    Path(EntryError),
    /// The entry with this path can't be had.
    #[error("can't unpack {}", named(.0))]
    Entry(PathBuf, #[source] EntryError),
}

/// An entry by its path; the top of a layer has an empty one.
fn named(path: &std::path::Path) -> String {
    match path.as_os_str().is_empty() {
        true => "its top directory".to_owned(),
        false => format!("`{}`", path.display()),
    }
}

/// Why an entry of a layer can't be had.
#[derive(Debug, thiserror::Error, Serialize, Deserialize)]
#[non_exhaustive]
pub enum EntryError {
    /// Its path has a `..`: such an entry is refused, not corrected.
    #[error("the path `{}` climbs out of the layer", .0.display())]
    Climbs(PathBuf),
    /// Its path has more than 4096 bytes or 256 components, or a NUL.
    #[error("a path in it is too long or too deep")]
    LongPath,
    /// A name on its path has more bytes than a name of a file may have.
    #[error("a name in it has more than {} bytes", tank_erofs::MAX_NAME)]
    LongName,
    /// A link leads it into a directory below more than 256 others.
    #[error("a directory in it is more than {MAX_DEPTH} levels deep")]
    Deep,
    /// Links on its path lead to each other.
    #[error("links on its path lead in a circle")]
    Circle,
    /// A part of its path is no directory.
    #[error("a part of its path is no directory")]
    NoDirectory,
    /// It would take the place of a directory that has something in it.
    #[error("it would take the place of a directory that is not empty")]
    NotEmpty,
    /// It is a link without a target, or with one of more than 4095 bytes or with a NUL.
    #[error("it is a link that leads nowhere")]
    BadLink,
    /// It is a whiteout of no name.
    #[error("it hides nothing that could have a name")]
    BadWhiteout,
    /// It is a hard link to what neither its layer nor those below show.
    #[error("its image has no `{}` to link to", .0.display())]
    NoTarget(PathBuf),
    /// It is a hard link to what its layer does not have, and those below are not known. Whoever
    /// knows them asks again.
    #[error("it links to a layer below")]
    Below,
    /// It is a hard link to a directory or a socket.
    #[error("`{}` is nothing to link to", .0.display())]
    NotLinkable(PathBuf),
    /// It has an attribute that no file can have, or none with this name.
    #[error("it has an attribute whose name is none of at most 255 bytes without a NUL: `{0}`")]
    AttributeName(String),
    /// It has an attribute, with this name, of more bytes than the image of a layer can hold.
    #[error("its attribute `{}` has {} bytes, and {} are the most", .0, .1, crate::names::MAX_VALUE)]
    AttributeValue(String, usize),
    /// What the image may take of this host is taken.
    #[error(transparent)]
    Budget(#[from] Refusal),
    /// Its content can't be read, or not be written.
    #[error(transparent)]
    Io(#[from] Cause),
}

impl From<io::Error> for EntryError {
    fn from(error: io::Error) -> Self {
        Self::Io(error.into())
    }
}

impl LayerError {
    /// Whether there is no space on the disk for it.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Read(cause) | Self::Write(cause) | Self::NoTar(Some(cause)) => {
                cause.is_no_space()
            }
            Self::Entry(_, EntryError::Io(cause)) => cause.is_no_space(),
            Self::Entry(_, EntryError::Budget(refusal)) => refusal.is_no_space(),
            _ => false,
        }
    }
}
