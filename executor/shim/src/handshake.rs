//! How far a process is on its way to its program. Pure.
//!
//! A second process is made by its carrier, which sends the pid; a main process is the shim's own
//! child from the start. Either then executes its program, which closes its status pipe, or sends
//! why it does not. One with a terminal has handed over the master by then. Whatever comes in
//! another order, twice or not at all ends the process.

use crate::failure::{Attempt, Error, Reason};
use std::{fmt, io};
use tank_proto::shim::Failure;

/// What a process, or its carrier, sends.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// The carrier has made the process.
    Process,
    /// The program is executed: the status pipe is closed.
    Executed,
    /// The master of the process's terminal.
    Terminal,
    /// The process does not get as far as its program.
    Failed(Failure),
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Process => "its pid",
            Self::Executed => "that its program is executed",
            Self::Terminal => "its terminal",
            Self::Failed(_) => "a failure",
        })
    }
}

/// What a process has done so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The carrier makes the process, which does not exist yet.
    Carried,
    /// The process exists.
    Made,
    /// The program runs, and the terminal has not been taken yet.
    Executed,
    /// Nothing more is to come.
    Done,
}

/// The phase of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    phase: Phase,
    terminal: bool,
}

impl Handshake {
    /// Of a main process, which the shim makes itself.
    pub fn main(terminal: bool) -> Self {
        Self {
            phase: Phase::Made,
            terminal,
        }
    }

    /// Of a second process, which a carrier makes.
    pub fn second(terminal: bool) -> Self {
        Self {
            phase: Phase::Carried,
            terminal,
        }
    }

    /// Takes a message, if it is its turn.
    ///
    /// # Errors
    /// The failure it carries, or that it is out of turn.
    pub fn accept(self, message: Message) -> Result<Self, Error> {
        let phase = match (self.phase, message) {
            (Phase::Carried, Message::Process) => Phase::Made,
            (Phase::Made, Message::Executed) if self.terminal => Phase::Executed,
            (Phase::Made, Message::Executed) => Phase::Done,
            (Phase::Executed, Message::Terminal) => Phase::Done,
            (Phase::Carried | Phase::Made, Message::Failed(failure)) => {
                return Err(Error::Process(failure));
            }
            (_, message) => return Err(self.refuse(message)),
        };
        Ok(Self { phase, ..self })
    }

    /// Whether the terminal is what comes next.
    pub fn awaits_terminal(self) -> bool {
        self.phase == Phase::Executed
    }

    /// Nothing more comes.
    ///
    /// # Errors
    /// When something is missing.
    pub fn finish(self) -> Result<(), Error> {
        match self.phase {
            Phase::Done => Ok(()),
            Phase::Executed => Err(Attempt::TakeTerminal.failed(io::ErrorKind::NotFound)),
            Phase::Carried | Phase::Made => Err(Self::no_process()),
        }
    }

    /// Why a message is not taken now.
    pub fn refuse(self, message: Message) -> Error {
        match (self.phase, message) {
            (Phase::Carried, Message::Executed) => Self::no_process(),
            (phase, message) => Attempt::StartProcess.failed(Reason::OutOfTurn { message, phase }),
        }
    }

    fn no_process() -> Error {
        Attempt::MakeProcess.failed(io::ErrorKind::UnexpectedEof)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Message::{Executed, Process, Terminal};
    use tank_proto::shim::FailureKind;

    fn run(begin: Handshake, messages: impl IntoIterator<Item = Message>) -> Result<(), Failure> {
        let end = messages.into_iter().try_fold(begin, Handshake::accept);
        end.and_then(Handshake::finish).map_err(Failure::from)
    }

    fn why(begin: Handshake, messages: impl IntoIterator<Item = Message>) -> String {
        let failure = run(begin, messages).expect_err("refused");
        format!("{}: {}", failure.what, failure.why)
    }

    #[test]
    fn each_kind_has_its_order() {
        assert_eq!(run(Handshake::main(false), [Executed]), Ok(()));
        assert_eq!(run(Handshake::main(true), [Executed, Terminal]), Ok(()));
        assert_eq!(run(Handshake::second(false), [Process, Executed]), Ok(()));
        let all = [Process, Executed, Terminal];
        assert_eq!(run(Handshake::second(true), all), Ok(()));
    }

    #[test]
    fn another_order_is_refused() {
        assert_eq!(
            why(Handshake::main(true), [Terminal, Executed]),
            "start a process: it sent its terminal out of turn (Made)"
        );
        assert_eq!(
            why(Handshake::second(false), [Executed, Process]),
            "make a process: unexpected end of file"
        );
        assert_eq!(
            why(Handshake::second(true), [Process, Terminal, Executed]),
            "start a process: it sent its terminal out of turn (Made)"
        );
    }

    #[test]
    fn nothing_comes_twice() {
        for twice in [[Process, Process], [Executed, Executed]] {
            let begin = match twice[0] {
                Process => Handshake::second(false),
                _ => Handshake::main(false),
            };
            assert!(why(begin, twice).contains("out of turn"));
        }
        let terminals = [Executed, Terminal, Terminal];
        assert!(why(Handshake::main(true), terminals).contains("out of turn"));
        // Nor what was not asked for.
        assert!(why(Handshake::main(false), [Executed, Terminal]).contains("out of turn"));
        assert!(why(Handshake::main(false), [Process, Executed]).contains("out of turn"));
    }

    #[test]
    fn what_is_left_out_is_missed() {
        let missing = "make a process: unexpected end of file";
        assert_eq!(why(Handshake::second(false), []), missing);
        assert_eq!(why(Handshake::second(true), [Process]), missing);
        assert_eq!(why(Handshake::main(false), []), missing);
        assert_eq!(
            why(Handshake::main(true), [Executed]),
            "take the terminal: entity not found"
        );
    }

    #[test]
    fn a_failure_is_the_processes_own_until_it_runs() {
        let failed = || {
            Message::Failed(Failure {
                what: "execute `a`".to_owned(),
                why: "entity not found".to_owned(),
                kind: FailureKind::NotFound,
            })
        };
        let own = "execute `a`: entity not found";
        assert_eq!(why(Handshake::main(false), [failed()]), own);
        assert_eq!(why(Handshake::second(true), [failed()]), own);
        assert_eq!(why(Handshake::second(true), [Process, failed()]), own);
        let late = why(Handshake::main(false), [Executed, failed()]);
        assert!(late.contains("out of turn"), "{late}");
    }
}
