//! Signals: their names and numbers, and what a program expects of them.

/// All signals back to their default action and none blocked, as a program expects to be started.
pub fn reset_signals() {
    // SAFETY: sets dispositions and the mask of this single-threaded process; no handler is
    // installed.
    unsafe {
        for number in 1..=64 {
            libc::signal(number, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// A file that becomes larger than `RLIMIT_FSIZE` lets is an error (`EFBIG`), and not this process's end (setrlimit(2)).
pub fn ignore_file_size_signal() {
    // SAFETY: sets one disposition of this single-threaded process; no handler is installed.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// What others may not do with a file that a program makes, as it expects that: 022, whatever the service manager gave the daemon.
pub fn reset_umask() {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

/// No process of a container is spared, or chosen, before the host's own when memory runs out, whatever the service manager gave
/// the daemon. Where that can't be written, it is as it was: only a value above 0 may need a capability for it.
pub fn reset_oom_score() {
    let _ = std::fs::write("/proc/self/oom_score_adj", "0");
}

/// The name of a signal, `SIGTERM`, or its number.
pub fn signal_name(signal: i32) -> String {
    nix::sys::signal::Signal::try_from(signal)
        .map_or_else(|_| signal.to_string(), |known| known.as_str().to_owned())
}

/// The number of a signal given as `SIGTERM`, `TERM`, `SIGRTMIN+3` or `15`.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") {
        upper
    } else {
        format!("SIG{upper}")
    };
    if let Some(offset) = full.strip_prefix("SIGRTMIN") {
        let offset = if offset.is_empty() {
            Some(0)
        } else {
            offset.strip_prefix('+')?.parse::<i32>().ok()
        }?;
        return (0..=30)
            .contains(&offset)
            .then(|| libc::SIGRTMIN() + offset);
    }
    full.parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (name, number) in [
            ("SIGTERM", 15),
            ("quit", 3),
            ("9", 9),
            ("SIGRTMIN+3", libc::SIGRTMIN() + 3),
        ] {
            assert_eq!(signal_number(name), Some(number), "{name}");
        }
        for bad in ["", "SIG", "SIGNOPE", "0", "65", "SIGRTMIN+99", "SIGRTMIN-1"] {
            assert_eq!(signal_number(bad), None, "{bad}");
        }
        assert_eq!(signal_name(9), "SIGKILL");
    }
}
