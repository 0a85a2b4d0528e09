//! Why something could not be done with a shim, or with the name server.
//!
//! The message says what was attempted, the source why. This is where all of their texts are;
//! [`tank_sys::with_causes`] puts them on one line.

use std::{error::Error as StdError, fmt, io, net::SocketAddr, path::PathBuf};
use tank_proto::{
    names,
    shim::{self, Failure, FailureKind, FromShim},
};
use tank_sys::with_causes;

/// What failed, and why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The shim did not carry a request out, and says why in its own words.
    #[error("{what}")]
    Refused {
        what: String,
        kind: FailureKind,
        source: Words,
    },
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    #[error("{attempt}")]
    Failed { attempt: Attempt, source: Reason },
}

/// What this daemon attempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// To have a request of this pod's shim answered.
    Speak(String),
    /// To read a reply that is larger than a packet.
    ReadReply,
    UnderstandReply,
    StartShim,
    EnterNetwork,
    StopContainer,
    SpeakToNames,
    WatchNames,
    AskNames,
    ServeNames,
    TakeNameSockets,
    StartNames,
    BindNames {
        address: SocketAddr,
        tcp: bool,
    },
    /// A file of the run folder.
    Remove(&'static str),
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Speak(pod) => return write!(f, "speak to the shim of {pod}"),
            Self::ReadReply => "read the shim's answer",
            Self::UnderstandReply => "understand the shim",
            Self::StartShim => "start the pod's shim",
            Self::EnterNetwork => "enter the pod's network",
            Self::StopContainer => "stop a container",
            Self::SpeakToNames => "talk to the name server",
            Self::WatchNames => "watch the name server",
            Self::AskNames => "ask the name server",
            Self::ServeNames => "hand the names over",
            Self::TakeNameSockets => "take the name server's sockets",
            Self::StartNames => "start the name server",
            Self::BindNames { address, tcp } => {
                let protocol = if *tcp { "tcp" } else { "udp" };
                return write!(f, "answer names at {address}/{protocol}");
            }
            Self::Remove(name) => return write!(f, "remove {name}"),
        })
    }
}

impl Attempt {
    /// That it failed.
    pub fn failed(self, reason: impl Into<Reason>) -> Error {
        Error::Failed {
            attempt: self,
            source: reason.into(),
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// The process has ended, or hung up.
    #[error("it is gone")]
    Gone,
    #[error("it does not answer")]
    Silent,
    #[error("it does not answer in time")]
    Late,
    #[error("it takes no more requests")]
    Full,
    #[error("too many requests wait for its answer")]
    TooManyPending,
    #[error("it is missing")]
    Missing,
    #[error("it answered {0:?}")]
    Answered(Box<shim::Reply>),
    #[error("it said {0:?}")]
    Said(Box<FromShim>),
    #[error("it answered {0:?}")]
    UnexpectedReply(Box<names::Reply>),
    #[error("it ended without a word")]
    NeverReady,
    #[error("it is not ready in time")]
    NotReady,
    #[error("it has ended")]
    Ended,
    #[error("it uses the host's")]
    HostNetwork,
    #[error("it outlives SIGKILL")]
    Outlives,
    #[error("there are too many")]
    TooManyNames,
    /// Of an address that names are answered at.
    #[error("{by} listens there already: have it listen on the host's other addresses only")]
    Taken { by: Holder },
    #[error("{}", program.display())]
    Execute { program: PathBuf, source: io::Error },
    /// A server that was started does not serve; `stderr` is what it printed.
    #[error("{} {stderr}", with_causes(.failure.as_ref()))]
    DoesNotServe { failure: Box<Error>, stderr: String },
    #[error(transparent)]
    Words(#[from] Words),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl From<rustix::io::Errno> for Reason {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

/// Why something failed, as another process says it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Words(pub String);

/// A pod has no shim any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its shim is gone")]
pub struct NoShim;

/// The program that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holder {
    Unknown,
    Process { name: String, pid: i32 },
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("another program"),
            Self::Process { name, pid } => write!(f, "`{name}` (pid {pid})"),
        }
    }
}

impl Error {
    /// What is decided by.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Refused { kind, .. } => *kind,
            Self::Kernel(_) | Self::Failed { .. } => FailureKind::Other,
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let Failure { what, why, kind } = failure;
        Self::Refused {
            what,
            kind,
            source: Words(why),
        }
    }
}

/// That a shim answered something else than it was asked for.
pub fn unexpected(reply: shim::Reply) -> Error {
    Attempt::UnderstandReply.failed(Reason::Answered(Box::new(reply)))
}

/// Why an error came about, without what was attempted: its sources, on one line.
pub fn why(error: &dyn StdError) -> String {
    error.source().map(with_causes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_says(error: &Error, what: &str, reason: &str) {
        assert_eq!(
            (error.to_string().as_str(), why(error).as_str()),
            (what, reason)
        );
        assert_eq!(with_causes(error), format!("{what}: {reason}"));
    }

    #[test]
    fn a_refusal_keeps_the_shims_words_and_kind() {
        let failure = Failure {
            what: "execute `a`".to_owned(),
            why: "No such file or directory (os error 2)".to_owned(),
            kind: FailureKind::NotFound,
        };
        let error = Error::from(failure.clone());
        assert_eq!(error.kind(), FailureKind::NotFound);
        assert_says(&error, &failure.what, &failure.why);
    }

    #[test]
    fn what_is_this_daemons_own_says_what_and_why() {
        let speak = || Attempt::Speak("web".to_owned());
        let silent = speak().failed(Reason::Silent);
        assert_says(&silent, "speak to the shim of web", "it does not answer");
        assert_eq!(silent.kind(), FailureKind::Other);
        let broken = speak().failed(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_says(&broken, "speak to the shim of web", "broken pipe");
        let kernel = tank_sys::Error::new("make a pair", io::ErrorKind::OutOfMemory);
        assert_says(&kernel.into(), "make a pair", "out of memory");
        let bind = Attempt::BindNames {
            address: "[fd00::1]:53".parse().expect("an address"),
            tcp: false,
        };
        let by = Holder::Process {
            name: "named".to_owned(),
            pid: 7,
        };
        assert_says(
            &bind.failed(Reason::Taken { by }),
            "answer names at [fd00::1]:53/udp",
            "`named` (pid 7) listens there already: have it listen on the host's other addresses only",
        );
    }

    #[test]
    fn a_name_server_that_does_not_serve_is_quoted() {
        let failure = Box::new(Attempt::AskNames.failed(Reason::Ended));
        let stderr = "no such user".to_owned();
        let error = Attempt::StartNames.failed(Reason::DoesNotServe { failure, stderr });
        let why = "ask the name server: it has ended no such user";
        assert_says(&error, "start the name server", why);
    }
}
