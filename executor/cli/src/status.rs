//! What the command ends with: every status that is fixed, in one place. `docs/scripts.md` has the same table, and a test compares them.

/// Done.
pub const DONE: u8 = 0;

/// Failed.
pub const FAILED: u8 = 1;

/// Used wrongly.
pub const MISUSED: u8 = 2;

/// With `--exit-code`: something would be done. As `diff(1)` and `terraform plan -detailed-exitcode` have it, it is not what failed.
pub const DIFFERS: u8 = 2;

/// The new generation did not become healthy, and was put back.
pub const ROLLED_BACK: u8 = 3;

/// What Tank could not do, of what runs a command of somebody else's: below it are that command's own.
pub const NOT_RUN: u8 = 125;

/// The command can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;

/// The command is not there.
pub const NOT_FOUND: u8 = 127;

/// What ended by a signal: this and its number, as a shell has it.
pub const SIGNALLED: u8 = 128;

/// Interrupted: SIGINT is 2.
pub const INTERRUPTED: u8 = SIGNALLED + 2;

#[cfg(test)]
mod tests {
    use super::*;

    /// Each with what the page begins to say of it, and the test that holds it.
    const ALL: [(u8, &str, &str); 10] = [
        (DONE, "done", "tests/tests/scenario.rs the_main_job"),
        (
            FAILED,
            "failed",
            "tests/tests/gc.rs what_no_generation_needs_goes_and_nothing_else",
        ),
        (
            MISUSED,
            "used wrongly",
            "tests/tests/refusals.rs what_the_daemon_is_asked_for",
        ),
        (
            DIFFERS,
            "with `--exit-code`",
            "tests/tests/scenario.rs the_main_job",
        ),
        (
            ROLLED_BACK,
            "put back",
            "tests/tests/scenario.rs a_switch_that_does_not_become_healthy_is_put_back",
        ),
        (
            NOT_RUN,
            "of `exec`, `run` and `attach`: Tank could not",
            "tests/tests/exec.rs what_can_not_be_entered_is_said_clearly",
        ),
        (
            NOT_EXECUTABLE,
            "of `exec` and `run`: the command can't be executed",
            "tests/tests/exec.rs several_at_once_and_without_a_terminal",
        ),
        (
            NOT_FOUND,
            "of `exec` and `run`: the command is not there",
            "tests/tests/exec.rs several_at_once_and_without_a_terminal",
        ),
        (
            SIGNALLED,
            "and a signal's number",
            "tests/tests/exec.rs several_at_once_and_without_a_terminal",
        ),
        (
            INTERRUPTED,
            "interrupted",
            "tests/tests/outcomes.rs an_interrupt_after_the_commit_says_what_goes_on_and_how_to_end_it",
        ),
    ];

    fn read(path: &str) -> String {
        let path = format!("{}/../../{path}", env!("CARGO_MANIFEST_DIR"));
        std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    #[test]
    fn the_page_has_every_status_and_no_other() {
        let page = read("docs/scripts.md");
        let table = page
            .split("| Status | |\n| --- | --- |\n")
            .nth(1)
            .expect("the table");
        let rows = table.lines().take_while(|line| line.starts_with('|'));
        let rows: Vec<(u8, &str)> = rows
            .map(|row| {
                let mut cells = row.trim_matches('|').split('|').map(str::trim);
                let status = cells.next().expect("a status").parse();
                (
                    status.expect("a number"),
                    cells.next().expect("what it says"),
                )
            })
            .collect();
        for (at, (status, words, _)) in ALL.iter().enumerate() {
            let (shown, says) = rows
                .get(at)
                .unwrap_or_else(|| panic!("{status} is not in the page"));
            assert!(
                shown == status && says.starts_with(words),
                "{status}: {shown} {says}"
            );
        }
        assert_eq!(rows.len(), ALL.len());
    }

    /// The test is there, and compares with the number.
    #[test]
    fn every_status_is_held_by_a_test() {
        for (status, _, place) in ALL {
            let (file, name) = place.split_once(' ').expect("a file and a test");
            let text = read(file);
            let begin = text
                .find(&format!("\nfn {name}()"))
                .unwrap_or_else(|| panic!("{place}"));
            let body = &text[begin + 1..];
            let body = body.split("\n}\n").next().unwrap_or(body);
            let is_held = match status {
                DONE => body.contains(").ok()"),
                SIGNALLED => body.contains("137"),
                status => {
                    let digits = status.to_string();
                    body.lines().any(|line| {
                        line.contains("status")
                            && line
                                .split(|c: char| !c.is_ascii_digit())
                                .any(|word| word == digits)
                    }) || body.contains(&format!("\"--exit-code\", &web]).status, {digits}"))
                }
            };
            assert!(is_held, "{place} does not compare with {status}");
        }
    }

    /// No other file makes up a status of its own.
    #[test]
    fn no_other_place_has_one() {
        fn sources(folder: &std::path::Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    sources(&path, found);
                } else if path.extension().is_some_and(|end| end == "rs") {
                    found.push(path);
                }
            }
        }
        let mut found = Vec::new();
        sources(
            std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")),
            &mut found,
        );
        assert!(found.len() > 40, "{found:?}");
        for path in found {
            let text = std::fs::read_to_string(&path).expect("a source");
            let code = text
                .split("\n#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or(&text);
            let made_up = code.lines().find(|line| {
                let number = line
                    .split("Ok(")
                    .skip(1)
                    .find_map(|rest| rest.split(')').next());
                number.is_some_and(|number| number.parse::<u8>().is_ok_and(|number| number > 1))
            });
            assert_eq!(made_up, None, "{}", path.display());
        }
    }
}
