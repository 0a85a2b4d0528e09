//! Project quotas: what all the files of one directory may take of a file system, whoever writes them.
//!
//! A file counts to the project whose id it has, and gets that of the directory it is made in where
//! that one hands it on (`FS_XFLAG_PROJINHERIT`). The kernel lets nobody change either from a user namespace other than the
//! first one (`fileattr_set_prepare`), and moves or links nothing into such a directory that counts to another project
//! (`EXDEV`). Of ext4 and XFS; ext4 has to be made with `project` and `quota` and mounted with `prjquota`, XFS with `pquota`.
//!
//! *Never*: follows a link, or opens what is no file and no directory.

mod tree;

pub use tree::count_tree;

use caps::{CapSet, Capability};
use rustix::io::Errno;
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

/// Which project a file counts to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Project {
    /// Its number; 0 is nobody's.
    pub id: u32,
    /// Whether what is made in the directory counts to it as well.
    pub inherits: bool,
}

/// What a project may take, and what it does take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Usage {
    /// The most bytes, counted as whole blocks; 0: there is no limit.
    pub max_bytes: u64,
    /// The most files, directories, links and others; 0: there is no limit.
    pub max_inodes: u64,
    /// What its files take of the disk.
    pub bytes: u64,
    /// How many there are.
    pub inodes: u64,
}

/// As linux/fs.h has it.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct FsXattr {
    xflags: u32,
    extsize: u32,
    nextents: u32,
    projid: u32,
    cowextsize: u32,
    pad: [u8; 8],
}

/// `if_dqblk` and, with the last field, `if_nextdqblk` of linux/quota.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Record {
    max_kib: u64,
    soft_kib: u64,
    bytes: u64,
    max_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
    id: u32,
}

const GET_XATTR: libc::Ioctl = 0x801c_581f_u32 as libc::Ioctl; // FS_IOC_FSGETXATTR
const SET_XATTR: libc::Ioctl = 0x401c_5820; // FS_IOC_FSSETXATTR
const PROJECT_INHERIT: u32 = 0x200; // FS_XFLAG_PROJINHERIT

const GET_QUOTA: u32 = 0x80_0007; // Q_GETQUOTA
const SET_QUOTA: u32 = 0x80_0008; // Q_SETQUOTA
const GET_NEXT: u32 = 0x80_0009; // Q_GETNEXTQUOTA
const GET_STATE: u32 = 0x5805; // Q_XGETQSTAT
const OF_PROJECT: u32 = 2; // PRJQUOTA
const LIMITS: u32 = 5; // QIF_LIMITS
const ENFORCED: u16 = 1 << 5; // FS_QUOTA_PDQ_ENFD

/// The unit of limits (`QIF_DQBLKSIZE`).
const BLOCK: u64 = 1024;

