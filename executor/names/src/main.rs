//! `tank-names`: the name server of the pods, a process of its own without privileges.
//!
//! `tankd` binds the sockets, starts it, and hands it zones ([`tank_plan::target::Zone`]); it answers
//! from them and asks others for the rest. It outlives `tankd`: while that is killed, restarted or
//! upgraded, it answers on, and the next one finds it by its socket. Another process takes its place
//! by the same sockets, so no query is lost.
//!
//! * [`confine`]: what it gives up before it reads anything of anybody's.
//! * [`control`]: zones come and sockets go.
//! * [`server`]: the sockets on which it is asked.
//! * [`answer`]: from a query to what becomes of it.
//! * [`forward`]: asking others; [`relay`], [`cache`]: passing on what they said, and keeping it.
//! * [`limits`]: what each client may take.
//!
//! **Whose library does what.** Queries, and answers about pods, are read and written by
//! `hickory-proto`. What other servers answered is passed on as bytes ([`relay`] says why). Its server crate is not used: that one owns the sockets and a task for each
//! query, and has no place for what is needed here: a share for each client before a query is read,
//! bounds on connections, and an end that leaves what is not received yet to another process. Its
//! resolver would answer with records and not with the message that a client is to get.

#![forbid(unsafe_code)]

mod answer;
mod cache;
mod confine;
mod control;
mod forward;
mod limits;
mod relay;
mod server;

use confine::Filter;
use control::Control;
use server::Server;
use std::{
    io,
    net::{TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
    process::ExitCode,
    rc::Rc,
};
use tank_proto::names::{MAX_SOCKETS, Setup};
use tank_sys::{packet, process, with_causes};
use tokio::task::{JoinSet, LocalSet};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--version") {
        println!("tank-names {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "tank-names is started by tankd, with a socket as its standard input: {error}"
            );
            ExitCode::FAILURE
        }
    }
}

/// What it was handed.
struct Handed {
    setup: Setup,
    control: OwnedFd,
    listener: OwnedFd,
    sockets: Vec<OwnedFd>,
}

fn run() -> Result<(), String> {
    let (handed, filter) = take().map_err(|e| with_causes(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build();
    let runtime = runtime.map_err(|e| format!("begin to wait: {e}"))?;
    filter.install().map_err(|e| with_causes(&e))?;
    let local = LocalSet::new();
    let served = local.block_on(&runtime, serve(handed));
    served.map_err(|e| format!("serve: {e}"))
}

/// Takes what the daemon hands over, and gives everything else up.
fn take() -> tank_sys::Result<(Handed, Filter)> {
    use tank_sys::Context;
    process::close_descriptors_but(&[])?;
    let incomplete = || io::Error::from(io::ErrorKind::InvalidData);
    let stdin = std::io::stdin();
    let received = packet::receive(stdin.as_fd()).doing(|| "take the set-up")?;
    let (bytes, fds) = received
        .ok_or_else(incomplete)
        .doing(|| "take the set-up")?;
    let setup: Setup = serde_json::from_slice(&bytes).doing(|| "read the set-up")?;
    let mut fds = fds.into_iter();
    let mut next = || {
        fds.next()
            .ok_or_else(incomplete)
            .doing(|| "take the set-up")
    };
    let (root, listener) = (next()?, next()?);
    let cgroups: Vec<OwnedFd> = (0..setup.cgroups)
        .map(|_| next())
        .collect::<Result<_, _>>()?;
    let mut sockets: Vec<OwnedFd> = fds.collect();
    for _ in 0..setup.more {
        let received = packet::receive(stdin.as_fd()).doing(|| "take more sockets")?;
        let (_, further) = received
            .ok_or_else(incomplete)
            .doing(|| "take more sockets")?;
        sockets.extend(further);
        if sockets.len() > MAX_SOCKETS {
            return Err(incomplete()).doing(|| "take more sockets");
        }
    }
    let control = stdin.as_fd().try_clone_to_owned();
    let control = control.doing(|| "keep the socket to tankd")?;
    let filter = confine::confine(&setup, root, cgroups)?;
    let handed = Handed {
        setup,
        control,
        listener,
        sockets,
    };
    Ok((handed, filter))
}

/// Answers until it is asked to end. A task that fails ends all: `tankd` makes a new process, and
/// keeps the sockets meanwhile.
async fn serve(handed: Handed) -> io::Result<()> {
    let Handed {
        setup,
        control,
        listener,
        sockets,
    } = handed;
    let server = Rc::new(Server::new());
    let mut tasks: JoinSet<io::Result<()>> = JoinSet::new();
    for socket in &sockets {
        let own = socket.try_clone()?;
        rustix::io::ioctl_fionbio(&own, true)?;
        let server = Rc::clone(&server);
        if rustix::net::sockopt::socket_type(&own)? == rustix::net::SocketType::DGRAM {
            let socket = tokio::net::UdpSocket::from_std(UdpSocket::from(own))?;
            tasks.spawn_local(server.serve_udp(socket));
        } else {
            let socket = tokio::net::TcpListener::from_std(TcpListener::from(own))?;
            tasks.spawn_local(server.serve_tcp(socket));
        }
    }
    let daemon = Rc::new(Control::new(setup, Rc::clone(&server), sockets));
    Rc::clone(&daemon).spawn(control)?;
    tasks.spawn_local(daemon.accept(listener));
    let failed = async {
        loop {
            match tasks.join_next().await {
                // Its end has come.
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(error))) => return error,
                Some(Err(error)) => return io::Error::other(error),
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = server.ended() => Ok(()),
        error = failed => Err(error),
    }
}
