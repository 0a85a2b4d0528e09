//! Terminals, made on the container's own devpts, so that `tty` and `ttyname(3)` tell the truth
//! inside.

use crate::{Context, Result, beneath::Root};
use rustix::{
    fs::{Mode, OFlags},
    pty::OpenptFlags,
    termios::Winsize,
};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

/// `DEVPTS_SUPER_MAGIC` of statfs(2).
const DEVPTS: i64 = 0x1cd1;

/// Both ends of a new terminal, from the devpts of the container whose root this is.
///
/// # Errors
/// What the kernel gives, and `ENODEV` where something else covers its `/dev`.
pub fn open(root: &Root, owner: u32) -> Result<(OwnedFd, OwnedFd)> {
    let what = || "open a terminal";
    let dir = root
        .open(Path::new("/dev/pts"), OFlags::DIRECTORY | OFlags::NOFOLLOW)
        .doing(what)?;
    // Only the kernel's own: whatever else is there is a volume's.
    if rustix::fs::fstatfs(&dir).doing(what)?.f_type != DEVPTS {
        return Err(io::Error::from_raw_os_error(libc::ENODEV)).doing(what);
    }
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let master = rustix::fs::openat(&dir, "ptmx", flags, Mode::empty()).doing(what)?;
    rustix::pty::unlockpt(&master).doing(|| "unlock a terminal")?;
    // By descriptor and not by name: no path of the container is trusted (TIOCGPTPEER,
    // ioctl_tty(2)).
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave =
        rustix::pty::ioctl_tiocgptpeer(&master, peer).doing(|| "open a terminal's other end")?;
    let owner = rustix::fs::Uid::from_raw(owner);
    rustix::fs::fchown(&slave, Some(owner), None).doing(|| "own a terminal")?;
    Ok((master, slave))
}

/// Makes `slave` the controlling terminal and the three standard streams of this process, in a new
/// session.
///
/// # Errors
/// What the kernel gives.
pub fn adopt(slave: BorrowedFd<'_>) -> Result<()> {
    rustix::process::setsid().doing(|| "start a session")?;
    rustix::process::ioctl_tiocsctty(slave).doing(|| "take a controlling terminal")?;
    streams(slave, slave, slave)
}

/// Makes three descriptors the standard streams of this process.
///
/// # Errors
/// What `dup2(2)` gives.
pub fn streams(
    stdin: BorrowedFd<'_>,
    stdout: BorrowedFd<'_>,
    stderr: BorrowedFd<'_>,
) -> Result<()> {
    // Copies first: a source may itself sit on 0, 1 or 2 and be overwritten by another's turn.
    let copies = [stdin, stdout, stderr].map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3));
    let [stdin, stdout, stderr] = copies;
    rustix::stdio::dup2_stdin(stdin.doing(|| "copy stdin")?.as_fd()).doing(|| "set stdin")?;
    rustix::stdio::dup2_stdout(stdout.doing(|| "copy stdout")?.as_fd()).doing(|| "set stdout")?;
    rustix::stdio::dup2_stderr(stderr.doing(|| "copy stderr")?.as_fd()).doing(|| "set stderr")
}

/// Sets the size of a terminal, in character cells.
///
/// # Errors
/// What `TIOCSWINSZ` gives.
pub fn resize(terminal: BorrowedFd<'_>, rows: u16, columns: u16) -> Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).doing(|| "resize a terminal")
}
