//! Arguments that are none of this program's: what is wrong, and what to type.

use crate::{elsewhere, error, output, status::MISUSED};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::ffi::OsStr;

/// Prints what `clap` says (also `--help` and `--version`, which it has as errors); the status that the command ends with.
pub fn refuse(mut error: clap::Error) -> u8 {
    let status = u8::try_from(error.exit_code()).unwrap_or(MISUSED);
    let here = elsewhere::here(&error);
    if here.is_some() {
        // The word is another program's: what is spelled like it here does something else.
        for similar in [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg] {
            error.remove(similar);
        }
    }
    if error.kind() == ErrorKind::UnknownArgument {
        // "to pass it as a value": of all that there is, only what `exec` runs begins with a dash.
        error.remove(ContextKind::Suggested);
    }
    without_socket(&mut error);
    let asked = matches!(
        error.kind(),
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
    );
    if !asked && std::env::args_os().any(|arg| arg == *OsStr::new("--json")) {
        let text = error.render().to_string();
        let (message, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
        let message = message.trim_start_matches("error:").trim();
        let tip = rest
            .lines()
            .find_map(|line| line.trim().strip_prefix("tip: "));
        error::json::usage(message, here.or(tip), status);
        return status;
    }
    let text = error.render().to_string();
    let shown = output::for_error(&text, 2);
    match asked || shown == text {
        // As `clap` does where it prints: what can't be printed reaches nobody.
        true => drop(error.print()),
        false => output::error(&shown),
    }
    if let Some(here) = here {
        let text = format!("\n  help: {here}\n");
        output::error(&output::for_error(&text, 2));
    }
    status
}

/// Leaves the socket out of a usage line: it is there wherever the environment names one, and says nothing of what is wrong.
fn without_socket(error: &mut clap::Error) {
    let usage = match error.get(ContextKind::Usage) {
        Some(ContextValue::StyledStr(usage)) => usage.to_string(),
        _ => return,
    };
    let plain = usage.replace(" --socket <SOCKET>", "");
    if plain != usage {
        error.insert(ContextKind::Usage, ContextValue::StyledStr(plain.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::without_socket;
    use crate::args::Args;
    use clap::{Parser, error::ContextKind};

    #[test]
    fn a_usage_line_has_no_socket() {
        let typed = ["tank", "stop", "--socket", "/tmp/x"];
        let mut error = Args::try_parse_from(typed).expect_err("no pod");
        assert!(error.render().to_string().contains("--socket <SOCKET>"));
        without_socket(&mut error);
        let text = error.render().to_string();
        assert!(
            text.contains("Usage: tank stop <POD[/CONTAINER]>..."),
            "{text}"
        );
    }

    #[test]
    fn what_is_spelled_alike_is_not_proposed_for_a_word_of_others() {
        let mut error = Args::try_parse_from(["tank", "remove", "web"]).expect_err("no command");
        error.remove(ContextKind::SuggestedSubcommand);
        assert!(
            !error.render().to_string().contains("tip:"),
            "{}",
            error.render()
        );
    }
}
