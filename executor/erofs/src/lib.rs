//! EROFS, as the kernel reads it (the kernel's `Documentation/filesystems/erofs.rst` and
//! `fs/erofs/erofs_fs.h`): a file system that is written once, as one file, and never changed.
//!
//! Written is the plain form, without compression, which Linux 5.4 and all after it read:
//!
//! ```text
//! block 0            1,024 bytes of zeros, the superblock, the root's inode
//! block 1 …          as they come: whole blocks of content, and blocks of inodes between them
//! the last ones      inodes and entries of the directories
//! ```
//!
//! A block has 4,096 bytes. Content is aligned and contiguous, so the kernel maps it as it is. What
//! is left of a file behind its last whole block stands beside its inode, if the two fit in a block
//! ("tail packing"): a small file is one read. Everything is written once and in order, but for the
//! directories' and what is patched in the end: whoever writes needs memory for the names, and for
//! none of the content.
//!
//! * [`Writer`] is a file's content and inodes as they come; [`Tree`] are the names, given in the end.
//! * [`Image`] reads what was written, for whoever has the file and no mount of it. It trusts nothing
//!   of what it reads.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod content;
mod directories;
mod format;
mod nid;
mod reader;
mod tree;
mod writer;

pub use content::Content;
pub use format::{BLOCK, Kind, MAX_NAME, MAX_ROOT_XATTRS, Time, XATTR_ENTRY};
pub use reader::{Image, Inode};
pub use tree::{DirId, Entry, Tree};
pub use writer::{Attributes, Nid, Output, Writer};
