//! What is copied into or out of a container, and how that went.
//!
//! The stream goes through a pipe that `tankd` makes, from or to a process in the container; how it went comes through a second
//! one, as one [`CopyEnd`] in JSON of at most [`MAX_END`] bytes.

use serde::{Deserialize, Serialize};

/// The most bytes of a [`CopyEnd`].
pub const MAX_END: u64 = 16 << 10;

/// The most bytes of a path.
pub const MAX_PATH: usize = 4_095;

/// What a process in a container is to copy, in the place of a program. It is the container's root, with the capabilities that
/// its programs may have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "copy", rename_all = "snake_case")]
pub enum Copy {
    /// A file or folder becomes a tar stream on standard output.
    Out {
        /// Where it is, from the container's `/`.
        path: String,
        /// What it is called in the stream; `.`: only what is in the folder.
        name: String,
        /// A link is what it leads to.
        follow: bool,
    },
    /// A tar stream on standard input becomes files.
    In {
        /// Where to, from the container's `/`.
        path: String,
        /// It is anybody's, and goes into a folder that is there.
        archive: bool,
        /// Files belong to whom the stream says, and not to root.
        ids: bool,
    },
}

impl Copy {
    /// The path in the container.
    pub fn path(&self) -> &str {
        match self {
            Self::Out { path, .. } | Self::In { path, .. } => path,
        }
    }
}

/// How it went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyEnd {
    /// Files, directories and links.
    pub entries: u64,
    /// Bytes of files, holes counted in.
    pub bytes: u64,
    /// Devices, pipes and sockets.
    pub left_out: u64,
    /// Why not all was copied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}
