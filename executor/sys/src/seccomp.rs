//! The system call filter: by default, everything is allowed but what reaches the kernel's own
//! machinery.
//!
//! Thin by intent: user namespaces and the capability set already stop most of these; the filter
//! takes away the attack surface of asking. Refused calls give `EPERM`, or `ENOSYS` where programs
//! have a fallback.
//!
//! **Set-id files.** What a container's root writes into a directory of the host belongs to the
//! host's own root, so a program it leaves there with the set-user-id bit is root for whoever runs
//! it. [`Changes::no_set_id`] therefore refuses every call that gives a file the set-user-id or
//! set-group-id bit, directories included, as systemd's `RestrictSUIDSGID=` does: the mode of
//! `chmod`, `mkdir`, `mknod`, `creat` and their descendants, and that of `open` where it makes a
//! file. Calls that hide a mode where no filter sees it are not there (`openat2`) or refused
//! (`io_uring`), whatever else is allowed. The filter stays with every process that is made under
//! it, and in any user namespace. The other way to such a file, a file capability, is the bounding
//! set's to close (`CAP_SETFCAP`).

use crate::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};
use std::{collections::BTreeMap, io};

/// Refused whatever their arguments.
const REFUSED: [i64; 45] = [
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_ioperm,
    libc::SYS_iopl,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_vm_writev,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
    libc::SYS_vmsplice,
];

/// One instruction of a compiled filter.
pub type Instruction = sock_filter;

/// The number of a system call on this machine.
pub fn number(name: &str) -> Option<i64> {
    name.parse::<syscalls::Sysno>()
        .ok()
        .map(|call| i64::from(call.id()))
}

/// How a filter differs from the default one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes<'a> {
    /// Nothing is refused but what is denied.
    pub unconfined: bool,
    /// Allowed although the default refuses them.
    pub allow: &'a [i64],
    /// Refused although the default allows them.
    pub deny: &'a [i64],
    /// No file becomes set-user-id or set-group-id, whatever is allowed.
    pub no_set_id: bool,
}

/// Which argument the flags are, and one of them.
type Flags = Option<(u8, i32)>;

/// Calls with a mode, and which argument that is; for those that only sometimes make a file, also
/// their flags and the flag with which they do. Of each, those that this architecture has.
const WITH_MODE: [(&str, u8, Flags); 13] = [
    ("chmod", 1, None),
    ("fchmod", 1, None),
    ("fchmodat", 2, None),
    ("fchmodat2", 2, None),
    ("mkdir", 1, None),
    ("mkdirat", 2, None),
    ("mknod", 1, None),
    ("mknodat", 2, None),
    ("creat", 1, None),
    ("open", 2, Some((1, libc::O_CREAT))),
    ("open", 2, Some((1, TMPFILE))),
    ("openat", 3, Some((2, libc::O_CREAT))),
    ("openat", 3, Some((2, TMPFILE))),
];

/// The bit of `O_TMPFILE` that is not `O_DIRECTORY`.
const TMPFILE: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;

/// Calls that take further calls from memory that no filter sees.
const HIDE_MODES: [i64; 3] = [
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
];

/// The rules that keep files from becoming set-user-id or set-group-id. Modes and flags are 32 bits
/// wide: what is above them is the caller's to fill and the kernel's to ignore.
fn set_id_rules() -> std::result::Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError>
{
    let bit = |argument: u8, bit: u64| {
        SeccompCondition::new(
            argument,
            SeccompCmpArgLen::Dword,
            SeccompCmpOp::MaskedEq(bit),
            bit,
        )
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    for (name, mode, flags) in WITH_MODE {
        let Some(call) = number(name) else { continue };
        for set_id in [libc::S_ISUID, libc::S_ISGID] {
            let mut conditions = vec![bit(mode, u64::from(set_id))?];
            if let Some((argument, flag)) = flags {
                conditions.push(bit(argument, flag as u64)?);
            }
            rules
                .entry(call)
                .or_default()
                .push(SeccompRule::new(conditions)?);
        }
    }
    rules.extend(HIDE_MODES.iter().map(|call| (*call, Vec::new())));
    // In a user namespace of its own a process has every capability, those that are withheld too:
    // an overlay there copies a file of the image up into a directory of the host, bits and all.
    // (`clone3` is not there at all.)
    for call in [libc::SYS_clone, libc::SYS_unshare] {
        rules.insert(call, vec![new_user_namespace()?]);
    }
    Ok(rules)
}

/// Matches `clone(2)` and `unshare(2)` where they ask for a user namespace.
fn new_user_namespace() -> std::result::Result<SeccompRule, seccompiler::BackendError> {
    let flag = libc::CLONE_NEWUSER as u64;
    SeccompRule::new(vec![SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(flag),
        flag,
    )?])
}

/// Sockets that reach past every namespace: of the machine that this one is a guest of (vsock(7)),
/// and of the kernel's own ciphers, which attacks on it have come through.
const FAMILIES: [i32; 2] = [libc::AF_VSOCK, libc::AF_ALG];

