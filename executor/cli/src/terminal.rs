//! The caller's terminal: raw mode, its size, and the keys that detach.

use crate::modes::Modes;
use rustix::{
    stdio,
    termios::{OptionalActions, Termios},
};
use std::io::{IsTerminal, Write};

/// Puts the terminal into raw mode and back, whatever happens in between, also to it: what was
/// printed through it and changed how the terminal behaves is undone.
pub struct Raw {
    before: Termios,
    modes: Modes,
}

impl Raw {
    pub fn enter() -> rustix::io::Result<Self> {
        let before = rustix::termios::tcgetattr(stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self {
            before,
            modes: Modes::default(),
        })
    }

    /// Prints what a program in a container wrote, as it is: its terminal is this one.
    pub fn print(&mut self, bytes: &[u8]) {
        self.modes.follow(bytes);
        let mut stdout = std::io::stdout();
        let _ = stdout.write_all(bytes).and_then(|()| stdout.flush());
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let mut stdout = std::io::stdout();
        if stdout.is_terminal() {
            let _ = stdout
                .write_all(self.modes.restore().as_bytes())
                .and_then(|()| stdout.flush());
        }
        let _ = rustix::termios::tcsetattr(stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Rows and columns of the terminal.
pub fn size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(stdio::stdout())
        .map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Finds Ctrl-P Ctrl-Q in what is typed. A Ctrl-P alone is passed on with the key that follows it.
#[derive(Default)]
pub struct Keys {
    held: bool,
}

/// What was typed: bytes to pass on, and whether to detach after them.
#[derive(Debug, PartialEq, Eq)]
pub struct Typed {
    pub bytes: Vec<u8>,
    pub detach: bool,
}

impl Keys {
    pub fn push(&mut self, input: &[u8]) -> Typed {
        const CTRL_P: u8 = 0x10;
        const CTRL_Q: u8 = 0x11;
        let mut bytes = Vec::with_capacity(input.len());
        for byte in input {
            match (self.held, *byte) {
                (true, CTRL_Q) => {
                    return Typed {
                        bytes,
                        detach: true,
                    };
                }
                (true, CTRL_P) => bytes.push(CTRL_P),
                (false, CTRL_P) => self.held = true,
                (held, byte) => {
                    if held {
                        bytes.push(CTRL_P);
                    }
                    self.held = false;
                    bytes.push(byte);
                }
            }
        }
        Typed {
            bytes,
            detach: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8], detach: bool) -> Typed {
        Typed {
            bytes: bytes.to_vec(),
            detach,
        }
    }

    #[test]
    fn ctrl_p_ctrl_q_detaches_also_in_two_reads() {
        assert_eq!(Keys::default().push(b"ls\x10\x11rest"), typed(b"ls", true));
        let mut keys = Keys::default();
        assert_eq!(keys.push(b"a\x10"), typed(b"a", false));
        assert_eq!(keys.push(b"\x11"), typed(b"", true));
    }

    #[test]
    fn other_keys_pass() {
        let mut keys = Keys::default();
        assert_eq!(keys.push(b"\x10"), typed(b"", false));
        assert_eq!(keys.push(b"x"), typed(b"\x10x", false));
        assert_eq!(keys.push(b"\x11\x03"), typed(b"\x11\x03", false));
        assert_eq!(keys.push(b"\x10\x10\x11"), typed(b"\x10", true));
    }
}
