//! A program of the host, run for an event.

use super::{child, shown};
use crate::{events::Event, settings::hooks::MAX_HOOKS};
use std::{
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tank_sys::{
    cgroup::{Cgroups, ControllerLimits},
    privilege::user_ids,
    with_causes,
};
use tokio::{io::AsyncReadExt, net::unix::pipe, task::spawn_blocking, time::timeout};

/// How the names of the hooks' groups begin beside those of the pods, none of whose names begins like that.
const GROUPS: &str = "_hook-";

/// The part of such a group that has processes.
const PART: &str = "run";

/// What one hook may have.
const LIMITS: ControllerLimits = ControllerLimits {
    memory: Some(256 << 20),
    pids: Some(64),
    cpu: None,
};

/// The most bytes of what a program prints that are kept: its last ones.
const MAX_PRINTED: usize = 4 << 10;

/// What a program finds of the host's environment.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A program to be run.
pub struct Runner<'a> {
    pub cgroups: &'a Arc<Cgroups>,
    /// The number of the hook, of which one runs at a time.
    pub number: usize,
    pub argv: &'a [String],
    pub user: &'a str,
    pub limit: Duration,
}

/// Ends what another daemon has left running. Blocking.
pub fn sweep(cgroups: &Cgroups) {
    for number in 0..MAX_HOOKS {
        if let Err(error) = cgroups.remove_pod(&group(number)) {
            tracing::warn!(%error, "a hook of before still runs");
        }
    }
}

fn group(number: usize) -> String {
    format!("{GROUPS}{number}")
}

impl Runner<'_> {
    /// Runs it until it has ended with status 0. Whatever it has started ends with it.
    ///
    /// # Errors
    /// A text that says why it did not.
    pub async fn run(&self, event: &Event) -> Result<(), String> {
        let user = self.user.to_owned();
        let ids = spawn_blocking(move || user_ids(&user));
        let ids = ids.await.map_err(|error| error.to_string())?;
        let ids = ids.ok_or_else(|| format!("there is no user `{}`", self.user))?;
        let begun = self.begin(event, ids).await;
        let ended = match begun {
            Ok((status, output)) => match timeout(self.limit, wait(status, output)).await {
                Ok(ended) => ended.map_err(|error| error.to_string()),
                Err(_) => Err(format!(
                    "it was killed: it took more than {} s",
                    self.limit.as_secs_f32()
                )),
            },
            Err(error) => Err(error),
        };
        let (cgroups, own) = (Arc::clone(self.cgroups), group(self.number));
        let removed = spawn_blocking(move || cgroups.remove_pod(&own)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(%error, "what a hook has started still runs");
        }
        match ended? {
            (Some(0), _) => Ok(()),
            (Some(status), printed) => Err(format!("it ended with status {status}{printed}")),
            (None, printed) => Err(format!("it did not say how it ended{printed}")),
        }
    }

    async fn begin(
        &self,
        event: &Event,
        ids: (u32, u32),
    ) -> Result<(pipe::Receiver, pipe::Receiver), String> {
        let (cgroups, own) = (Arc::clone(self.cgroups), group(self.number));
        let order = child::Order {
            argv: self.argv.to_vec(),
            uid: ids.0,
            gid: ids.1,
            env: environment(event),
        };
        let text = serde_json::to_vec(event).map_err(|error| error.to_string())?;
        let begin = move || -> Result<_, String> {
            let entrance = cgroups.ensure(&own, PART).map_err(|e| with_causes(&e))?;
            if let Err(error) = cgroups.set_limits(&own, PART, &LIMITS) {
                tracing::warn!(%error, "a hook has no limits");
            }
            let groups: Vec<OwnedFd> = entrance.tasks.into_iter().chain([entrance.procs]).collect();
            spawn(&order, &text, &groups).map_err(|error| error.to_string())
        };
        let (status, output) = spawn_blocking(begin).await.map_err(|e| e.to_string())??;
        let receiver = |fd: OwnedFd| -> io::Result<pipe::Receiver> {
            rustix::io::ioctl_fionbio(&fd, true)?;
            pipe::Receiver::from_owned_fd(fd)
        };
        let ends = receiver(status).and_then(|status| Ok((status, receiver(output)?)));
        ends.map_err(|error| error.to_string())
    }
}

