//! What a service manager hands over and is notified of: the socket it listens at (sd_listen_fds(3)), that this daemon
//! serves, what it is at, and that it lives (sd_notify(3), sd_watchdog_enabled(3)). Without one all of this is nothing.

use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::{io, os::unix::net::UnixListener, path::Path};

/// How often it is said that this daemon lives, in parts of the time after which it counts as dead.
const TURNS: u32 = 3;

/// The socket that was handed over; None: there is none. To be called once, before anything else is opened.
///
/// # Errors
/// There are several, or it is none of the kind that is served here.
pub fn listener() -> Result<Option<UnixListener>, String> {
    let mut handed = ListenFd::from_env();
    if handed.len() > 1 {
        let count = handed.len();
        return Err(format!(
            "the service manager hands over {count} sockets, and one is served: `ListenStream=` once"
        ));
    }
    let at = |e: io::Error| format!("take the service manager's socket: {e}");
    let listener = match handed.len() {
        0 => None,
        _ => handed.take_unix_listener(0).map_err(at)?,
    };
    if let Some(listener) = &listener {
        listener.set_nonblocking(true).map_err(at)?;
    }
    Ok(listener)
}

/// Whether a socket that was handed over is bound at `path`, where clients look for it.
///
/// # Errors
/// A text that says where it is, and what to do.
pub fn check_place(listener: &UnixListener, path: &Path) -> Result<(), String> {
    let bound = listener.local_addr().ok();
    let bound = bound.as_ref().and_then(|address| address.as_pathname());
    // Its folder may be reached by a link, as `/var/run` is.
    let canonical = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match bound {
        Some(bound) if canonical(bound) == canonical(path) => Ok(()),
        bound => Err(format!(
            "the service manager's socket is {}, and {} is to be served: give both the same path, by `ListenStream=` \
             and `--socket`",
            bound.map_or_else(
                || "without a path".to_owned(),
                |bound| bound.display().to_string()
            ),
            path.display()
        )),
    }
}

/// Notifies that calls are answered from now on.
pub fn ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Notifies that this daemon ends, as it was asked to.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Notifies that this daemon lives, for as long as its runtime takes up tasks. The disk may be slow: that is nothing
/// that another start would mend.
pub async fn keep_alive() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        notify(&[NotifyState::Watchdog]);
        tokio::time::sleep(limit / TURNS).await;
    }
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "notify the service manager");
    }
}
