//! What the shim could not do, with its causes; and the one place where that becomes the words of
//! the protocol.

use crate::handshake::{Message, Phase};
use std::io;
use tank_proto::{
    shim::{Failure, FailureKind},
    stream::BadStream,
};
use tank_sys::with_causes;

/// What failed: the message says what was attempted, the source why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    /// A program can't be executed.
    #[error("execute `{program}`")]
    Execute { program: String, source: io::Error },
    /// What a process sent that did not get as far as its program.
    #[error("{}", .0.what)]
    Process(Failure),
    #[error("enter container `{0}`")]
    NotRunning(String),
    #[error("attach to container `{0}`")]
    NotATty(String),
    #[error("{attempt}")]
    Failed { attempt: Attempt, source: Reason },
}

/// What the shim attempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Attempt {
    #[error("start the pod's shim")]
    StartShim,
    #[error("read a request")]
    ReadPacket,
    /// The descriptors and streams of one.
    #[error("read the request")]
    ReadRequest,
    #[error("read a specification")]
    ReadSpec,
    #[error("take the descriptors")]
    TakeDescriptors,
    #[error("send an answer")]
    Answer,
    #[error("copy a descriptor")]
    CopyDescriptor,
    #[error("copy the terminal")]
    CopyTerminal,
    #[error("start a container")]
    StartContainer,
    #[error("run a command")]
    RunCommand,
    #[error("copy files")]
    CopyFiles,
    #[error("attach")]
    Attach,
    #[error("enter the working directory")]
    EnterDirectory,
    #[error("use the streams")]
    UseStreams,
    #[error("watch a client")]
    WatchClient,
    #[error("own the output")]
    OwnOutput,
    #[error("watch the output")]
    WatchOutput,
    #[error("watch the terminal")]
    WatchTerminal,
    #[error("make a process")]
    MakeProcess,
    #[error("start a process")]
    StartProcess,
    #[error("take the terminal")]
    TakeTerminal,
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
    /// A shim of version 1 does not know the request; a debug build can be made to be one.
    #[error("unknown variant `files`")]
    OlderVersion,
    #[error("descriptor {0} is missing")]
    MissingDescriptor(usize),
    #[error("{arrived} of {count} descriptors arrived")]
    DescriptorsMissing { arrived: usize, count: usize },
    #[error("three streams are needed without a terminal")]
    NoStreams,
    #[error(transparent)]
    Stream(#[from] BadStream),
    #[error("{0} run already")]
    TooManyExecs(usize),
    #[error("{0} clients are attached already")]
    TooManyClients(usize),
    #[error("`{0}` is not absolute: name it from `/`")]
    Relative(String),
    #[error("it sent {message} out of turn ({phase:?})")]
    OutOfTurn { message: Message, phase: Phase },
    #[error("read the set-up")]
    ReadSetup(#[source] io::Error),
    #[error("read the set-up")]
    ParseSetup(#[source] serde_json::Error),
    #[error("take its streams")]
    TakeStreams(#[source] io::Error),
    #[error("keep the socket to tankd")]
    KeepSocket(#[source] io::Error),
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

impl From<io::ErrorKind> for Reason {
    fn from(kind: io::ErrorKind) -> Self {
        Self::Io(kind.into())
    }
}

impl From<rustix::io::Errno> for Reason {
    fn from(error: rustix::io::Errno) -> Self {
        Self::Io(error.into())
    }
}

impl Error {
    /// What `tankd` decides by.
    fn kind(&self) -> FailureKind {
        match self {
            Self::Process(failure) => failure.kind,
            Self::NotRunning(_) => FailureKind::NotRunning,
            Self::NotATty(_) => FailureKind::NotATty,
            Self::Execute { source, .. } => match source.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => FailureKind::NotFound,
                Some(libc::EACCES | libc::ENOEXEC | libc::EISDIR) => FailureKind::NotExecutable,
                _ => FailureKind::Other,
            },
            Self::Kernel(_) | Self::Failed { .. } => FailureKind::Other,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = error.kind();
        let why = match &error {
            Error::Process(failure) => return failure.clone(),
            Error::NotRunning(_) => "its main process has ended".to_owned(),
            Error::NotATty(_) => "it has no terminal".to_owned(),
            Error::Kernel(_) | Error::Execute { .. } | Error::Failed { .. } => {
                let source = std::error::Error::source(&error);
                source.map(with_causes).unwrap_or_default()
            }
        };
        Self {
            what: error.to_string(),
            why,
            kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(error: impl Into<Error>) -> (String, String, FailureKind) {
        let Failure { what, why, kind } = error.into().into();
        (what, why, kind)
    }

    fn texts(what: &str, why: &str, kind: FailureKind) -> (String, String, FailureKind) {
        (what.to_owned(), why.to_owned(), kind)
    }

    #[test]
    fn each_error_says_what_and_why_and_is_of_its_kind() {
        let execute = |errno| Error::Execute {
            program: "/bin/a".to_owned(),
            source: io::Error::from_raw_os_error(errno),
        };
        for (errno, kind) in [
            (libc::ENOENT, FailureKind::NotFound),
            (libc::ENOTDIR, FailureKind::NotFound),
            (libc::EACCES, FailureKind::NotExecutable),
            (libc::ENOEXEC, FailureKind::NotExecutable),
            (libc::EISDIR, FailureKind::NotExecutable),
            (libc::ENOMEM, FailureKind::Other),
        ] {
            let why = io::Error::from_raw_os_error(errno).to_string();
            assert_eq!(wire(execute(errno)), texts("execute `/bin/a`", &why, kind));
        }
        let ended = "its main process has ended";
        assert_eq!(
            wire(Error::NotRunning("app".to_owned())),
            texts("enter container `app`", ended, FailureKind::NotRunning)
        );
        let no_terminal = "it has no terminal";
        assert_eq!(
            wire(Error::NotATty("app".to_owned())),
            texts(
                "attach to container `app`",
                no_terminal,
                FailureKind::NotATty
            )
        );
        assert_eq!(
            wire(Attempt::RunCommand.failed(Reason::TooManyExecs(256))),
            texts("run a command", "256 run already", FailureKind::Other)
        );
        // A cause that has one itself is said with that.
        let kernel = || tank_sys::Error::new("make a pair", io::ErrorKind::OutOfMemory);
        assert_eq!(
            wire(kernel()),
            texts("make a pair", "out of memory", FailureKind::Other)
        );
        let attach = Attempt::Attach.failed(kernel());
        let why = "make a pair: out of memory";
        assert_eq!(wire(attach), texts("attach", why, FailureKind::Other));
        let start = Attempt::StartShim.failed(Reason::ReadSetup(io::ErrorKind::NotFound.into()));
        let why = "read the set-up: entity not found";
        assert_eq!(
            wire(start),
            texts("start the pod's shim", why, FailureKind::Other)
        );
    }

    #[test]
    fn what_a_process_sent_is_passed_on_as_it_is() {
        let sent = Failure {
            what: "execute `a`".to_owned(),
            why: "No such file or directory (os error 2)".to_owned(),
            kind: FailureKind::NotFound,
        };
        assert_eq!(Failure::from(Error::Process(sent.clone())), sent);
    }
}