/// The filter, compiled; none where nothing is refused. Make it before forking; install it last.
///
/// # Errors
/// When this machine's architecture is unknown to the compiler of filters.
pub fn filter(changes: Changes<'_>) -> Result<BpfProgram> {
    if changes.unconfined && changes.deny.is_empty() && !changes.no_set_id {
        return Ok(Vec::new());
    }
    let compile = || -> std::result::Result<BpfProgram, seccompiler::BackendError> {
        let refused = REFUSED
            .iter()
            .filter(|call| !changes.unconfined && !changes.allow.contains(call));
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
            refused.map(|call| (*call, Vec::new())).collect();
        // A namespace of one's own is where unprivileged attacks on the kernel begin.
        if !changes.unconfined && !changes.allow.contains(&libc::SYS_clone) {
            rules.insert(libc::SYS_clone, vec![new_user_namespace()?]);
        }
        if !changes.unconfined && !changes.allow.contains(&libc::SYS_socket) {
            let is = |family: &i32| {
                let condition = SeccompCondition::new(
                    0,
                    SeccompCmpArgLen::Dword,
                    SeccompCmpOp::Eq,
                    *family as u64,
                )?;
                SeccompRule::new(vec![condition])
            };
            rules.insert(
                libc::SYS_socket,
                FAMILIES
                    .iter()
                    .map(is)
                    .collect::<std::result::Result<_, _>>()?,
            );
        }
        if changes.no_set_id {
            for (call, more) in set_id_rules()? {
                match rules.get_mut(&call) {
                    // Refused whatever its arguments already.
                    Some(known) if known.is_empty() => {}
                    Some(known) if !more.is_empty() => known.extend(more),
                    _ => drop(rules.insert(call, more)),
                }
            }
        }
        // Last: a call without conditions is refused whatever its arguments.
        rules.extend(changes.deny.iter().map(|call| (*call, Vec::new())));
        let arch = std::env::consts::ARCH.try_into()?;
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
    };
    let mut program = compile()
        .map_err(io::Error::other)
        .doing(|| "compile the system call filter")?;
    prepend(&mut program, changes.no_set_id);
    Ok(program)
}

/// A filter for a process that is to do one thing: only `calls` are allowed, by their names; those
/// that this architecture lacks are left out. Of `socket` only IP is, and no memory becomes
/// executable. Everything else gives `EPERM`.
///
/// # Errors
/// When this machine's architecture is unknown to the compiler of filters.
pub fn only(calls: &[&str]) -> Result<BpfProgram> {
    let compile = || -> std::result::Result<BpfProgram, seccompiler::BackendError> {
        let is = |argument, operator, value| {
            let condition =
                SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
            SeccompRule::new(vec![condition])
        };
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
        for call in calls.iter().filter_map(|name| number(name)) {
            let conditions = match call {
                libc::SYS_socket => vec![
                    is(0, SeccompCmpOp::Eq, libc::AF_INET as u64)?,
                    is(0, SeccompCmpOp::Eq, libc::AF_INET6 as u64)?,
                ],
                libc::SYS_mmap | libc::SYS_mprotect => {
                    let executable = libc::PROT_EXEC as u64;
                    vec![is(2, SeccompCmpOp::MaskedEq(executable), 0)?]
                }
                _ => Vec::new(),
            };
            rules.insert(call, conditions);
        }
        let arch = std::env::consts::ARCH.try_into()?;
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, refuse, SeccompAction::Allow, arch)?.try_into()
    };
    compile()
        .map_err(io::Error::other)
        .doing(|| "compile the system call filter")
}

/// The compiler of filters checks the architecture and matches numbers. Two things have to come
/// before: `clone3` hides its flags behind a pointer, so it is "not there" (`ENOSYS`, and the C
/// library falls back to `clone`), and so is `openat2` where it could hide a mode; and x86-64 has a
/// second set of numbers, x32, that would slip past every one above.
fn prepend(program: &mut BpfProgram, no_set_id: bool) {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const X32: u32 = 0x4000_0000;
    let not_there = 0x0005_0000 | libc::ENOSYS as u32; // SECCOMP_RET_ERRNO
    let hidden = if no_set_id {
        libc::SYS_openat2
    } else {
        libc::SYS_clone3
    };
    let prologue = [
        sock_filter {
            code: LOAD_NUMBER,
            jt: 0,
            jf: 0,
            k: 0,
        },
        sock_filter {
            code: JUMP_EQUAL,
            jt: 2,
            jf: 0,
            k: libc::SYS_clone3 as u32,
        },
        sock_filter {
            code: JUMP_EQUAL,
            jt: 1,
            jf: 0,
            k: hidden as u32,
        },
        sock_filter {
            code: JUMP_GREATER_EQUAL,
            jt: 0,
            jf: 1,
            k: X32,
        },
        sock_filter {
            code: RETURN,
            jt: 0,
            jf: 0,
            k: not_there,
        },
    ];
    program.splice(0..0, prologue);
}

/// Installs a filter on this process, for good.
///
/// # Errors
/// What `seccomp(2)` gives.
pub fn install(filter: &[Instruction]) -> Result<()> {
    if filter.is_empty() {
        return Ok(());
    }
    seccompiler::apply_filter(filter)
        .map_err(io::Error::other)
        .doing(|| "install the system call filter")
}

/// As [`install`], also on the threads that are there.
///
/// # Errors
/// What `seccomp(2)` gives.
pub fn install_on_every_thread(filter: &[Instruction]) -> Result<()> {
    seccompiler::apply_filter_all_threads(filter)
        .map_err(io::Error::other)
        .doing(|| "install the system call filter on every thread")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_with_a_mode_is_known_here() {
        for (name, ..) in WITH_MODE {
            assert!(
                number(name).is_some() || cfg!(not(target_arch = "x86_64")),
                "{name}"
            );
        }
    }

    #[test]
    fn unconfined_is_no_filter_unless_something_is_to_be_refused() {
        let unconfined = Changes {
            unconfined: true,
            ..Changes::default()
        };
        assert!(filter(unconfined).expect("compiles").is_empty());
        assert!(
            !filter(Changes {
                no_set_id: true,
                ..unconfined
            })
            .expect("compiles")
            .is_empty()
        );
    }
}
