//! A pager for what may be longer than a terminal, as git has it.
//!
//! *Flow*: a command whose output is read in pages says so before it runs ([`want`]); the first that it prints starts the pager,
//! all that it prints goes there, and [`finish`] waits for it. *Guarantees*: standard output is a terminal, or there is no
//! pager; the command ends with its own status, whatever becomes of the pager; whoever leaves the pager before the end is
//! not waited for; a pager that can't be started loses nothing.

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
};

/// What is used where no variable names another one.
const PAGER: &str = "less";

/// Options for `less` where `LESS` has none: to end where all fits (F), to pass colours (R), to leave the screen as it is (X).
const LESS: &str = "FRX";

/// What is kept to be printed after all: more than this is taken by a pager that is there, since a pipe holds 64 KiB.
const KEPT: usize = 256 << 10;

static STATE: Mutex<State> = Mutex::new(State::Off);

enum State {
    /// All is printed to standard output.
    Off,
    /// This pager is started with what is printed first.
    Wanted(OsString),
    Running {
        child: Child,
        to: ChildStdin,
        /// All that it was given, as long as it may turn out that it can't be started.
        kept: Option<Vec<u8>>,
    },
    /// Somebody has left it: what is printed from here on is read by nobody.
    Left,
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has what is printed from now on read in pages, if it goes to a terminal and the environment names a pager or there is one.
pub fn want() {
    let is_dumb = env::var_os("TERM").is_none_or(|term| term.is_empty() || term == "dumb");
    if !super::is_terminal() || is_dumb {
        return;
    }
    let chosen = env::var_os("TANK_PAGER").or_else(|| env::var_os("PAGER"));
    if let Some(pager) = choose(chosen, is_there) {
        *state() = State::Wanted(pager);
    }
}

/// The pager: the one that is named, which may be none, or the one that most hosts have.
fn choose(named: Option<OsString>, is_there: impl FnOnce(&str) -> bool) -> Option<OsString> {
    match named {
        Some(named) => {
            let is_none = |text: &str| matches!(text.trim(), "" | "cat");
            let is_none = named.to_str().is_some_and(is_none);
            (!is_none).then_some(named)
        }
        None => is_there(PAGER).then(|| PAGER.into()),
    }
}

fn is_there(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Prints, to the pager if there is one.
pub fn write(bytes: &[u8]) -> io::Result<()> {
    let mut state = state();
    if let State::Wanted(pager) = &*state {
        *state = start(pager);
    }
    let State::Running { to, kept, .. } = &mut *state else {
        return match &*state {
            State::Left => Ok(()),
            _ => io::stdout().write_all(bytes),
        };
    };
    let may_be_kept = |kept: &&mut Vec<u8>| kept.len() + bytes.len() <= KEPT;
    match kept.as_mut().filter(may_be_kept) {
        Some(kept) => kept.extend(bytes),
        None => *kept = None,
    }
    match to.write_all(bytes) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            let before = std::mem::replace(&mut *state, State::Left);
            if end(before)? {
                *state = State::Off;
            }
            Ok(())
        }
        other => other,
    }
}

/// Waits until the pager is left, and everything that was printed read.
pub fn finish() {
    let before = std::mem::replace(&mut *state(), State::Off);
    // Standard output is not there any more: nobody reads what is left.
    let _ = end(before);
}

/// Waits for a pager that gets no more; prints what one that could not be started was given. Gives whether it could not.
fn end(before: State) -> io::Result<bool> {
    let State::Running {
        mut child,
        to,
        kept,
    } = before
    else {
        return Ok(false);
    };
    drop(to);
    let ended = child.wait();
    match kept {
        Some(kept) if ended.is_ok_and(was_not_started) => {
            io::stdout().write_all(&kept)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}

/// What shells end with where there is no such program, or it can't be executed.
fn was_not_started(ended: ExitStatus) -> bool {
    matches!(ended.code(), Some(126 | 127))
}

/// By a shell, as `PAGER` is written (environ(7), git-var(1)): it may have options. The shell is the caller's own, with the
/// caller's rights; one that `sudo` gives a command of root's gets a `less` that executes no other program.
fn start(pager: &OsStr) -> State {
    let mut command = Command::new("sh");
    command.arg("-c").arg(pager).stdin(Stdio::piped());
    if env::var_os("LESS").is_none() {
        command.env("LESS", LESS);
    }
    if env::var_os("LV").is_none() {
        command.env("LV", "-c");
    }
    if env::var_os("SUDO_UID").is_some() {
        command.env("LESSSECURE", "1");
    }
    let Ok(mut child) = command.spawn() else {
        return State::Off;
    };
    // Ctrl-C is the pager's from here on: it stays until it is left, and so does its screen.
    let _ = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
    match child.stdin.take() {
        Some(to) => State::Running {
            child,
            to,
            kept: Some(Vec::new()),
        },
        None => State::Off,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pager_is_what_is_named_and_none_where_nothing_is() {
        let named = |text: &str| choose(Some(text.into()), |_| panic!("one is named"));
        assert_eq!(named("less -S"), Some("less -S".into()));
        assert_eq!((named(""), named(" "), named("cat")), (None, None, None));
        assert_eq!(choose(None, |name| name == "less"), Some("less".into()));
        assert_eq!(choose(None, |_| false), None);
    }
}