/// What a program finds in its environment of an event: nothing that anybody but this host's owner has written.
fn environment(event: &Event) -> Vec<(String, String)> {
    let of = &event.of;
    let all = [
        ("KIND", Some(event.kind.to_string())),
        ("TIME", Some(event.time.to_string())),
        ("COUNT", Some(event.count.to_string())),
        ("POD", of.pod.clone()),
        ("STACK", of.stack().map(str::to_owned)),
        ("CONTAINER", of.container.clone()),
        ("GENERATION", of.generation.map(|number| number.to_string())),
    ];
    let own = all
        .into_iter()
        .filter_map(|(name, value)| Some((format!("TANK_EVENT_{name}"), value?)));
    [("PATH".to_owned(), PATH.to_owned())]
        .into_iter()
        .chain(own)
        .collect()
}

/// Starts the process that starts the program, in its groups, and gives the ends of the pipes on which it says how that ended, and
/// prints. Blocking.
fn spawn(order: &child::Order, event: &[u8], groups: &[OwnedFd]) -> io::Result<(OwnedFd, OwnedFd)> {
    // Both fit into a pipe, so nobody waits for them to be read.
    let filled = |bytes: &[u8]| -> io::Result<OwnedFd> {
        let (read, write) = io::pipe()?;
        rustix::io::ioctl_fionbio(&write, true)?;
        let mut write = std::fs::File::from(OwnedFd::from(write));
        write.write_all(bytes)?;
        Ok(read.into())
    };
    let order = serde_json::to_string(order)?;
    let helper = Command::new("/proc/self/exe")
        .arg(child::ARGUMENT)
        .arg(order)
        .env_clear()
        .current_dir("/")
        .stdin(filled(event)?)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let pid = helper.id().to_string();
    // It waits for a byte until it is where it belongs, and ends where it can't be put there.
    let moved = groups
        .iter()
        .try_for_each(|group| rustix::io::write(group, pid.as_bytes()).map(drop));
    let pidfd = i32::try_from(helper.id()).ok();
    if let Err(error) = moved {
        if let Some(Ok(process)) = pidfd.map(tank_sys::process::open) {
            let kill = rustix::process::Signal::KILL.as_raw();
            let _ = tank_sys::process::signal(process.pidfd.as_fd(), kill);
        }
        return Err(error.into());
    }
    match (helper.stdout, helper.stderr) {
        (Some(status), Some(output)) => Ok((status.into(), output.into())),
        _ => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

/// How it ended, and what it printed last. What it has left running keeps nobody waiting: the status is there when it has ended.
async fn wait(
    mut status: pipe::Receiver,
    mut output: pipe::Receiver,
) -> io::Result<(Option<i32>, String)> {
    let mut said = Vec::new();
    let mut printed: Vec<u8> = Vec::new();
    let mut buffer = [0; 1_024];
    let mut is_open = true;
    let mut own = [0; 16];
    loop {
        tokio::select! {
            read = output.read(&mut buffer), if is_open => match read? {
                0 => is_open = false,
                length => {
                    printed.extend(buffer.iter().take(length));
                    let surplus = printed.len().saturating_sub(MAX_PRINTED);
                    printed.drain(..surplus);
                }
            },
            read = status.read(&mut own) => match read? {
                0 => break,
                length => said.extend(own.iter().take(length)),
            },
        }
        if said.len() > own.len() {
            break;
        }
    }
    // What it printed before it ended is there.
    for _ in 0..MAX_PRINTED / buffer.len() {
        match output.try_read(&mut buffer) {
            Ok(length) if length > 0 => printed.extend(buffer.iter().take(length)),
            _ => break,
        }
    }
    let status = String::from_utf8_lossy(&said);
    let printed = match shown(&printed) {
        printed if printed.is_empty() => printed,
        printed => format!(", and printed last: {printed}"),
    };
    Ok((status.trim().parse().ok(), printed))
}
