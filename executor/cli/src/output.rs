//! Tables, times and JSON, and what a terminal may be shown.
//!
//! Containers, images, registries and logs are others': on a terminal, what they wrote is shown and
//! not obeyed. All that is printed goes through here, so nobody has to think of it. A pipe or a
//! file gets every byte as it is.

pub mod pager;
mod prose;
mod table;

pub use prose::{error_width, for_error, in_lines, sentence};
pub use table::{table, table_lines, table_of_sentences, table_width};

use crate::error::Error;
use serde::Serialize;
use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
    sync::LazyLock,
};
use tank_model::units::Bytes;

/// Whether standard output, or standard error, is a terminal.
static OUT: LazyLock<bool> = LazyLock::new(|| std::io::stdout().is_terminal());
static ERR: LazyLock<bool> = LazyLock::new(|| std::io::stderr().is_terminal());

/// Whether diagnostics are coloured: on a terminal, unless `NO_COLOR` is set to anything
/// (no-color.org).
pub fn colours() -> bool {
    *ERR && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Whether a terminal may obey a character, or a person be misled by it: controls other than a line
/// end and a tab, and marks that change the direction of text (Unicode, UAX #9).
fn is_control(character: char) -> bool {
    match character {
        '\n' | '\t' => false,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
            true
        }
        other => other.is_control(),
    }
}

/// Text with its controls made visible: an escape is `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    clean(text, |_| None, shown)
}

/// As [`visible`], of text that holds colours of ours: those pass, and whatever else may be in it
/// does not.
pub fn visible_but_colours(text: &str) -> Cow<'_, str> {
    let colour = |text: &str| {
        let end = text
            .strip_prefix("\x1b[")?
            .find(|c: char| !c.is_ascii_digit() && c != ';')?
            + 2;
        text[end..].starts_with('m').then_some(end + 1)
    };
    clean(text, colour, shown)
}

fn shown(character: char) -> String {
    format!("\\u{{{:x}}}", u32::from(character))
}

/// Replaces every control but those in what `pass` gives the length of.
fn clean(
    text: &str,
    pass: impl Fn(&str) -> Option<usize>,
    replace: impl Fn(char) -> String,
) -> Cow<'_, str> {
    if !text.contains(is_control) {
        return Cow::Borrowed(text);
    }
    let mut cleaned = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(at) = rest.find(is_control) {
        cleaned.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(length) = pass(rest) {
            cleaned.push_str(&rest[..length]);
            rest = &rest[length..];
        } else if let Some(character) = rest.chars().next() {
            cleaned.push_str(&replace(character));
            rest = &rest[character.len_utf8()..];
        }
    }
    cleaned.push_str(rest);
    Cow::Owned(cleaned)
}

/// Prints one JSON document on one line. JSON itself escapes only some controls; the others are
/// escaped here as it allows, so they are the same to whoever reads it.
pub fn json<T: Serialize>(value: &T) -> Result<(), Error> {
    whole(&json_of(value)?)
}

/// A value as [`json`] prints it.
pub fn json_of<T: Serialize>(value: &T) -> Result<String, Error> {
    let text = serde_json::to_string(value).map_err(Error::Json)?;
    Ok(escaped(&text).into_owned())
}

/// A document as [`json`] prints it.
pub fn json_text(value: &serde_json::Value) -> String {
    escaped(&value.to_string()).into_owned()
}

/// Controls stand in strings only, and all of them are of the basic plane.
fn escaped(json: &str) -> Cow<'_, str> {
    let escape = |character| format!("\\u{:04x}", u32::from(character));
    clean(json, |_| None, escape)
}

