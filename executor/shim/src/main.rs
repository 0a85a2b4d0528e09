//! `tank-shim`: one small single-threaded process a pod.
//!
//! It is the parent of the pod's containers, holds their namespaces open, writes their logs and serves their
//! terminals. It decides nothing: `tankd` tells it what to do ([`tank_proto::shim`]) and may die and come back
//! meanwhile. When the shim dies, its containers die with it (`PR_SET_PDEATHSIG`), and so do the namespaces.
//!
//! * [`forkserver`]: where shims come from.
//! * [`pod`]: the loop, and everything it waits for.
//! * [`container`]: from a specification to a running main process.
//! * [`exec`]: a second process inside a running container.
//! * [`log`]: what containers print, as lines in a bounded file.
//! * [`relay`]: the main process's terminal, and whoever is attached to it.

#![forbid(unsafe_code)]

mod container;
mod exec;
mod forkserver;
mod log;
mod pod;
mod relay;

use std::process::ExitCode;

/// Serves as the fork server, from which every shim is made.
fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("tank-shim {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    // Told apart from the shims in a list of processes.
    let _ = rustix::thread::set_name(c"tank-forkserver");
    match forkserver::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tank-shim is started by tankd, with a socket as its standard input: {error}");
            ExitCode::FAILURE
        }
    }
}

/// An error and everything behind it on one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
