//! Every command that the documents name is one, with the options that they give it.

use super::Args;
use clap::{Parser, error::ErrorKind};
use std::path::{Path, PathBuf};

fn repository() -> PathBuf {
    let package = std::env::var_os("CARGO_MANIFEST_DIR").expect("run by cargo");
    Path::new(&package).join("../..")
}

/// The commands that a text names: in code spans, in indented lines up to two spaces, in lines of shell.
fn commands(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines() {
        let spans = line.split('`').skip(1).step_by(2);
        found.extend(
            spans
                .filter(|span| span.starts_with("tank "))
                .map(str::to_owned),
        );
        let shell = line.trim_start().trim_start_matches("$ ");
        let is_line = line.starts_with("    ") || line.starts_with("tank ");
        let command = shell.split("  ").next().unwrap_or_default();
        if is_line && command.starts_with("tank ") && !command.contains('`') {
            found.push(command.to_owned());
        }
    }
    found
}

/// What a shell would hand to the program: up to the next command, and with something in the places of placeholders.
fn words(command: &str) -> Vec<String> {
    let ends = |word: &&str| !matches!(*word, "|" | "&&" | ">" | "<" | "#" | ";" | "&");
    let words = command.split_whitespace().take_while(ends);
    let given = |word: &str| {
        let word = word.trim_matches(['[', ']', '\'', '"', ';', ',']);
        match word {
            "N" | "A" | "B" => "1".to_owned(),
            "AGE" => "30d".to_owned(),
            "DURATION" => "30s".to_owned(),
            "PORT" => "80".to_owned(),
            other => other.to_owned(),
        }
    };
    let is_word = |word: &String| !word.is_empty() && !matches!(word.as_str(), "…" | "...");
    words.map(given).filter(is_word).collect()
}

#[test]
fn what_the_documents_name_is_a_command() {
    let mut files = vec![
        "README.md".into(),
        "CONTRIBUTING.md".into(),
        "stdlib/errors.md".into(),
        "stdlib/tank.ncl".into(),
    ];
    let docs = std::fs::read_dir(repository().join("docs")).expect("docs");
    let docs = docs.map(|entry| Path::new("docs").join(entry.expect("an entry").file_name()));
    files.extend(docs.filter(|file| file.extension().is_some_and(|end| end == "md")));
    files.push("examples/README.md".into());
    let examples = std::fs::read_dir(repository().join("examples")).expect("examples");
    let examples =
        examples.map(|entry| Path::new("examples").join(entry.expect("an entry").file_name()));
    let guides = examples.map(|example| example.join("README.md"));
    files.extend(guides.filter(|guide| repository().join(guide).exists()));
    let mut wrong = Vec::new();
    let mut count = 0;
    for file in files {
        let text = std::fs::read_to_string(repository().join(&file)).expect("a document");
        for command in commands(&text) {
            count += 1;
            let words = words(&command);
            // A list of alternatives is prose.
            if words.iter().any(|word| word.contains('|')) {
                continue;
            }
            let Err(error) = Args::try_parse_from(&words) else {
                continue;
            };
            // What lacks an argument, or an option's value, is a name.
            let is_option = words.last().is_some_and(|last| last.starts_with("--"));
            let is_option = is_option && error.kind() == ErrorKind::InvalidValue;
            let is_name = is_option
                || matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                );
            if !is_name {
                wrong.push(format!("{}: {command}: {}", file.display(), error.kind()));
            }
        }
    }
    assert!(count > 100, "{count}");
    assert_eq!(wrong, Vec::<String>::new());
}
