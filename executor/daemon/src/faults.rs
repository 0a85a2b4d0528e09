//! Where the daemon can be made to die, for the tests that prove it may die anywhere.
//!
//! In a debug build, `TANKD_DIE_AT=n` ends the process at the n-th boundary it comes to after it
//! began to serve, as `kill -9` would; `TANKD_COUNT_TO=FILE` writes how many there were.
//! `TANKD_HOLD_AT=n` makes `TANKD_HOLD=FILE` at the n-th one and goes on when it is gone (or after
//! a minute). Instead of a number both may be what a boundary is called. A release build has none of this.

/// A boundary: between two steps, or two writes of the store.
#[cfg(debug_assertions)]
#[expect(
    clippy::disallowed_methods,
    reason = "a test holds the whole daemon here"
)]
pub fn boundary(what: &str) {
    #[cfg(test)]
    unit::boundary();
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::SeqCst) + 1;
    if let Some(path) = std::env::var_os("TANKD_COUNT_TO") {
        let _ = std::fs::write(path, count.to_string());
    }
    let is_at = |name: &str| {
        let wanted = std::env::var(name).ok();
        wanted.is_some_and(|wanted| wanted == what || wanted.parse() == Ok(count))
    };
    if let Some(path) = std::env::var_os("TANKD_HOLD").filter(|_| is_at("TANKD_HOLD_AT")) {
        eprintln!("tankd: waits at boundary {count}: {what}");
        let _ = std::fs::write(&path, what);
        let gone = || !std::path::Path::new(&path).exists();
        let _ = (0..6_000).find(|_| {
            std::thread::sleep(std::time::Duration::from_millis(10));
            gone()
        });
    }
    if is_at("TANKD_DIE_AT") {
        eprintln!("tankd: dies at boundary {count}: {what}");
        // SIGKILL unwinds and flushes nothing, and no client gets an answer.
        let _ =
            rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        loop {
            std::thread::park();
        }
    }
}

#[cfg(not(debug_assertions))]
pub fn boundary(_what: &str) {}

/// The same for unit tests: what a thread is at ends at a boundary, and the thread goes on.
#[cfg(test)]
pub mod unit {
    use std::{
        cell::Cell,
        panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    };

    thread_local! {
        static LEFT: Cell<Option<u32>> = const { Cell::new(None) };
    }

    struct Ended;

    pub(super) fn boundary() {
        match LEFT.get() {
            Some(1) => {
                LEFT.set(None);
                // Without the message of a panic: it is no failure.
                resume_unwind(Box::new(Ended));
            }
            left => LEFT.set(left.map(|left| left - 1)),
        }
    }

    /// Does it up to the `count`-th boundary. None: it was ended there.
    pub fn up_to<T>(count: u32, work: impl FnOnce() -> T) -> Option<T> {
        LEFT.set(Some(count));
        let done = catch_unwind(AssertUnwindSafe(work));
        LEFT.set(None);
        match done {
            Ok(done) => Some(done),
            Err(why) if why.is::<Ended>() => None,
            Err(why) => resume_unwind(why),
        }
    }
}
