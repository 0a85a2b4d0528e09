//! `exec` and `attach`: the byte pump lives here, where the terminal is.

use crate::{
    args::{Exec, How, Run, split_target},
    client::Client,
    error::Error,
    progress::ProgressView,
    status::SIGNALLED,
    terminal::{self, Keys, Raw},
};
use rustix::{io::Errno, stdio};
use std::{
    io::{IsTerminal, Read, Write},
    os::fd::{AsFd, OwnedFd},
};
use tank_proto::{
    stream::{self, NoStream},
    terminal::{FromClient, FromShim, MAX_DATA},
    varlink::{AttachReply, ExecCall, ExecReply, Method, RunCall, RunReply},
};
use tank_sys::packet;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

pub async fn exec(client: &mut Client, args: Exec) -> Result<u8, Error> {
    let (pod, container) = split_target(&args.target);
    let terminal = has_terminal(&args.how)?;
    let size = terminal.then(terminal::size);
    let call = ExecCall {
        pod,
        container,
        argv: args.argv,
        env: with_term(args.how.env, terminal).into_iter().collect(),
        cwd: args.how.cwd,
        user: args.how.user,
        rows: size.map(|(rows, _)| rows),
        columns: size.map(|(_, columns)| columns),
    };
    if terminal {
        let (_, fds) = client
            .call_with::<ExecReply>(Method::Exec(call), Vec::new())
            .await?;
        return on_terminal(fds, Leaving::Detaches).await;
    }
    let (streams, pumps) = streams()?;
    let (_, fds) = client
        .call_with::<ExecReply>(Method::Exec(call), streams)
        .await?;
    let status = wait_for_end(&control_of(fds)?).await?;
    finish(pumps);
    Ok(status)
}

/// Whether a command has the caller's terminal. What can't be is refused before anything is asked.
fn has_terminal(how: &How) -> Result<bool, Error> {
    if let Some(cwd) = how.cwd.as_deref().filter(|cwd| !cwd.starts_with('/')) {
        return Err(Error::RelativeDirectory(cwd.to_owned()));
    }
    Ok(!how.no_tty && std::io::stdin().is_terminal() && std::io::stdout().is_terminal())
}

/// The socket on which the end of a command is said.
fn control_of(mut fds: Vec<OwnedFd>) -> Result<AsyncFd<OwnedFd>, Error> {
    if fds.is_empty() {
        return Err(Error::Answer("tankd sent no control socket"));
    }
    watch(fds.remove(0))
}

/// What the command wrote last may still be on its way to a terminal.
fn finish(pumps: Pumps) {
    for pump in pumps {
        let _ = pump.join();
    }
}

/// What becomes of a command when its client leaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// It goes on.
    Detaches,
    /// It ends: nothing is typed that leaves.
    Ends,
}

pub async fn run(client: &mut Client, args: Run) -> Result<u8, Error> {
    let (pod, container) = split_target(&args.target);
    let terminal = has_terminal(&args.how)?;
    let size = terminal.then(terminal::size);
    let call = RunCall {
        pod,
        container,
        argv: args.argv,
        entrypoint: args.entrypoint,
        env: with_term(args.how.env, terminal).into_iter().collect(),
        cwd: args.how.cwd,
        user: args.how.user,
        rows: size.map(|(rows, _)| rows),
        columns: size.map(|(_, columns)| columns),
        // The daemon knows whether a pod is called so.
        image: Some(args.target),
        base_dir: std::env::current_dir()
            .ok()
            .map(|dir| dir.display().to_string()),
        pull: args.pull.map(Into::into),
    };
    let (streams, pumps) = match terminal {
        true => Default::default(),
        false => streams()?,
    };
    let fds = started(client, call, streams).await?;
    if terminal {
        return on_terminal(fds, Leaving::Ends).await;
    }
    let status = with_signals(&control_of(fds)?).await?;
    finish(pumps);
    Ok(status)
}

/// Has it started, and draws what that takes. Without a terminal nothing is said: standard error is the command's.
async fn started(
    client: &mut Client,
    call: RunCall,
    streams: Vec<OwnedFd>,
) -> Result<Vec<OwnedFd>, Error> {
    let mut view = std::io::stderr().is_terminal().then(ProgressView::new);
    client
        .send(Method::Run(call), streams, view.is_some())
        .await?;
    let received = loop {
        match client.receive::<RunReply>().await {
            Ok((reply, _, true)) => {
                if let (Some(view), Some(progress)) = (&mut view, &reply.progress) {
                    view.show(progress);
                }
            }
            Ok((_, fds, false)) => break Ok(fds),
            Err(error) => break Err(error),
        }
    };
    if let Some(mut view) = view {
        view.finish();
    }
    received
}

