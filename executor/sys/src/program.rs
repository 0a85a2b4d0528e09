//! The caller's own program, out of reach of those it executes others for.
//!
//! Until a process executes its program, `/proc/self/exe` is a link to the one that it came from,
//! and the kernel follows it for whoever names it: as the program of an image, after the `#!` of a
//! script, as the interpreter of an ELF file. A container could run a program of the host by it,
//! and hold a descriptor of that (CVE-2019-5736). So a process that becomes containers runs from a
//! mount of its own, that is attached nowhere, on which nothing can be executed or written.
//!
//! A copy in memory would do as well, but would cost that memory: this one costs one `execve(2)` at
//! the start.

use crate::{
    Context, Result,
    mount::{self, attr},
};
use std::{
    convert::Infallible,
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// Executes the caller's program again, from a detached mount whose descriptor is passed on: its
/// number is the one argument. Returns only the failure. [`seal`] comes next, in the new program.
///
/// # Errors
/// What `open_tree(2)` and `execveat(2)` give.
pub fn execute_detached(name: &std::ffi::CStr) -> Result<Infallible> {
    let mount = mount::clone_tree(Path::new("/proc/self/exe"), false)?;
    rustix::io::fcntl_setfd(&mount, rustix::io::FdFlags::empty())
        .doing(|| "pass a descriptor on")?;
    let number = CString::new(mount.as_raw_fd().to_string())
        .map_err(io::Error::other)
        .doing(|| "write a number")?;
    let env: Vec<CString> = std::env::vars_os()
        .filter_map(|(key, value)| {
            CString::new([key.as_bytes(), b"=", value.as_bytes()].concat()).ok()
        })
        .collect();
    let env: Vec<_> = env
        .iter()
        .map(|text| text.as_ptr())
        .chain([std::ptr::null()])
        .collect();
    let argv = [name.as_ptr(), number.as_ptr(), std::ptr::null()];
    // SAFETY: all strings are NUL-terminated, both arrays end with a null pointer, and all outlive
    // the call, which returns only on failure.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            mount.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    Err(io::Error::last_os_error()).doing(|| "execute this program again")
}

/// Takes from the mount that the caller was executed from ([`execute_detached`]) that anything can
/// be executed or written there, for good. The descriptor stays open.
///
/// # Errors
/// What `mount_setattr(2)` gives, and `EBADF` for what is no descriptor's number.
pub fn seal(number: &str) -> Result<()> {
    let number = number.parse().ok().filter(|number| *number > 2);
    let number: i32 = number
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
        .doing(|| "take a mount")?;
    // SAFETY: `execute_detached` left it open, nobody closes it during the call; were it not open,
    // the call would fail.
    let mount = unsafe { BorrowedFd::borrow_raw(number) };
    mount::restrict(
        mount,
        attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC,
        false,
    )
}
