//! Sentences on a terminal: broken between words, never within one. What is piped stays one line.

use super::{ERR, OUT, visible, whole, width};
use crate::error::Error;

/// The fewest characters that a line keeps for its words, however far it is indented.
const LEAST: usize = 20;

/// Prints sentences to standard output; what does not fit on a line goes on below it, indented by `hanging` more.
pub fn sentence(text: &str, hanging: usize) -> Result<(), Error> {
    match *OUT {
        true => whole(&wrapped(&visible(text), width(), hanging)),
        false => whole(text),
    }
}

/// A text for standard error, likewise.
pub fn for_error(text: &str, hanging: usize) -> String {
    match *ERR {
        true => wrapped(&visible(text), error_width(), hanging),
        false => text.to_owned(),
    }
}

/// How many columns standard error has.
pub fn error_width() -> usize {
    let columns = rustix::termios::tcgetwinsize(rustix::stdio::stderr()).map(|size| size.ws_col);
    match columns {
        Ok(columns) if *ERR => usize::from(columns).max(super::NARROWEST),
        _ => super::COLUMNS,
    }
}

/// Each line of a text in lines of `most` characters, where its words allow that. Those that go on keep the indentation of theirs,
/// and `hanging` more.
pub fn wrapped(text: &str, most: usize, hanging: usize) -> String {
    let lines = text.split('\n').map(|text| {
        let indent = text.len() - text.trim_start_matches(' ').len();
        let (before, rest) = text.split_at(indent);
        let room = most.saturating_sub(indent).max(LEAST);
        let next = most.saturating_sub(indent + hanging).max(LEAST);
        let between = format!("\n{before}{:hanging$}", "");
        format!("{before}{}", in_lines(rest, room, next).join(&between))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A text in lines: the first of `room` characters, the others of `next`.
pub fn in_lines(text: &str, room: usize, next: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut own = String::new();
    for word in words(text, next) {
        let most = if lines.is_empty() { room } else { next };
        if !own.is_empty() && own.chars().count() + 1 + word.chars().count() > most {
            lines.push(std::mem::take(&mut own));
        }
        if !own.is_empty() {
            own.push(' ');
        }
        own.push_str(word);
    }
    lines.push(own);
    lines
}

/// The words of a text. What stands in backticks is one, so that it can be copied, unless it is longer than a line.
fn words(text: &str, most: usize) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let end = end_of_word(rest, most);
        let (word, behind) = rest.split_at(end);
        words.push(word);
        // Several spaces are kept where they are within a line: as words of nothing.
        rest = behind.strip_prefix(' ').unwrap_or(behind);
    }
    words
}

fn end_of_word(text: &str, most: usize) -> usize {
    let plain = text.find(' ').unwrap_or(text.len());
    let Some(opens) = text[..plain].find('`') else {
        return plain;
    };
    let inside = &text[opens + 1..];
    let closes = inside.find(['`', '\n']).map(|at| opens + 1 + at + 1);
    match closes {
        Some(closes) if closes > plain => {
            let end = text[closes..]
                .find(' ')
                .map_or(text.len(), |at| closes + at);
            let is_short = text[..end].chars().count() <= most;
            if is_short { end } else { plain }
        }
        _ => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_break_between_words_and_no_command_is_broken() {
        let text = "Error: no such pod: `wbe`\n  help: it is kept until the next import: `tank volume restore web/data --replaced` \
                    brings it back\n";
        insta::assert_snapshot!(wrapped(text, 60, 2), @r"
        Error: no such pod: `wbe`
          help: it is kept until the next import:
            `tank volume restore web/data --replaced` brings it back
        ");
        // A word that is longer than a line stays whole.
        let long = format!("see {}", "x".repeat(50));
        assert_eq!(wrapped(&long, 40, 0), format!("see\n{}", "x".repeat(50)));
        let span = format!("`tank exec {}`", "y ".repeat(30));
        assert!(wrapped(&span, 40, 0).lines().count() > 1);
        assert_eq!(wrapped("", 40, 2), "");
        assert_eq!(wrapped("a  b `c", 40, 2), "a  b `c");
        assert_eq!(wrapped("ü `ä ö` é", 40, 2), "ü `ä ö` é");
    }
}
