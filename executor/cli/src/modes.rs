//! What a program has switched on at the terminal that it was given, so that it can be switched off
//! when the terminal goes back to its owner: a detached editor does not clean up behind itself.
//!
//! Only what was switched on is: to leave the alternate screen without having entered it moves the
//! cursor. Sequences are those of XTerm (ctlseqs); unknown ones are left alone.

use std::collections::BTreeSet;

/// The most bytes of one sequence that are looked at.
const MAX_SEQUENCE: usize = 64;

/// Private modes that are off by default: cursor keys, reverse video, origin, mouse reports, focus,
/// bracketed paste, synchronised output, and the alternate screens, which are left last.
const OFF: [u16; 18] = [
    1, 5, 6, 9, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1015, 1016, 2004, 2026, 47, 1047, 1049,
];

/// Private modes that are on by default: wrapping at the margin, and the cursor.
const ON: [u16; 2] = [7, 25];

#[derive(Debug, Default)]
enum State {
    #[default]
    Text,
    Escape,
    /// After `ESC (`.
    Charset,
    /// After `ESC [`.
    Sequence(Vec<u8>),
}

/// Follows what is printed.
#[derive(Debug, Default)]
pub struct Modes {
    state: State,
    /// Private modes that are not as they are by default.
    changed: BTreeSet<u16>,
    insert: bool,
    styled: bool,
    drawing: bool,
    keypad: bool,
    region: bool,
    cursor_shape: bool,
    other_keys: bool,
    keyboard: bool,
}

impl Modes {
    pub fn follow(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.state = match (std::mem::take(&mut self.state), *byte) {
                (_, 0x1b) => State::Escape,
                (State::Text, _) | (_, 0x18 | 0x1a) => State::Text,
                (State::Escape, b'[') => State::Sequence(Vec::new()),
                (State::Escape, b'(') => State::Charset,
                (State::Escape, other) => {
                    self.escape(other);
                    State::Text
                }
                (State::Charset, set) => {
                    self.drawing = set == b'0';
                    State::Text
                }
                (State::Sequence(mut so_far), part @ 0x20..=0x3f)
                    if so_far.len() < MAX_SEQUENCE =>
                {
                    so_far.push(part);
                    State::Sequence(so_far)
                }
                (State::Sequence(so_far), last @ 0x40..=0x7e) => {
                    self.sequence(&String::from_utf8_lossy(&so_far), last);
                    State::Text
                }
                (State::Sequence(_), 0x20..=0x3f) => State::Text,
                (sequence, _) => sequence,
            };
        }
    }

    fn escape(&mut self, byte: u8) {
        match byte {
            b'=' => self.keypad = true,
            b'>' => self.keypad = false,
            // A full reset.
            b'c' => *self = Self::default(),
            _ => {}
        }
    }

    fn sequence(&mut self, parameters: &str, last: u8) {
        let none = parameters.is_empty() || parameters == "0";
        match (last, parameters.strip_prefix('?')) {
            (b'h' | b'l', Some(modes)) => {
                for mode in modes.split(';').filter_map(|mode| mode.parse().ok()) {
                    let differs =
                        OFF.contains(&mode) && last == b'h' || ON.contains(&mode) && last == b'l';
                    if differs {
                        self.changed.insert(mode)
                    } else {
                        self.changed.remove(&mode)
                    };
                }
            }
            (b'h' | b'l', None) if parameters == "4" => self.insert = last == b'h',
            (b'm', None) if parameters.starts_with(">4") => {
                self.other_keys = !matches!(parameters, ">4" | ">4;0")
            }
            (b'm', None)
                if parameters
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || b";:".contains(&byte)) =>
            {
                self.styled = !none;
            }
            (b'r', None) => self.region = !parameters.is_empty(),
            (b'q', None) if parameters.ends_with(' ') => {
                self.cursor_shape = !matches!(parameters, " " | "0 ")
            }
            (b'u', None) if parameters.starts_with('>') => self.keyboard = true,
            (b'u', None) if parameters.starts_with('<') => self.keyboard = false,
            _ => {}
        }
    }

    /// What puts the terminal back.
    pub fn restore(&self) -> String {
        let mut text = String::new();
        let mut add = |is: bool, sequence: &str| {
            if is {
                text.push_str(sequence);
            }
        };
        // Ends a sequence that was cut off.
        add(!matches!(self.state, State::Text), "\x18");
        add(self.keyboard, "\x1b[<u");
        add(self.other_keys, "\x1b[>4m");
        add(self.insert, "\x1b[4l");
        add(self.drawing, "\x1b(B");
        add(self.keypad, "\x1b>");
        add(self.region, "\x1b[r");
        add(self.cursor_shape, "\x1b[0 q");
        add(self.styled, "\x1b[0m");
        for mode in ON {
            add(self.changed.contains(&mode), &format!("\x1b[?{mode}h"));
        }
        for mode in OFF {
            add(self.changed.contains(&mode), &format!("\x1b[?{mode}l"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restore(printed: &[&str]) -> String {
        let mut modes = Modes::default();
        printed
            .iter()
            .for_each(|bytes| modes.follow(bytes.as_bytes()));
        modes.restore()
    }

    #[test]
    fn what_was_switched_on_is_switched_off() {
        let editor = "\x1b[?1049h\x1b[>4;2m\x1b[?1h\x1b=\x1b[?2004h\x1b[1;24r\x1b[?25l\x1b[?1002;1006h\x1b[1;31mtext";
        assert_eq!(
            restore(&[editor]),
            "\x1b[>4m\x1b>\x1b[r\x1b[0m\x1b[?25h\x1b[?1l\x1b[?1002l\x1b[?1006l\x1b[?2004l\x1b[?1049l"
        );
        // However it arrives.
        let bytes: Vec<String> = editor.chars().map(String::from).collect();
        assert_eq!(
            restore(&bytes.iter().map(String::as_str).collect::<Vec<_>>()),
            restore(&[editor])
        );
    }

    #[test]
    fn what_was_not_or_not_any_more_is_left_alone() {
        assert_eq!(
            restore(&["plain\r\n\x1b[2J\x1b[H\x1b]0;title\x07\x1b[1mbold\x1b[0m"]),
            ""
        );
        assert_eq!(
            restore(&["\x1b[?1049h\x1b[?25l\x1b[4h", "\x1b[4l\x1b[?25h\x1b[?1049l"]),
            ""
        );
        assert_eq!(restore(&["\x1b[?1049h\x1b[1m\x1bc"]), "");
        assert_eq!(restore(&["\x1b[?7777h"]), "");
    }

    #[test]
    fn a_sequence_that_was_cut_off_does_not_swallow_what_follows() {
        assert_eq!(restore(&["\x1b[?104"]), "\x18");
        // One without an end takes no memory.
        assert_eq!(restore(&["\x1b[", &"1;".repeat(10_000), "m"]), "");
    }
}
