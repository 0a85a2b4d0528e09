//! Commands that the daemon runs in containers, for as long as they may take, and the end of what they print.
//!
//! A command gets no descriptor but an end of a pipe. It, and whatever it has started, ends when its control socket is
//! closed: at its time limit, and also when nobody waits for it any more.

use super::{Error, NoShim, Pods, unexpected};
use rustix::io::Errno;
use std::{
    fs::OpenOptions,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};
use tank_model::Name;
use tank_proto::{
    shim::{ExecSpec, Reply, Request},
    terminal::FromShim,
};
use tank_sys::packet;
use tokio::{io::unix::AsyncFd, time::timeout};

/// How much of what a command printed last is kept, in bytes and in lines.
const KEPT_BYTES: usize = 1 << 10;
const KEPT_LINES: usize = 5;

/// The most that is read of what waits in the pipe when the command has ended: all that fits into one.
const MAX_REST: usize = 1 << 20;

/// A command in a container.
pub struct Command<'a> {
    pub container: &'a Name,
    pub argv: &'a [String],
    /// On top of the container's environment.
    pub env: Vec<(String, String)>,
    pub limit: Duration,
}

/// Why a command did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error(transparent)]
    Pod(#[from] Error),
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    #[error(transparent)]
    NoShim(#[from] NoShim),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Specification(#[from] serde_json::Error),
    #[error("its pod does not say how it ended")]
    NoStatus,
    #[error("it ended with status {status}{}", printed(.last))]
    Exited { status: i32, last: String },
    #[error("it was killed: it took more than {} s{}", .limit.as_secs_f32(), printed(.last))]
    Late { limit: Duration, last: String },
}

fn printed(last: &str) -> String {
    match last {
        "" => String::new(),
        last => format!(", and printed last: {last}"),
    }
}

impl Pods {
    /// Runs a command in a container that runs, until it has ended with status 0.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn run(&self, pod: &Name, command: Command<'_>) -> Result<(), CommandError> {
        let (read, write) = tank_sys::namespace::pipe()?;
        rustix::io::ioctl_fionbio(&read, true).map_err(io::Error::from)?;
        let mut output = Output::new(read)?;
        let control = self.begin(pod, &command, write).await?;
        let ended = timeout(command.limit, async {
            let mut status = std::pin::pin!(status_of(&control));
            loop {
                tokio::select! {
                    ended = &mut status => return ended,
                    more = output.more(), if !output.is_over => more?,
                }
            }
        });
        let ended = ended.await;
        // It ends with this, and what it has left running too.
        drop(control);
        output.rest();
        let last = output.last();
        match ended {
            Ok(Ok(0)) => Ok(()),
            Ok(Ok(status)) => Err(CommandError::Exited { status, last }),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(CommandError::Late {
                limit: command.limit,
                last,
            }),
        }
    }

    /// Its control socket, once it runs.
    async fn begin(
        &self,
        pod: &Name,
        command: &Command<'_>,
        output: OwnedFd,
    ) -> Result<AsyncFd<OwnedFd>, CommandError> {
        let shim = self.get(pod).ok_or(NoShim)?;
        let spec = ExecSpec {
            container: command.container.to_string(),
            argv: command.argv.to_vec(),
            env: command.env.clone(),
            cwd: None,
            terminal: None,
            user: None,
            kill_on_close: true,
            copy: None,
        };
        let text = serde_json::to_vec(&spec)?;
        let spec = packet::sealed("command", &text)?;
        let null = OpenOptions::new().read(true).open("/dev/null")?;
        let fds = [spec.as_fd(), null.as_fd(), output.as_fd(), output.as_fd()];
        let (reply, fds) = shim.request(&Request::Exec, &fds).await?;
        let (Reply::Executed { .. }, Some(control)) = (&reply, fds.into_iter().next()) else {
            return Err(unexpected(reply).into());
        };
        rustix::io::ioctl_fionbio(&control, true).map_err(io::Error::from)?;
        Ok(packet::watch(control)?)
    }
}

/// The status that a command has ended with.
async fn status_of(control: &AsyncFd<OwnedFd>) -> Result<i32, CommandError> {
    loop {
        let mut guard = control.readable().await?;
        let Ok(received) = guard.try_io(|control| packet::receive(control.as_fd())) else {
            continue;
        };
        return match received?.and_then(|(packet, _)| FromShim::decode(&packet)) {
            Some(FromShim::Exited(status)) => Ok(status),
            _ => Err(CommandError::NoStatus),
        };
    }
}

/// What a command prints: all of it is read, and the end kept.
struct Output {
    pipe: AsyncFd<OwnedFd>,
    end: Vec<u8>,
    /// Nobody has the other end any more.
    is_over: bool,
}

impl Output {
    fn new(pipe: OwnedFd) -> Result<Self, tank_sys::Error> {
        Ok(Self {
            pipe: packet::watch(pipe)?,
            end: Vec::new(),
            is_over: false,
        })
    }

    fn keep(&mut self, bytes: &[u8]) {
        self.end.extend_from_slice(bytes);
        let beyond = self.end.len().saturating_sub(KEPT_BYTES);
        self.end.drain(..beyond);
    }

    /// Waits for more, or for the end.
    async fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        let mut guard = self.pipe.readable().await?;
        let read = guard.try_io(|pipe| Ok(rustix::io::read(pipe, &mut buffer)?));
        match read {
            Err(_) => {}
            Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            Ok(Err(error)) => return Err(error),
            Ok(Ok(0)) => self.is_over = true,
            Ok(Ok(length)) => self.keep(buffer.get(..length).unwrap_or_default()),
        }
        Ok(())
    }

    /// Takes what waits, of one that may go on for ever.
    fn rest(&mut self) {
        let mut buffer = [0; 4096];
        for _ in 0..MAX_REST / buffer.len() {
            match rustix::io::read(self.pipe.get_ref(), &mut buffer) {
                Ok(length @ 1..) => self.keep(buffer.get(..length).unwrap_or_default()),
                Err(Errno::INTR) => {}
                _ => return,
            }
        }
    }

    /// The last lines, in one, without what a terminal would take for a command.
    fn last(&self) -> String {
        last_lines(&self.end)
    }
}

fn last_lines(end: &[u8]) -> String {
    let text = String::from_utf8_lossy(end);
    let lines = text.lines().map(|line| {
        let shown = line.chars().map(|c| if c.is_control() { ' ' } else { c });
        shown.collect::<String>().trim().to_owned()
    });
    let lines: Vec<String> = lines.filter(|line| !line.is_empty()).collect();
    let first = lines.len().saturating_sub(KEPT_LINES);
    lines.get(first..).unwrap_or_default().join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_one_and_command_no_terminal() {
        let text = "1\n2\n3\n\n4\r\n\x1b[31m5\x07\n6";
        assert_eq!(last_lines(text.as_bytes()), "2 | 3 | 4 | [31m5 | 6");
        assert_eq!(last_lines(b"\n \n"), "");
        assert_eq!(last_lines(b"a\xff"), "a\u{fffd}");
    }
}