/// Which project a file or a directory counts to. None: its file system knows none.
///
/// # Errors
/// What the kernel gives.
pub fn project(file: BorrowedFd<'_>) -> io::Result<Option<Project>> {
    let found = attributes(file)?;
    Ok(found.map(|found| Project {
        id: found.projid,
        inherits: found.xflags & PROJECT_INHERIT != 0,
    }))
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<Option<FsXattr>> {
    let mut found = FsXattr::default();
    // SAFETY: the kernel writes a `struct fsxattr` to the address, which is that of one.
    let got = unsafe { libc::ioctl(file.as_raw_fd(), GET_XATTR, &raw mut found) };
    if got == 0 {
        return Ok(Some(found));
    }
    match io::Error::last_os_error() {
        error if is_unknown(&error) => Ok(None),
        error => Err(error),
    }
}

/// Has a file count to a project, or a directory and what is made in it.
///
/// # Errors
/// What the kernel gives.
pub fn set_project(file: BorrowedFd<'_>, project: Project) -> io::Result<()> {
    let Some(mut wanted) = attributes(file)? else {
        return Err(Errno::OPNOTSUPP.into());
    };
    wanted.projid = project.id;
    wanted.xflags &= !PROJECT_INHERIT;
    if project.inherits {
        wanted.xflags |= PROJECT_INHERIT;
    }
    // SAFETY: the kernel reads a `struct fsxattr` at the address, which is that of one.
    match unsafe { libc::ioctl(file.as_raw_fd(), SET_XATTR, &raw const wanted) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether an error says that the kernel or the file system has nothing of the kind.
fn is_unknown(error: &io::Error) -> bool {
    let unknown = [
        Errno::NOTTY,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::INVAL,
        Errno::SRCH,
        Errno::NODEV,
    ];
    let code = error.raw_os_error();
    unknown.iter().any(|one| Some(one.raw_os_error()) == code)
}

/// One call about the project quotas of the file system that `file` is on.
fn quotactl<T>(file: BorrowedFd<'_>, command: u32, id: u32, value: &mut T) -> io::Result<()> {
    let command = command << 8 | OF_PROJECT;
    // SAFETY: each caller hands over a structure as large as the one that its command reads or writes, and
    // it outlives the call.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            file.as_raw_fd(),
            command,
            id,
            std::ptr::from_mut(value),
        )
    };
    match done {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether the file system that `file` is on keeps projects within their limits.
///
/// # Errors
/// What the kernel gives; that it has no quotas is none.
pub fn is_enforced(file: BorrowedFd<'_>) -> io::Result<bool> {
    // `struct fs_quota_stat`, 80 bytes: the flags are behind the version.
    let mut state = [0_u16; 64];
    match quotactl(file, GET_STATE, 0, &mut state) {
        Ok(()) => Ok(state[1] & ENFORCED != 0),
        Err(error) if is_unknown(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// What a project of that file system may take, and does.
///
/// # Errors
/// What the kernel gives.
pub fn usage(file: BorrowedFd<'_>, id: u32) -> io::Result<Usage> {
    let mut found = Record::default();
    match quotactl(file, GET_QUOTA, id, &mut found) {
        // Nothing was ever counted to it.
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(Usage::default()),
        other => other?,
    }
    Ok(Usage {
        max_bytes: found.max_kib.saturating_mul(BLOCK),
        max_inodes: found.max_inodes,
        bytes: found.bytes,
        inodes: found.inodes,
    })
}

/// Sets what a project may take, in bytes and inodes; 0 is no limit. What it takes may be more by then: then
/// nothing is written to it until it is less.
///
/// # Errors
/// What the kernel gives.
pub fn set_limits(file: BorrowedFd<'_>, id: u32, bytes: u64, inodes: u64) -> io::Result<()> {
    let mut wanted = Record {
        max_kib: bytes / BLOCK,
        max_inodes: inodes,
        valid: LIMITS,
        ..Record::default()
    };
    quotactl(file, SET_QUOTA, id, &mut wanted)
}

/// The first project from `id` on that something counts to or that has a limit.
///
/// # Errors
/// What the kernel gives.
pub fn next(file: BorrowedFd<'_>, id: u32) -> io::Result<Option<u32>> {
    let mut found = Record::default();
    match quotactl(file, GET_NEXT, id, &mut found) {
        Ok(()) => Ok(Some(found.id)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) || is_unknown(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Does something within the limits of projects, as an ordinary user has to: file systems of the kernel's own quotas
/// (ext4) let whoever has `CAP_SYS_RESOURCE` go past them. It is this thread's privilege that is put away meanwhile.
pub fn within_limits<T>(work: impl FnOnce() -> T) -> T {
    let has = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE);
    let dropped = has.unwrap_or(false)
        && caps::drop(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE).is_ok();
    /// Gives the privilege back, however the work ends.
    struct Back(bool);
    impl Drop for Back {
        fn drop(&mut self) {
            if self.0 {
                let _ = caps::raise(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE);
            }
        }
    }
    let _back = Back(dropped);
    work()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn the_kernel_s_structures_are_as_large_as_it_has_them() {
        assert_eq!(size_of::<FsXattr>(), 28);
        assert_eq!(size_of::<Record>(), 72);
        assert!(size_of::<[u16; 64]>() >= 80);
    }

    #[test]
    fn a_file_system_without_projects_says_so_and_is_left_alone() {
        let memory = std::fs::File::open("/dev/shm").expect("opened");
        assert!(!is_enforced(memory.as_fd()).expect("asked"));
        assert_eq!(next(memory.as_fd(), 1).expect("asked"), None);
        let proc = std::fs::File::open("/proc/self").expect("opened");
        assert_eq!(project(proc.as_fd()).expect("asked"), None);
        let one = Project {
            id: 7,
            inherits: true,
        };
        set_project(proc.as_fd(), one).expect_err("nothing counts there");
        count_tree(proc.into(), 7, &mut || Ok(())).expect_err("nothing counts there");
    }

    #[test]
    fn what_is_done_within_limits_has_no_privilege_to_go_past_them() {
        let has = || {
            let has = caps::has_cap(None, CapSet::Effective, Capability::CAP_SYS_RESOURCE);
            has.expect("read")
        };
        let before = has();
        assert!(!within_limits(has));
        assert_eq!(has(), before);
    }
}
