//! `tank-shim`: one small single-threaded process a pod.
//!
//! It is the parent of the pod's containers, holds their namespaces open, writes their logs and
//! serves their terminals. It decides nothing: it carries out the requests
//! ([`tank_proto::shim`]) of `tankd`, which may die and come back meanwhile.
//!
//! **When a shim dies, all of its pod dies.** It is the first process of a pid namespace, and those
//! of its containers are below that one: when it ends, for whatever reason, the kernel ends every
//! process in them before its end is complete (pid_namespaces(7), "The namespace init process").
//! The descriptors of the other namespaces go with it. It takes no watcher: neither `tankd`,
//! which may be dead as well, nor another process for each pod. `PR_SET_PDEATHSIG` does not do: the
//! kernel clears it when a main process changes its user, as every `su`, `gosu` or `setpriv` in an
//! entry point does. The price is that a shim's own pids are not the host's: those it sends are read
//! from `/proc` ([`tank_sys::process::visible_pid`]).
//!
//! **What a container could get hold of** while a process enters it, by a link to `/proc/self` or
//! by looking at its `/proc`, is taken away beforehand, each by itself enough. Every process has
//! only those descriptors open that it was given by name: the fork server from its first line, a
//! shim from the fork, a process on its way into a container before a path of that is resolved, and
//! a program its three streams. Paths are resolved beneath the container's root and over no magic
//! link ([`tank_sys::beneath`]). `/proc/self/exe` can neither be executed nor written
//! ([`tank_sys::program`]). Until a program is executed, nobody without privileges over the host
//! may look at its process ([`tank_sys::process::hide`]).
//!
//! * [`forkserver`]: where shims come from.
//! * [`pod`]: the loop, everything it waits for, and the requests it answers.
//! * [`start`]: from a specification to a running main process.
//! * [`exec`]: a second process inside a running container.
//! * [`copy`]: one that copies files, and executes nothing.
//! * [`launch`]: from a fork to an executed program, for both; [`handshake`]: what is due on the way.
//! * [`run`]: a container that runs or has run.
//! * [`log`]: what containers print, as lines in a bounded file.
//! * [`relay`]: the main process's terminal, and the clients that are attached to it.

#![forbid(unsafe_code)]

mod copy;
mod exec;
mod failure;
mod forkserver;
mod handshake;
mod launch;
mod log;
mod pod;
mod relay;
mod run;
mod start;
mod sysctls;

use std::process::ExitCode;
use tank_sys::{process, program};

/// Serves as the fork server, from which every shim is made.
fn main() -> ExitCode {
    let argument = std::env::args().nth(1);
    if argument.as_deref() == Some("--version") {
        println!("tank-shim {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match out_of_reach(argument.as_deref())
        .map_err(|e| tank_sys::with_causes(&e))
        .and_then(|()| serve())
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "tank-shim is started by tankd, with a socket as its standard input: {error}"
            );
            ExitCode::FAILURE
        }
    }
}

/// Executes this program once more, from a mount that was made for it (its argument is then the
/// number of that), and keeps nothing that is not of this process's own making.
fn out_of_reach(mount: Option<&str>) -> tank_sys::Result<()> {
    match mount {
        None => match program::execute_detached(c"tank-shim")? {},
        Some(mount) => program::seal(mount)?,
    }
    process::close_descriptors_but(&[])?;
    process::hide()
}

fn serve() -> Result<(), String> {
    // A name of its own beside the shims in a list of processes.
    let _ = rustix::thread::set_name(c"tank-forkserver");
    // What spares the daemon when memory runs out does not spare the containers.
    process::reset_oom_score();
    forkserver::serve().map_err(|e| e.to_string())
}
