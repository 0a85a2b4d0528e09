//! One question to one run of a container: whether a probe of it succeeds. When probes are asked,
//! and what follows from the answers, is the floor's ([`super`]).

use super::Target;
use crate::pods::{self, NoShim, Pods, RunId, unexpected};
use std::{
    fs::OpenOptions,
    io,
    net::SocketAddr,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};
use tank_model::spec::Probe;
use tank_proto::{
    shim::{ExecSpec, Reply, Request},
    terminal::FromShim,
};
use tank_sys::{packet, with_causes};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, unix::AsyncFd},
    net::TcpStream,
    time::{sleep, timeout},
};

/// The least time between two questions.
const LEAST_PERIOD: Duration = Duration::from_millis(10);

/// Why a probe does not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error("no answer in {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error("the pod has no address")]
    NoAddress,
    #[error("connect to {address}: {source}")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("speak to {address}: {source}")]
    Speak {
        address: SocketAddr,
        source: io::Error,
    },
    #[error("{0} does not speak HTTP")]
    NotHttp(SocketAddr),
    #[error("{address} answers with status {status}")]
    Status { address: SocketAddr, status: u16 },
    #[error("its command ended with status {0}")]
    Exited(i32),
    #[error("its command can't be run: {}", with_causes(.0))]
    Exec(ExecError),
    /// The pod's shim is gone, or does not answer: nobody was asked.
    #[error("the pod's shim did not ask it: {}", with_causes(.0))]
    NotAsked(ExecError),
}

/// Why a probe's command was not run, or how it ended is not known.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Pod(#[from] pods::Error),
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    #[error("run a probe")]
    NoShim(#[from] NoShim),
    #[error("run a probe")]
    Io(#[from] io::Error),
    #[error("run a probe")]
    Specification(#[from] serde_json::Error),
    #[error("run a probe")]
    NoStatus(#[from] NoStatus),
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("its shim does not say how it ended")]
pub struct NoStatus;

impl ProbeError {
    /// Whether it says nothing of the container.
    pub fn is_unknown(&self) -> bool {
        matches!(self, Self::NotAsked(_))
    }
}

/// Asks once, for as long as the probe may take. A command has that time from when it runs.
pub async fn ask(pods: &Pods, target: &Target, probe: &Probe) -> Result<(), ProbeError> {
    let limit = probe.timeout.duration();
    let asked = match &probe.exec {
        Some(command) => {
            let running = execute(pods, &target.run.0, command).await;
            let answers = || {
                let shim = pods.get(&target.run.0.0);
                shim.is_some_and(|shim| shim.silence().is_none())
            };
            let running = running.map_err(|failure| match answers() {
                true => ProbeError::Exec(failure),
                false => ProbeError::NotAsked(failure),
            })?;
            timeout(limit, status_of(running)).await
        }
        None => timeout(limit, connect(target, probe)).await,
    };
    asked.unwrap_or(Err(ProbeError::Timeout(limit)))
}

/// Waits until the next question.
pub async fn pause(probe: &Probe) {
    sleep(probe.period.duration().max(LEAST_PERIOD)).await;
}

/// Asks over the pod's network.
async fn connect(target: &Target, probe: &Probe) -> Result<(), ProbeError> {
    let (run, _) = &target.run;
    let http = probe.http.as_ref().map(|http| http.port);
    let port = http.or(probe.tcp.as_ref().map(|tcp| tcp.port));
    let (Some(port), Some(address)) = (port, target.address) else {
        return Err(ProbeError::NoAddress);
    };
    let address = SocketAddr::new(address, port);
    let stream = TcpStream::connect(address).await;
    let mut stream = stream.map_err(|source| ProbeError::Connect { address, source })?;
    let Some(http) = &probe.http else {
        return Ok(());
    };
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: tank\r\nConnection: close\r\n\r\n",
        http.path, run.0
    );
    // "HTTP/1.1 200": twelve bytes say it all.
    let mut head = [0; 12];
    let spoken = async {
        stream.write_all(request.as_bytes()).await?;
        stream.read_exact(&mut head).await
    };
    spoken
        .await
        .map_err(|source| ProbeError::Speak { address, source })?;
    let status = std::str::from_utf8(&head[9..12])
        .ok()
        .and_then(|text| text.parse().ok());
    match status.filter(|_| head.starts_with(b"HTTP/1.")) {
        Some(200..400) => Ok(()),
        Some(status) => Err(ProbeError::Status { address, status }),
        None => Err(ProbeError::NotHttp(address)),
    }
}

/// Runs a command in the container and gives its control socket. It, and whatever it started, ends
/// when that is closed, be that here or in an answer that nobody took.
async fn execute(
    pods: &Pods,
    run: &RunId,
    command: &[String],
) -> Result<AsyncFd<OwnedFd>, ExecError> {
    let shim = pods.get(&run.0).ok_or(NoShim)?;
    let spec = ExecSpec {
        container: run.1.to_string(),
        argv: command.to_vec(),
        env: Vec::new(),
        cwd: None,
        terminal: None,
        user: None,
        kill_on_close: true,
        copy: None,
    };
    let text = serde_json::to_vec(&spec)?;
    let spec = packet::sealed("probe", &text)?;
    let null = OpenOptions::new().read(true).write(true).open("/dev/null");
    let null = null?;
    let fds = [spec.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
    let (reply, fds) = shim.request(&Request::Exec, &fds).await?;
    let (Reply::Executed { .. }, Some(control)) = (&reply, fds.into_iter().next()) else {
        return Err(unexpected(reply).into());
    };
    rustix::io::ioctl_fionbio(&control, true).map_err(io::Error::from)?;
    Ok(packet::watch(control)?)
}

/// Waits until a command has ended: its status is the answer.
async fn status_of(control: AsyncFd<OwnedFd>) -> Result<(), ProbeError> {
    let failed = |e: io::Error| ProbeError::Exec(e.into());
    loop {
        let mut guard = control.readable().await.map_err(failed)?;
        let Ok(received) = guard.try_io(|control| packet::receive(control.as_fd())) else {
            continue;
        };
        let packet = received.map_err(failed)?;
        return match packet.and_then(|(packet, _)| FromShim::decode(&packet)) {
            Some(FromShim::Exited(0)) => Ok(()),
            Some(FromShim::Exited(status)) => Err(ProbeError::Exited(status)),
            _ => Err(ProbeError::Exec(NoStatus.into())),
        };
    }
}
