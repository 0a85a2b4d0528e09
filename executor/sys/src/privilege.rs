//! Giving privileges up, in the one order that works, just before a program is executed.

use crate::{Context, Result, namespace, process};
use caps::{CapSet, Capability, CapsHashSet};
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Who a process is, inside its user namespace.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Identity {
    /// The user.
    pub uid: u32,
    /// The primary group.
    pub gid: u32,
    /// The supplementary groups.
    pub groups: Vec<u32>,
}

/// Whether the kernel's headers know a capability by this name.
pub fn is_capability(name: &str) -> bool {
    name.parse::<Capability>().is_ok()
}

/// The ids of a user of the host and of its own group, as the name service has them (getpwnam(3)): it may read files or ask a
/// network.
pub fn user_ids(name: &str) -> Option<(u32, u32)> {
    let user = nix::unistd::User::from_name(name).ok().flatten()?;
    Some((user.uid.as_raw(), user.gid.as_raw()))
}

/// The id of a group of the host, as the name service has it (getgrnam(3)): it may read files or
/// ask a network.
pub fn group_id(name: &str) -> Option<u32> {
    nix::unistd::Group::from_name(name)
        .ok()
        .flatten()
        .map(|group| group.gid.as_raw())
}

/// Enters the pod's user namespace and becomes its root, with every capability over what the pod
/// owns and none over anything else.
///
/// # Errors
/// What the kernel gives.
pub fn become_root(user: BorrowedFd<'_>) -> Result<()> {
    // Between here and exec this process still has the host's memory image: no one inside may look
    // at it.
    process::hide()?;
    namespace::enter(user, ThreadNameSpaceType::USER)?;
    set_ids(&Identity::default())?;
    process::hide()
}

/// Becomes `identity`, from [the pod's root](become_root), with at most `bounding`. Those in
/// `ambient` a user other than root keeps as well. Ends with `no_new_privs`, so no program can gain
/// anything back.
///
/// # Errors
/// What the kernel gives.
pub fn become_user(identity: &Identity, bounding: &[String], ambient: &[String]) -> Result<()> {
    let bounding = parse(bounding)?;
    let ambient: CapsHashSet = parse(ambient)?.intersection(&bounding).copied().collect();
    for capability in caps::runtime::thread_all_supported().difference(&bounding) {
        caps::drop(None, CapSet::Bounding, *capability)
            .map_err(io::Error::other)
            .doing(|| "drop a capability")?;
    }
    rustix::thread::set_keep_capabilities(true).doing(|| "keep capabilities")?;
    set_ids(identity)?;
    let permitted = if identity.uid == 0 {
        &bounding
    } else {
        &ambient
    };
    let set = |kind, to: &CapsHashSet| caps::set(None, kind, to).map_err(io::Error::other);
    set(CapSet::Effective, permitted).doing(|| "set the effective capabilities")?;
    set(CapSet::Permitted, permitted).doing(|| "set the permitted capabilities")?;
    let inherited = if identity.uid == 0 {
        CapsHashSet::new()
    } else {
        ambient
    };
    set(CapSet::Inheritable, &inherited).doing(|| "set the inheritable capabilities")?;
    set(CapSet::Ambient, &inherited).doing(|| "set the ambient capabilities")?;
    rustix::thread::set_no_new_privs(true).doing(|| "refuse new privileges")?;
    // A change of credentials may have shown the process again (proc(5),
    // /proc/sys/fs/suid_dumpable).
    process::hide()
}

/// Takes `limits` (of getrlimit(2), by their names in small letters), makes the empty directory `root`
/// the root, and becomes a user and a group `id` that nothing belongs to, with no capability.
///
/// # Errors
/// What the kernel gives.
pub fn own_nothing(id: u32, root: OwnedFd, limits: &[(&str, u64)]) -> Result<()> {
    let limits = limits.iter();
    let limits = limits.map(|(name, most)| ((*name).to_owned(), Some(*most), Some(*most)));
    process::set_ulimits(&limits.collect::<Vec<_>>())?;
    rustix::process::fchdir(root.as_fd()).doing(|| "enter the empty directory")?;
    rustix::process::chroot(".").doing(|| "make the empty directory the root")?;
    drop(root);
    let identity = Identity {
        uid: id,
        gid: id,
        groups: Vec::new(),
    };
    become_user(&identity, &[], &[])
}

fn parse(names: &[String]) -> Result<CapsHashSet> {
    let parsed = names
        .iter()
        .map(|name| name.parse::<Capability>().map_err(io::Error::other));
    parsed
        .collect::<io::Result<_>>()
        .doing(|| "read a list of capabilities")
}

fn set_ids(identity: &Identity) -> Result<()> {
    // SAFETY: the process is single-threaded, so the raw calls change all of it; the slice outlives
    // its call.
    let results = unsafe {
        [
            libc::setgroups(identity.groups.len(), identity.groups.as_ptr()),
            libc::setresgid(identity.gid, identity.gid, identity.gid),
            libc::setresuid(identity.uid, identity.uid, identity.uid),
        ]
    };
    if results.iter().all(|result| *result == 0) {
        return Ok(());
    }
    Err(io::Error::last_os_error())
        .doing(|| format!("become user {} of group {}", identity.uid, identity.gid))
}
