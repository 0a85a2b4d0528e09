//! Probes: asked of a running container for as long as this run of it lasts.
//!
//! The startup probe first, until it says yes. Then readiness, until it says yes, once for each run: it is what a
//! switch and a dependency wait for. Beside it liveness, for good. A container whose startup or liveness probe says no
//! as often as it may is ended, as a stop would, and started again as its pod's `restart` says.

use crate::{actuate, host::Host};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tank_model::{Digest, Name, graph::LifecycleNode, spec::Probe};
use tank_proto::shim::{ExecSpec, Reply, Request};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

/// Which run of which container, and by which probes: a new start, and a new probe, has to become ready anew.
type Run = (Name, Name, u64, Digest);

/// What is known of each run. Bounded by the containers there are: older runs are dropped.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<BTreeMap<Run, bool>>);

impl Readiness {
    fn runs(&self) -> std::sync::MutexGuard<'_, BTreeMap<Run, bool>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this run has become ready; starts asking if nobody does.
    pub fn is_ready(
        &self,
        host: &Arc<Host>,
        pod: &Name,
        container: &Name,
        started: u64,
        lifecycle: &LifecycleNode,
        hash: Digest,
    ) -> bool {
        if !lifecycle.is_probed() && lifecycle.liveness.is_none() {
            return true;
        }
        let run = (pod.clone(), container.clone(), started, hash);
        {
            let mut runs = self.runs();
            if let Some(ready) = runs.get(&run) {
                return *ready;
            }
            runs.retain(|(p, c, ..), _| p != pod || c != container);
            runs.insert(run.clone(), !lifecycle.is_probed());
        }
        tokio::spawn(watch(Arc::clone(host), run, lifecycle.clone()));
        !lifecycle.is_probed()
    }
}

/// Asks for as long as the run lasts.
async fn watch(host: Arc<Host>, run: Run, lifecycle: LifecycleNode) {
    if let Some(startup) = &lifecycle.startup
        && !until(&host, &run, startup, Some(startup.failures)).await
    {
        return end(&host, &run, "did not come up").await;
    }
    let readiness = async {
        let ready = match &lifecycle.readiness {
            Some(readiness) => until(&host, &run, readiness, None).await,
            None => true,
        };
        if ready && lifecycle.is_probed() {
            if let Some(ready) = host.readiness.runs().get_mut(&run) {
                *ready = true;
            }
            host.events.add("ready", Some(run.0.as_str()), format!("container {} is ready", run.1));
            host.wake.notify_one();
        }
    };
    let liveness = async {
        if let Some(liveness) = &lifecycle.liveness {
            sleep(liveness.delay.duration()).await;
            let mut failed = 0;
            while lasts(&host, &run) {
                failed = if ask(&host, &run, liveness).await { 0 } else { failed + 1 };
                if failed >= liveness.failures {
                    return end(&host, &run, "does not answer any more").await;
                }
                pause(liveness).await;
            }
        }
    };
    tokio::join!(readiness, liveness);
}

/// Asks until the answer is yes; no when the run is over, or the answer was no so many times.
async fn until(host: &Arc<Host>, run: &Run, probe: &Probe, failures: Option<u32>) -> bool {
    sleep(probe.delay.duration()).await;
    let mut failed = 0;
    while lasts(host, run) {
        if ask(host, run, probe).await {
            return true;
        }
        failed += 1;
        if failures.is_some_and(|most| failed >= most) {
            return false;
        }
        pause(probe).await;
    }
    false
}

async fn ask(host: &Host, run: &Run, probe: &Probe) -> bool {
    matches!(timeout(probe.timeout.duration(), once(host, run, probe)).await, Ok(true))
}

async fn pause(probe: &Probe) {
    sleep(probe.period.duration().max(Duration::from_millis(10))).await;
}

/// Whether it is still this run that runs.
fn lasts(host: &Host, run: &Run) -> bool {
    let known = host.readiness.runs().contains_key(run);
    if known && host.shim(&run.0).is_none() {
        host.readiness.runs().remove(run);
        return false;
    }
    known
}

/// Ends a run that failed its probe, if it has not ended by itself.
async fn end(host: &Arc<Host>, run: &Run, why: &str) {
    let Some(shim) = host.shim(&run.0) else { return };
    let Ok(state) = shim.state().await else { return };
    let found = state.containers.iter().find(|found| found.name == run.1.as_str());
    let Some(found) = found.filter(|found| found.exited.is_none() && found.started == run.2) else { return };
    host.events.add("unhealthy", Some(run.0.as_str()), format!("container {} {why}: it is ended", run.1));
    let limit = Duration::from_millis(found.stop_timeout);
    if let Err(failure) = actuate::end(&shim, &run.1, found.stop_signal, limit).await {
        host.events.add("failed", Some(run.0.as_str()), format!("can't {}: {}", failure.what, failure.why));
    }
}

async fn once(host: &Host, run: &Run, probe: &Probe) -> bool {
    if let Some(command) = &probe.exec {
        return execute(host, run, command).await.unwrap_or(false);
    }
    let Some(port) = probe.http.as_ref().map(|http| http.port).or(probe.tcp.as_ref().map(|tcp| tcp.port)) else {
        return false;
    };
    let bridged = host.addresses(&run.0).ok().and_then(|addresses| addresses.first().map(|cidr| cidr.address));
    let own = match host.shim(&run.0) {
        Some(shim) => shim.namespaces().await.is_ok_and(|namespaces| namespaces.net.is_some()),
        None => return false,
    };
    let address = if own { bridged } else { Some(IpAddr::from([127, 0, 0, 1])) };
    let Some(address) = address else { return false };
    let Ok(mut stream) = TcpStream::connect(SocketAddr::new(address, port)).await else { return false };
    let Some(http) = &probe.http else { return true };
    let request =
        format!("GET {} HTTP/1.0\r\nHost: {}\r\nUser-Agent: tank\r\nConnection: close\r\n\r\n", http.path, run.0);
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    // "HTTP/1.1 200": twelve bytes say it all.
    let mut head = [0; 12];
    if stream.read_exact(&mut head).await.is_err() {
        return false;
    }
    let status = std::str::from_utf8(&head[9..12]).ok().and_then(|text| text.parse::<u16>().ok());
    head.starts_with(b"HTTP/1.") && status.is_some_and(|status| (200..400).contains(&status))
}

/// Runs a command in the container; its status is the answer. The command lasts no longer than this is waited for: it, and
/// whatever it started, ends when its control socket is closed, be that here or in an answer that nobody took.
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
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").ok()?;
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