/// Waits for the end of what is run by hand, and passes on what this command is asked to end by; asked a second
/// time, it ends at once, and the container with it.
async fn with_signals(control: &AsyncFd<OwnedFd>) -> Result<u8, Error> {
    let watch = |kind| signal(kind).map_err(|e| Error::failed("wait for signals", e));
    let mut interrupted = watch(SignalKind::interrupt())?;
    let mut terminated = watch(SignalKind::terminate())?;
    let mut hung_up = watch(SignalKind::hangup())?;
    let mut asked = false;
    loop {
        let number = tokio::select! {
            biased;
            status = wait_for_end(control) => return status,
            _ = interrupted.recv() => SignalKind::interrupt(),
            _ = terminated.recv() => SignalKind::terminate(),
            _ = hung_up.recv() => SignalKind::hangup(),
        };
        let number = u8::try_from(number.as_raw_value()).unwrap_or_default();
        if asked {
            return Ok(SIGNALLED.saturating_add(number));
        }
        asked = true;
        send(control, &FromClient::Signal(number)).await;
    }
}

/// The caller's `TERM` goes along with its terminal, unless it says otherwise.
fn with_term(mut env: Vec<(String, String)>, terminal: bool) -> Vec<(String, String)> {
    if terminal
        && !env.iter().any(|(key, _)| key == "TERM")
        && let Ok(term) = std::env::var("TERM")
    {
        env.push(("TERM".to_owned(), term));
    }
    env
}

type Pumps = Vec<std::thread::JoinHandle<()>>;

/// The caller's own streams where they are pipes or files. A terminal is never handed into a
/// container (a process there could push keys into it): such a stream is pumped through a pipe.
fn streams() -> Result<(Vec<OwnedFd>, Pumps), Error> {
    let mut pumps = Vec::new();
    let own = [stdio::stdin(), stdio::stdout(), stdio::stderr()];
    let mut handed = Vec::new();
    for (index, own) in own.into_iter().enumerate() {
        if !rustix::termios::isatty(own) {
            stream::check(own).map_err(|why| not_a_stream(index, why))?;
            let copy = rustix::io::fcntl_dupfd_cloexec(own, 3);
            handed.push(copy.map_err(|e| Error::failed("pass a stream on", e))?);
            continue;
        }
        let (read, write) =
            tank_sys::namespace::pipe().map_err(|e| Error::failed("make a pipe", e))?;
        let (ours, theirs) = if index == 0 {
            (write, read)
        } else {
            (read, write)
        };
        handed.push(theirs);
        let ours = std::fs::File::from(ours);
        match index {
            // Ends with the process: it may wait for a key for ever.
            0 => drop(std::thread::spawn(move || {
                drop(std::io::copy(&mut std::io::stdin(), &mut { ours }))
            })),
            1 => pumps.push(std::thread::spawn(move || {
                drop(std::io::copy(&mut { ours }, &mut std::io::stdout()))
            })),
            _ => pumps.push(std::thread::spawn(move || {
                drop(std::io::copy(&mut { ours }, &mut std::io::stderr()))
            })),
        }
    }
    Ok((handed, pumps))
}

/// The command's stream would be a way to more than what is read and written.
fn not_a_stream(index: usize, why: NoStream) -> Error {
    let name = stream::NAMES.get(index).copied().unwrap_or("a stream");
    Error::NotAStream { name, why }
}

