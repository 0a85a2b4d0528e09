//! The numbers of `fs/erofs/erofs_fs.h`. Everything is little-endian.

/// The bytes of a block.
pub const BLOCK: u64 = 4096;

/// The longest name, in bytes.
pub const MAX_NAME: usize = 255;

/// The base-2 logarithm of [`BLOCK`].
pub const BLOCK_BITS: u8 = 12;

/// Where the superblock is, and its length.
pub const SUPERBLOCK: u64 = 1024;
pub const SUPERBLOCK_LENGTH: usize = 128;

/// The first word of the superblock.
pub const MAGIC: u32 = 0xe0f5_e1e2;

/// Inodes stand at multiples of this, and are numbered by it.
pub const SLOT: u64 = 32;

/// The number of the root's inode, behind the superblock.
pub const ROOT: u64 = (SUPERBLOCK + SUPERBLOCK_LENGTH as u64) / SLOT;

/// The length of an extended inode, the only form that is written.
pub const INODE_LENGTH: usize = 64;

/// The bits of `i_format`: an extended inode, and how its content lies.
pub const EXTENDED: u16 = 1;
pub const LAYOUT_SHIFT: u16 = 1;
pub const FLAT_PLAIN: u16 = 0;
pub const FLAT_INLINE: u16 = 2;

/// The length of an entry of a directory without its name.
pub const DIRENT: usize = 12;

/// The length of what stands before the attributes of an inode.
pub const XATTR_HEADER: usize = 12;

/// The length of what stands before the name of an attribute; all of it is filled up to a multiple of that.
pub const XATTR_ENTRY: usize = 4;

/// The most bytes of the attributes of the root, whose inode lies in the first block: each has [`XATTR_ENTRY`] bytes beside its value
/// and its name without the prefix, and is filled up to a multiple of that.
pub const MAX_ROOT_XATTRS: usize =
    BLOCK as usize - (ROOT * SLOT) as usize - INODE_LENGTH - XATTR_HEADER;

/// The prefixes of attributes' names that are written as a number.
pub const XATTR_PREFIXES: [(u8, &[u8]); 3] = [(1, b"user."), (4, b"trusted."), (6, b"security.")];

/// The bits of a mode that say what an inode is (inode(7)), and their values.
pub const FORMAT_MASK: u16 = 0o170_000;

/// What an inode is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A character device.
    CharacterDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A symbolic link.
    Symlink,
}

/// Each kind with its bits of a mode and its number in a directory's entries.
const KINDS: [(Kind, u16, u8); 7] = [
    (Kind::File, 0o100_000, 1),
    (Kind::Directory, 0o040_000, 2),
    (Kind::CharacterDevice, 0o020_000, 3),
    (Kind::BlockDevice, 0o060_000, 4),
    (Kind::Fifo, 0o010_000, 5),
    (Kind::Socket, 0o140_000, 6),
    (Kind::Symlink, 0o120_000, 7),
];

impl Kind {
    pub(crate) fn bits(self) -> u16 {
        KINDS[self as usize].1
    }

    pub(crate) fn number(self) -> u8 {
        KINDS[self as usize].2
    }

    pub(crate) fn of_mode(mode: u16) -> Option<Self> {
        let mut kinds = KINDS.iter();
        kinds
            .find(|(_, bits, _)| *bits == mode & FORMAT_MASK)
            .map(|(kind, ..)| *kind)
    }

    pub(crate) fn of_number(number: u8) -> Option<Self> {
        let mut kinds = KINDS.iter();
        kinds
            .find(|(_, _, own)| *own == number)
            .map(|(kind, ..)| *kind)
    }
}

/// A point of time, as `timespec(3)` has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// And nanoseconds, less than a second's.
    pub nanoseconds: u32,
}
