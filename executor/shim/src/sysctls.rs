//! The kernel settings that a pod declares, and those that every pod gets.

use rustix::thread::ThreadNameSpaceType;
use std::{fs, io, os::fd::AsFd, path::PathBuf};
use tank_proto::shim::Setup;
use tank_sys::{
    Context, Error, Result,
    namespace::{self, Namespaces},
    privilege, process,
};

/// `net.*` settings belong to the network namespace and the others to the IPC namespace: both are
/// entered by a process of their own.
pub fn set(setup: &Setup, namespaces: &Namespaces) -> Result<()> {
    if setup.sysctls.is_empty() && setup.default_sysctls.is_empty() {
        return Ok(());
    }
    let (report, report_end) = namespace::pipe()?;
    let helper = process::spawn(0, None, || {
        let Err(error) = set_inside(setup, namespaces) else {
            return 0;
        };
        let errno = error.errno().unwrap_or_default();
        let report = format!("{errno} {}", error.what());
        let _ = rustix::io::write(&report_end, report.as_bytes());
        1
    })?;
    drop(report_end);
    let status = process::wait(&helper)?;
    if status.success() {
        return Ok(());
    }
    let mut text = String::new();
    let _ = io::Read::read_to_string(&mut fs::File::from(report), &mut text);
    let (errno, what) = text.split_once(' ').unwrap_or_default();
    let source = match errno.parse() {
        Ok(0) | Err(_) => io::Error::other("the process that sets it ended"),
        Ok(errno) => io::Error::from_raw_os_error(errno),
    };
    let what = Some(what).filter(|what| !what.is_empty());
    Err(Error::new(what.unwrap_or("set sysctls"), source))
}

/// What the process does that enters the namespaces.
fn set_inside(setup: &Setup, namespaces: &Namespaces) -> Result<()> {
    if let Some(net) = &namespaces.net {
        namespace::enter(net.as_fd(), ThreadNameSpaceType::NETWORK)?;
    }
    namespace::enter(
        namespaces.ipc.as_fd(),
        ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
    )?;
    for (key, value) in &setup.default_sysctls {
        match write(key, value) {
            // A kernel without IPv6, say.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other.doing(|| what(key, value))?,
        }
    }
    let mut of_owner = Vec::new();
    for (key, value) in &setup.sysctls {
        match write(key, value) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                of_owner.push((key, value));
            }
            other => other.doing(|| what(key, value))?,
        }
    }
    // Those of the IPC namespace are the pod's root's to write, and older kernels' the host's.
    if !of_owner.is_empty() {
        privilege::become_root(namespaces.user.as_fd())?;
    }
    for (key, value) in of_owner {
        write(key, value).doing(|| what(key, value))?;
    }
    Ok(())
}

fn write(key: &str, value: &str) -> io::Result<()> {
    let path = PathBuf::from("/proc/sys").join(key.replace('.', "/"));
    fs::write(path, value)
}

fn what(key: &str, value: &str) -> String {
    format!("set the sysctl {key} to {value}")
}