/// Writes to standard error what [`visible`] makes of it on a terminal.
pub fn error(text: &str) {
    let text = if *ERR {
        visible(text)
    } else {
        Cow::Borrowed(text)
    };
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// As [`error`], of text with colours of ours.
pub fn drawn_error(text: &str) {
    let text = if *ERR {
        visible_but_colours(text)
    } else {
        Cow::Borrowed(text)
    };
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Prints a line. On a terminal that is narrower it goes on below, indented; no word is broken.
pub fn line(text: &str) -> Result<(), Error> {
    sentence(text, HANGING)
}

/// What a line that goes on is indented by, beside its own indentation.
const HANGING: usize = 4;

/// Prints a line as it is: a document, or what may be written into a file. A reader that went away ends the command
/// quietly, as `head` expects.
pub fn whole(text: &str) -> Result<(), Error> {
    let text = if *OUT {
        visible(text)
    } else {
        Cow::Borrowed(text)
    };
    match pager::write(format!("{text}\n").as_bytes()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Error::Print),
    }
}

/// Whether standard output is a terminal.
pub fn is_terminal() -> bool {
    *OUT
}

/// Shows lines in the place of those before, on a terminal: each is written over the old one, so that nothing flickers. What does
/// not fit is counted.
pub fn screen(lines: &[String], first: bool) -> Result<(), Error> {
    let rows = usize::from(crate::terminal::size().0).max(MIN_ROWS);
    let mut text = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" }.to_owned();
    let shown = match lines.len() < rows {
        true => lines.len(),
        false => rows - 2,
    };
    for line in lines.iter().take(shown) {
        text.push_str(&visible(line));
        text.push_str("\x1b[K\r\n");
    }
    if shown < lines.len() {
        text.push_str(&format!("… and {} more\x1b[K\r\n", lines.len() - shown));
    }
    text.push_str("\x1b[J");
    let mut stdout = std::io::stdout();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(Error::Print)
}

/// Fewer rows than this are none.
const MIN_ROWS: usize = 4;

/// Whether what is printed is shown on a terminal, and whether that is to have colours.
pub fn to_terminal() -> (bool, bool) {
    let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    (*OUT, *OUT && !plain)
}

/// Prints lines at once that are [fit](to_terminal) for where they go.
pub fn lines(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other.map_err(Error::Print),
    }
}

/// How many columns there are: the terminal's, or what people have where there is none.
pub fn width() -> usize {
    match *OUT {
        true => usize::from(crate::terminal::size().1).max(NARROWEST),
        false => COLUMNS,
    }
}

/// What a line has at most where nobody says.
const COLUMNS: usize = 100;

/// Fewer columns than this are none: a terminal that does not know its size says 0.
const NARROWEST: usize = 40;

/// How long ago, in the largest fitting unit.
pub fn ago(millis: u64) -> String {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_millis() as u64;
    let seconds = now.saturating_sub(millis) / 1000;
    match seconds {
        0..60 => format!("{seconds}s ago"),
        60..3_600 => format!("{}m ago", seconds / 60),
        3_600..86_400 => format!("{}h ago", seconds / 3_600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

/// So many of something: `1 pod`, `2 pods`.
pub fn counted(count: impl Into<u64>, one: &str, many: &str) -> String {
    match count.into() {
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

/// Numbers in order, those in a row together: `1-3` and `7`.
pub fn runs(numbers: &[u64]) -> Vec<String> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *number => *last = *number,
            _ => runs.push((*number, *number)),
        }
    }
    let text = |(first, last): &(u64, u64)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(text).collect()
}

/// About how many bytes, in the largest unit: `1.5 KiB`.
pub fn bytes(bytes: u64) -> String {
    Bytes(bytes).rounded()
}

/// The first twelve digits of a digest.
pub fn short(digest: &str) -> &str {
    let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
    hex.get(..12).unwrap_or(hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_shown_and_text_is_left() {
        assert_eq!(visible("a\tb\nc → ü 漢"), "a\tb\nc → ü 漢");
        assert_eq!(
            visible("\x1b]0;title\x07\r\x08\x7f\u{9b}31m\0"),
            "\\u{1b}]0;title\\u{7}\\u{d}\\u{8}\\u{7f}\\u{9b}31m\\u{0}"
        );
        assert_eq!(visible("ab\u{202e}cd\u{2066}"), "ab\\u{202e}cd\\u{2066}");
    }

    #[test]
    fn of_sequences_only_colours_pass() {
        let ours = "\x1b[31;1mred\x1b[0m\x1b[m";
        assert_eq!(visible_but_colours(ours), ours);
        assert_eq!(
            visible_but_colours("\x1b[2J\x1b[?1049h\x1b]0;x\x07\x1b[31"),
            "\\u{1b}[2J\\u{1b}[?1049h\\u{1b}]0;x\\u{7}\\u{1b}[31"
        );
    }
}
