//! `tank-shim`: one small single-threaded process a pod.
//!
//! It is the parent of the pod's containers, holds their namespaces open, writes their logs and serves their
//! terminals. It decides nothing: `tankd` tells it what to do ([`tank_proto::shim`]) and may die and come back
//! meanwhile. When the shim dies, its containers die with it (`PR_SET_PDEATHSIG`), and so do the namespaces.
//!
//! * [`pod`]: the loop, and everything it waits for.
//! * [`container`]: from a specification to a running main process.
//! * [`exec`]: a second process inside a running container.
//! * [`log`]: what containers print, as lines in a bounded file.
//! * [`relay`]: the main process's terminal, and whoever is attached to it.

#![forbid(unsafe_code)]

mod container;
mod exec;
mod log;
mod pod;
mod relay;

use std::{
    io::{Read, Write},
    process::ExitCode,
};
use tank_proto::shim::Setup;

/// Reads a [`Setup`] from standard input, prints `ready` once the socket listens, and serves until told to end.
fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("tank-shim {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard output is read by tankd until it is closed: an error is the other thing said there.
            let _ = writeln!(std::io::stdout(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let mut text = String::new();
    std::io::stdin().take(1 << 20).read_to_string(&mut text).map_err(|e| format!("read the set-up: {e}"))?;
    let setup: Setup = serde_json::from_str(&text).map_err(|e| format!("read the set-up: {e}"))?;
    let pod = pod::Pod::set_up(setup).map_err(|e| describe(&e))?;
    pod.serve().map_err(|e| describe(&e))
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
