//! The system call filter: by default, everything is allowed but what reaches the kernel's own machinery.
//!
//! Thin by intent: user namespaces and the capability set already stop most of these; the filter takes away the
//! attack surface of asking. Refused calls give `EPERM`, or `ENOSYS` where programs have a fallback.

use crate::{Context, Result};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    sock_filter,
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
    name.parse::<syscalls::Sysno>().ok().map(|call| i64::from(call.id()))
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
}

/// The filter, compiled; none where nothing is refused. Make it before forking; install it last.
///
/// # Errors
/// When this machine's architecture is unknown to the compiler of filters.
pub fn filter(changes: Changes<'_>) -> Result<BpfProgram> {
    if changes.unconfined && changes.deny.is_empty() {
        return Ok(Vec::new());
    }
    let compile = || -> std::result::Result<BpfProgram, seccompiler::BackendError> {
        let refused = REFUSED.iter().filter(|call| !changes.unconfined && !changes.allow.contains(call));
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = refused.map(|call| (*call, Vec::new())).collect();
        // A namespace of one's own is where unprivileged attacks on the kernel begin.
        if !changes.unconfined && !changes.allow.contains(&libc::SYS_clone) {
            let new_user = libc::CLONE_NEWUSER as u64;
            let asks = SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(new_user), new_user)?;
            rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![asks])?]);
        }
        rules.extend(changes.deny.iter().map(|call| (*call, Vec::new())));
        let arch = std::env::consts::ARCH.try_into()?;
        let refuse = SeccompAction::Errno(libc::EPERM as u32);
        SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch)?.try_into()
    };
    let mut program = compile().map_err(io::Error::other).doing(|| "compile the system call filter")?;
    prepend(&mut program);
    Ok(program)
}

/// The compiler of filters checks the architecture and matches numbers. Two things have to come before: `clone3`
/// hides its flags behind a pointer, so it is "not there" (`ENOSYS`, and the C library falls back to `clone`); and
/// x86-64 has a second set of numbers, x32, that would slip past every one above.
fn prepend(program: &mut BpfProgram) {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const JUMP_GREATER_EQUAL: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const X32: u32 = 0x4000_0000;
    let not_there = 0x0005_0000 | libc::ENOSYS as u32; // SECCOMP_RET_ERRNO
    let prologue = [
        sock_filter { code: LOAD_NUMBER, jt: 0, jf: 0, k: 0 },
        sock_filter { code: JUMP_EQUAL, jt: 1, jf: 0, k: libc::SYS_clone3 as u32 },
        sock_filter { code: JUMP_GREATER_EQUAL, jt: 0, jf: 1, k: X32 },
        sock_filter { code: RETURN, jt: 0, jf: 0, k: not_there },
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
    seccompiler::apply_filter(filter).map_err(io::Error::other).doing(|| "install the system call filter")
}
