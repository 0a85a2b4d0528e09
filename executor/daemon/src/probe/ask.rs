//! One question to one run of a container: whether a probe of it succeeds. When probes are asked,
//! and what follows from the answers, is [`crate::probe`]'s.

use crate::pods::host::Host;
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tank_model::{Digest, Name, spec::Probe};
use tank_proto::shim::{ExecSpec, Reply, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Which run of which container (by when it started, as its shim says it), and by which probes: a
/// new start, and a new probe, has to become ready anew.
pub type Run = (Name, Name, u64, Digest);

/// Asks once, for as long as the probe may take.
pub async fn ask(host: &Host, run: &Run, probe: &Probe) -> bool {
    matches!(
        timeout(probe.timeout.duration(), once(host, run, probe)).await,
        Ok(true)
    )
}

/// Waits until the next question.
pub async fn pause(probe: &Probe) {
    sleep(probe.period.duration().max(Duration::from_millis(10))).await;
}

async fn once(host: &Host, run: &Run, probe: &Probe) -> bool {
    if let Some(command) = &probe.exec {
        return execute(host, run, command).await.unwrap_or(false);
    }
    let Some(port) = probe
        .http
        .as_ref()
        .map(|http| http.port)
        .or(probe.tcp.as_ref().map(|tcp| tcp.port))
    else {
        return false;
    };
    let bridged = host
        .addresses(&run.0)
        .ok()
        .and_then(|addresses| addresses.first().map(|cidr| cidr.addr()));
    let own = match host.shim(&run.0) {
        Some(shim) => shim
            .namespaces()
            .await
            .is_ok_and(|namespaces| namespaces.net.is_some()),
        None => return false,
    };
    let address = if own {
        bridged
    } else {
        Some(IpAddr::from([127, 0, 0, 1]))
    };
    let Some(address) = address else { return false };
    let Ok(mut stream) = TcpStream::connect(SocketAddr::new(address, port)).await else {
        return false;
    };
    let Some(http) = &probe.http else { return true };
    let request = format!(
        "GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: tank\r\nConnection: close\r\n\r\n",
        http.path, run.0
    );
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    // "HTTP/1.1 200": twelve bytes say it all.
    let mut head = [0; 12];
    if stream.read_exact(&mut head).await.is_err() {
        return false;
    }
    let status = std::str::from_utf8(&head[9..12])
        .ok()
        .and_then(|text| text.parse::<u16>().ok());
    head.starts_with(b"HTTP/1.") && status.is_some_and(|status| (200..400).contains(&status))
}

/// Runs a command in the container; its status is the answer. The command lasts no longer than this
/// is waited for: it, and whatever it started, ends when its control socket is closed, be that here
/// or in an answer that nobody took.
async fn execute(host: &Host, run: &Run, command: &[String]) -> Option<bool> {
    use std::os::fd::AsFd;
    let shim = host.shim(&run.0)?;
    let spec = ExecSpec {
        container: run.1.to_string(),
        argv: command.to_vec(),
        env: Vec::new(),
        cwd: None,
        terminal: None,
        kill_on_close: true,
    };
    let spec = tank_sys::packet::sealed("probe", &serde_json::to_vec(&spec).ok()?).ok()?;
    let null = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
        .ok()?;
    let fds = [spec.as_fd(), null.as_fd(), null.as_fd(), null.as_fd()];
    let (reply, mut fds) = shim.request(&Request::Exec, &fds).await.ok()?;
    if !matches!(reply, Reply::Executed { .. }) || fds.is_empty() {
        return None;
    }
    let control = fds.remove(0);
    rustix::io::ioctl_fionbio(&control, true).ok()?;
    let control = tank_sys::packet::watch(control).ok()?;
    loop {
        let mut guard = control.readable().await.ok()?;
        match guard.try_io(|control| tank_sys::packet::receive(control.as_fd())) {
            Err(_would_block) => {}
            Ok(received) => {
                let (packet, _) = received.ok()??;
                let message = tank_proto::terminal::FromShim::decode(&packet)?;
                return Some(message == tank_proto::terminal::FromShim::Exited(0));
            }
        }
    }
}
