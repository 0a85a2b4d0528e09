//! A second process that copies files between its container and a stream, in the place of executing a program.
//!
//! It is on the same way as every other one ([`crate::exec`]): in the container's namespaces and cgroup, with nothing open but its
//! three streams, as the container's root with the capabilities that its programs may have and its filter of system calls. So it
//! can do nothing that the container could not do itself, wherever the container has a path lead. And it executes nothing of the
//! image: it goes on in the shim's own memory, in which no library is loaded any more (no name service, no character sets).
//! What the container could get hold of in the meantime is taken away as it is from a process that enters it
//! ([the crate's page](crate)): `/proc/PID/exe` is on a mount on which nothing is executed or written, and nobody without
//! privileges over the host may trace it or look at its memory, since it stays what cannot be dumped.
//!
//! The container can end it or stop it, which whoever reads the stream sees: it has no end then.

use crate::{failure::Error, launch::Report};
use std::{
    fs::File,
    io::{self, BufReader, Write},
    os::fd::{AsFd, BorrowedFd},
    path::Path,
};
use tank_copy::{Layout, Source, Tally, Target};
use tank_proto::copy::{Copy, CopyEnd};
use tank_sys::{beneath::Root, privilege, process, seccomp};

/// The most bytes of why not: what it quotes is cut already.
const MAX_WHY: usize = 4 << 10;

/// Copies, and writes how it went to standard error. An error is one from before its first byte: it is reported as of a program
/// that can't be executed.
pub fn run(
    copy: &Copy,
    root: Root,
    bounding: &[String],
    filter: &[seccomp::Instruction],
    report: &Report<'_>,
) -> Result<(), Error> {
    privilege::become_user(&privilege::Identity::default(), bounding, &[])?;
    root.enter(Path::new("/"))
        .map_err(|e| tank_sys::Error::new("enter the container's `/`", e))?;
    drop(root);
    process::reset_umask();
    process::ignore_file_size_signal();
    let _ = rustix::thread::set_name(c"tank-copy");
    report.close_all_but([])?;
    seccomp::install(filter)?;
    // Also the pipe on which that it began is read: from here on there is nobody to report to but the client.
    process::close_descriptors_but(&[])?;
    let end = match carry_out(copy) {
        Ok(tally) => end_of(tally, None),
        Err(error) => end_of(Tally::default(), Some(error)),
    };
    if let Ok(text) = serde_json::to_vec(&end) {
        // Nobody may be there to read it.
        let _ = stream(rustix::stdio::stderr()).and_then(|mut out| out.write_all(&text));
    }
    Ok(())
}

fn end_of(tally: Tally, failed: Option<String>) -> CopyEnd {
    CopyEnd {
        entries: tally.entries,
        bytes: tally.bytes,
        left_out: tally.left_out,
        failed: failed.map(|mut why| {
            let cut = (0..=MAX_WHY).rev().find(|at| why.is_char_boundary(*at));
            why.truncate(cut.unwrap_or(0));
            why
        }),
    }
}

fn carry_out(copy: &Copy) -> Result<Tally, String> {
    let root = Root::current().map_err(|e| tank_sys::with_causes(&e))?;
    let open = |fd| stream(fd).map_err(|e| e.to_string());
    match copy {
        Copy::Out { path, name, follow } => {
            let source = Source {
                root: &root,
                path: Path::new(path),
                name: name.as_bytes(),
                follow: *follow,
            };
            let mut out = open(rustix::stdio::stdout())?;
            tank_copy::send(&source, &mut out).map_err(|e| e.to_string())
        }
        Copy::In { path, archive, ids } => {
            let target = Target {
                root: &root,
                path: Path::new(path),
                layout: match archive {
                    true => Layout::Archive,
                    false => Layout::One(None),
                },
                ids: *ids,
            };
            let mut input = BufReader::with_capacity(64 << 10, open(rustix::stdio::stdin())?);
            let received = tank_copy::receive(&target, &mut input);
            if received.is_ok() {
                // What comes behind the end of an archive is read, so that whoever writes it is not ended by it.
                let _ = io::copy(&mut input, &mut io::sink());
            }
            received.map_err(|e| e.to_string())
        }
    }
}

/// A standard stream without a buffer.
fn stream(fd: BorrowedFd<'_>) -> io::Result<File> {
    Ok(fd.as_fd().try_clone_to_owned()?.into())
}