fn watch(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, Error> {
    rustix::io::ioctl_fionbio(&fd, true).map_err(|e| Error::failed("watch a descriptor", e))?;
    packet::watch(fd).map_err(|e| Error::failed("watch a descriptor", e))
}

/// Receives a packet; none: the shim has gone.
async fn receive(socket: &AsyncFd<OwnedFd>) -> Option<FromShim> {
    loop {
        let mut guard = socket.readable().await.ok()?;
        match guard.try_io(|socket| packet::receive(socket.as_fd())) {
            Err(_would_block) => {}
            Ok(received) => return FromShim::decode(&received.ok()??.0),
        }
    }
}

async fn wait_for_end(control: &AsyncFd<OwnedFd>) -> Result<u8, Error> {
    loop {
        match receive(control).await {
            Some(FromShim::Exited(status)) => return Ok(clamp(status)),
            Some(FromShim::Output(_)) => {}
            None => return Err(Error::PodGone),
        }
    }
}

fn clamp(status: i32) -> u8 {
    u8::try_from(status).unwrap_or(255)
}

/// Keys as they are typed, from a thread that blocks on the terminal.
fn keys() -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = std::io::stdin().read(&mut buffer) {
            if sender.blocking_send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// Ends the whole process with a status, past the thread that waits for keys.
fn leave(raw: Raw, status: u8, note: Option<&str>) -> ! {
    drop(raw);
    let _ = std::io::stdout().flush();
    if let Some(note) = note {
        eprintln!("\r\n{note}");
    }
    std::process::exit(status.into())
}

async fn on_terminal(fds: Vec<OwnedFd>, leaving: Leaving) -> Result<u8, Error> {
    let Ok([control, master]) = <[OwnedFd; 2]>::try_from(fds) else {
        return Err(Error::Answer("tankd sent no terminal"));
    };
    let (control, master) = (watch(control)?, watch(master)?);
    let mut raw = Raw::enter().map_err(|e| Error::failed("use the terminal", e))?;
    let mut typed = keys();
    let mut detacher = Keys::default();
    let mut resized =
        signal(SignalKind::window_change()).map_err(|e| Error::failed("watch the terminal", e))?;
    let mut buffer = vec![0; MAX_DATA];
    let mut hung_up = false;
    loop {
        tokio::select! {
            // Output first: what was printed before the end is shown before the end.
            biased;
            ready = master.readable(), if !hung_up => {
                let Ok(mut guard) = ready else { hung_up = true; continue };
                match guard.try_io(|master| Ok(rustix::io::read(master.as_fd(), &mut buffer)?)) {
                    Err(_would_block) => {}
                    Ok(Ok(length @ 1..)) => raw.print(&buffer[..length]),
                    Ok(Ok(0) | Err(_)) => hung_up = true,
                }
            }
            message = receive(&control) => match message {
                Some(FromShim::Exited(status)) => {
                    drain(&mut raw, master.get_ref(), &mut buffer);
                    leave(raw, clamp(status), None)
                }
                Some(FromShim::Output(_)) => {}
                None => {
                    drop(raw);
                    return Err(Error::PodGone);
                }
            },
            input = typed.recv() => {
                let typed = input.map_or_else(|| terminal::Typed { bytes: vec![4], detach: false }, |input| detacher.push(&input));
                write_all(&master, &typed.bytes).await;
                if typed.detach && leaving == Leaving::Detaches {
                    leave(raw, 0, Some("detached: the command goes on"));
                }
            }
            _ = resized.recv() => {
                let (rows, columns) = terminal::size();
                let _ = tank_sys::pty::resize(master.get_ref().as_fd(), rows, columns);
            }
        }
    }
}

/// Prints what is still in a terminal whose command has ended.
fn drain(raw: &mut Raw, master: &OwnedFd, buffer: &mut [u8]) {
    loop {
        match rustix::io::read(master, &mut *buffer) {
            Ok(length @ 1..) => raw.print(&buffer[..length]),
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}

async fn write_all(master: &AsyncFd<OwnedFd>, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let Ok(mut guard) = master.writable().await else {
            return;
        };
        match guard.try_io(|master| Ok(rustix::io::write(master.as_fd(), bytes)?)) {
            Err(_would_block) => {}
            Ok(Ok(length)) => bytes = &bytes[length..],
            Ok(Err(_)) => return,
        }
    }
}

pub async fn attach(client: &mut Client, target: &str) -> Result<u8, Error> {
    let (pod, container) = split_target(target);
    let (_, mut fds) = client
        .call_with::<AttachReply>(Method::Attach { pod, container }, Vec::new())
        .await?;
    if fds.is_empty() {
        return Err(Error::Answer("tankd sent no terminal"));
    }
    let socket = watch(fds.remove(0))?;
    if !std::io::stdin().is_terminal() {
        return Err(Error::NotATty);
    }
    let mut raw = Raw::enter().map_err(|e| Error::failed("use the terminal", e))?;
    let mut typed = keys();
    let mut detacher = Keys::default();
    let mut resized =
        signal(SignalKind::window_change()).map_err(|e| Error::failed("watch the terminal", e))?;
    resize(&socket).await;
    loop {
        tokio::select! {
            biased;
            message = receive(&socket) => match message {
                Some(FromShim::Output(bytes)) => raw.print(&bytes),
                Some(FromShim::Exited(status)) => leave(raw, clamp(status), None),
                None => {
                    drop(raw);
                    return Err(Error::PodGone);
                }
            },
            input = typed.recv() => {
                let Some(input) = input else { leave(raw, 0, Some("detached: the container goes on")) };
                let typed = detacher.push(&input);
                if !typed.bytes.is_empty() {
                    send(&socket, &FromClient::Input(typed.bytes)).await;
                }
                if typed.detach {
                    leave(raw, 0, Some("detached: the container goes on"));
                }
            }
            _ = resized.recv() => resize(&socket).await,
        }
    }
}

async fn resize(socket: &AsyncFd<OwnedFd>) {
    let (rows, columns) = terminal::size();
    if rows > 0 && columns > 0 {
        send(socket, &FromClient::Resize { rows, columns }).await;
    }
}

async fn send(socket: &AsyncFd<OwnedFd>, message: &FromClient) {
    let packet = message.encode();
    loop {
        let Ok(mut guard) = socket.writable().await else {
            return;
        };
        if guard
            .try_io(|socket| packet::send(socket.as_fd(), &packet, &[]))
            .is_ok()
        {
            return;
        }
    }
}
