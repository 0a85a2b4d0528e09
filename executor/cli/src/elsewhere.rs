//! What commands are called elsewhere: in Compose, Docker and Podman. Whoever comes from there types them
//! first, and is told what to type here.

use clap::error::{ContextKind, ContextValue, ErrorKind};

/// A command as it is called elsewhere, and what there is here.
const WORDS: [(&str, &str); 36] = [
    (
        "up",
        "`tank switch pods.ncl` makes the host what the file says, and waits for health",
    ),
    ("create", SWITCH),
    ("deploy", SWITCH),
    ("down", DELETE),
    (
        "kill",
        "`tank stop POD --timeout 0` kills it, and it stays so; `tank exec POD -- kill -HUP 1` sends another signal, where the image has `kill`",
    ),
    (
        "pause",
        "no command of this version freezes containers: `tank stop POD` ends them, and `tank start POD` starts them again",
    ),
    (
        "unpause",
        "`tank start POD` starts what `tank stop` stopped",
    ),
    (
        "scale",
        "say it in the file: `tank doc tank.replicas`; then `tank switch pods.ncl`",
    ),
    (
        "ps",
        "`tank list` shows the pods, `tank get POD` one of them",
    ),
    (
        "top",
        "`tank stats` shows what pods use, `tank exec POD -- ps` the processes of a container that has `ps`",
    ),
    ("inspect", "`tank get POD --json`"),
    (
        "port",
        "`tank list` shows what is published, `tank port-forward POD PORT` leads to a port that is not",
    ),
    ("describe", "`tank get POD`"),
    (
        "config",
        "`tank check pods.ncl` says whether it is right, `tank build pods.ncl` what it becomes",
    ),
    ("convert", IMPORT),
    (
        "compose",
        "`tank` has Compose's commands itself: `tank switch pods.ncl` for `up`, `tank list` for `ps`; `tank import compose.yaml` makes the file",
    ),
    ("info", "`tank status`, `tank doctor`"),
    ("version", "`tank --version`"),
    (
        "container",
        "`tank list`, `tank get POD`, `tank stop POD`: a container is of a pod",
    ),
    ("save", "`tank image save NAME -o FILE`"),
    (
        "watch",
        "`tank events -f` shows what happens, `tank stats` what pods use",
    ),
    (
        "wait",
        "`tank switch` waits until all is healthy, `tank events -f` shows what happens",
    ),
    (
        "pull",
        "`tank image pull NAME` keeps one by hand; `tank switch` pulls what the configuration names, `tank lock --update` asks again what a tag stands for",
    ),
    ("load", ARCHIVE),
    ("images", "`tank image list`"),
    ("push", IMAGES),
    ("tag", IMAGES),
    ("search", IMAGES),
    ("commit", IMAGES),
    (
        "rmi",
        "`tank image remove NAME` ends what was pulled or loaded by hand, `tank gc` removes what nothing needs",
    ),
    ("prune", GC),
    (
        "system",
        "`tank disk-usage` says what takes the disk, `tank gc` removes what no generation needs, `tank status` and `tank doctor` say how the host is",
    ),
    (
        "network",
        "`tank list networks` shows them; they are in the configuration: `tank doc networks`",
    ),
    (
        "history",
        "`tank generations list`; of an image: `tank image inspect NAME`",
    ),
    ("rollback", "`tank generations rollback`"),
    ("undo", "`tank generations rollback`"),
];

/// Options of `docker run` that say what is declared here.
const DECLARED: [&str; 13] = [
    "-v",
    "--volume",
    "--mount",
    "-p",
    "--publish",
    "-P",
    "-d",
    "--detach",
    "--privileged",
    "--cap-add",
    "--network",
    "--name",
    "--device",
];

const SWITCH: &str = "write it into a file (`tank init` begins one), then `tank switch pods.ncl`";
const DELETE: &str = "`tank delete POD`, or `tank delete --stack NAME`; volumes stay";
const GC: &str = "`tank gc` removes what no generation needs, `tank gc --dry-run` says what that is; volumes stay";
const IMPORT: &str = "`tank import compose.yaml` writes it as Nickel";
const ARCHIVE: &str = "`tank image load FILE` keeps its images by their names; without that it is used where it is: `image = \"docker-archive:./app.tar\"` in the configuration";
const LOGIN: &str = "a password among the arguments can be read by everybody on this host: `--password-stdin` takes it from standard input, and without it `tank login` asks";
const RUN: &str = "`tank run POD -- CMD` has what its pod declares, and of an image nothing else: volumes, networks and rights are declared (`tank doc pods`), and ports are reached by `tank port-forward`; `-e`, `-w`, `-u` and `--entrypoint` are its own";
const IMAGES: &str = "no command of this version does that: images are built elsewhere, and named in the configuration";

/// What to type in the place of a command that there is not.
pub fn here(error: &clap::Error) -> Option<&'static str> {
    if error.kind() == ErrorKind::UnknownArgument {
        let named = error.get(ContextKind::InvalidArg).map(ToString::to_string);
        let words: Vec<String> = std::env::args().skip(1).collect();
        return named.and_then(|named| option(&words, &named));
    }
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(word)) => {
            let before: Vec<String> = std::env::args().take_while(|arg| arg != word).collect();
            let of = |family: &str| before.iter().any(|arg| arg == family);
            let of_family = match (of("volume"), of("image")) {
                (true, _) => volume(word),
                (_, true) => image(word),
                _ => None,
            };
            of_family.or_else(|| here_of(word))
        }
        _ => None,
    }
}

/// Options as they are called elsewhere, each of some commands, and what there is here.
const OPTIONS: [(&[&str], &[&str], &str); 17] = [
    (&["login"], &["-p", "--password"], LOGIN),
    (&["run"], &DECLARED, RUN),
    (
        &["list", "ls"],
        &["-a", "--all"],
        "`tank list` shows all pods, also those that do not run",
    ),
    (
        &["list", "ls"],
        &["-q", "--quiet", "--names"],
        "`tank list --json | jq -r '.pods[].name'` prints the names alone",
    ),
    (
        &["list", "ls", "stats", "get", "events", "volume", "image"],
        &["--format", "--template", "--output"],
        "`--json` prints all there is, for `jq` and other programs",
    ),
    (
        &["list", "ls", "get"],
        &["-o"],
        "`--json` prints all there is, and `tank list --wide` shortens nothing",
    ),
    (
        &["list", "ls"],
        &["-f", "--filter"],
        "`tank list --stack NAME` shows one stack; `tank list --json` is for `jq`",
    ),
    (
        &["events"],
        &["--filter"],
        "`tank events web --kind failed,exited`, `tank events --stack NAME`: by pods, kinds and stacks",
    ),
    (
        &["events"],
        &["--format"],
        "`tank events --json` prints a document an event",
    ),
    (
        &["delete", "rm"],
        &["-f", "--force", "-y", "--yes"],
        "nothing asks first: `tank delete POD` ends what runs, and `tank generations rollback` brings it back",
    ),
    (
        &["delete", "rm"],
        &["-v", "--volumes"],
        "volumes stay: `tank volume remove POD/VOLUME` removes one that no pod declares any more",
    ),
    (
        &["import"],
        &["-f", "--file"],
        "files are named without an option: `tank import compose.yaml`",
    ),
    (
        &["switch", "apply", "diff", "check", "build", "lock"],
        &["-f", "--file", "--filename"],
        "files are named without an option: `tank switch base.ncl prod.ncl`",
    ),
    (
        &["switch", "apply"],
        &["-d", "--detach"],
        "a switch waits until all is healthy, and goes back if it does not become so; what was begun goes on if it is interrupted",
    ),
    (
        &["switch", "apply"],
        &["--build", "--force-recreate"],
        "images are built elsewhere; `tank restart POD` starts a pod anew, `tank lock --update` asks again what a tag stands for",
    ),
    (
        &["exec"],
        &["-d", "--detach"],
        "a command runs while its caller stays; what is to run on is a container of its pod: `tank doc containers`",
    ),
    (
        &["stats"],
        &["-a", "--all"],
        "`tank stats` shows every pod that is declared",
    ),
];

/// What to type in the place of an option that there is not. `words`: all that was typed.
fn option(words: &[String], named: &str) -> Option<&'static str> {
    let is_command = |command: &&str| words.iter().any(|word| word == command);
    let named = named.split('=').next().unwrap_or(named);
    let found = OPTIONS
        .iter()
        .find(|(commands, options, _)| options.contains(&named) && commands.iter().any(is_command));
    found.map(|(.., help)| *help)
}

/// What to type in the place of a command for volumes that there is not.
fn volume(word: &str) -> Option<&'static str> {
    match word {
        "prune" => Some(
            "`tank volume remove --orphans` removes those that no generation names; with `--dry-run` it says which",
        ),
        "inspect" | "show" | "get" => Some("`tank volume list --json`"),
        "create" | "add" => Some(
            "a volume is in its pod's configuration: `tank doc volumes`; `tank volume import` makes one of an archive",
        ),
        "backup" | "save" | "cp" => Some("`tank volume export POD/VOLUME -o FILE`"),
        "load" => Some("`tank volume import POD/VOLUME FILE`"),
        _ => None,
    }
}

/// What to type in the place of a command for images that there is not.
fn image(word: &str) -> Option<&'static str> {
    match word {
        "prune" => Some(GC),
        "show" | "get" => Some("`tank image inspect NAME`"),
        "history" => Some("`tank image inspect NAME` shows the layers"),
        "import" => Some(
            "of a root directory's archive: unpack it, and `image = \"dir:./FOLDER\"` in the configuration",
        ),
        "tag" => Some("a loaded image gets its name by `tank image load --name NAME:TAG`"),
        _ => None,
    }
}

fn here_of(word: &str) -> Option<&'static str> {
    let known = WORDS.iter().find(|(elsewhere, _)| *elsewhere == word);
    known.map(|(_, help)| *help)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Args, Command};
    use clap::{CommandFactory, Parser};

    #[test]
    fn what_is_a_command_here_is_in_no_list_of_others() {
        let command = Args::command();
        for (word, help) in WORDS {
            assert!(command.find_subcommand(word).is_none(), "{word}");
            // Whatever it tells to type, there is.
            for typed in help.split("`tank ").skip(1) {
                let first = typed.split([' ', '`']).next().expect("a word");
                if first.starts_with('-') {
                    continue;
                }
                assert!(command.find_subcommand(first).is_some(), "{word}: {help}");
            }
        }
    }

    #[test]
    fn an_option_from_elsewhere_has_an_answer() {
        let command = Args::command();
        for (commands, options, help) in OPTIONS {
            for (name, typed) in commands
                .iter()
                .flat_map(|name| options.iter().map(move |typed| (*name, *typed)))
            {
                let found = command.find_subcommand(name).expect(name);
                if found.has_subcommands() {
                    continue;
                }
                let error = Args::try_parse_from(["tank", name, typed, "x"]).expect_err(typed);
                let words = ["tank", name, typed].map(str::to_owned);
                let answer = option(
                    &words,
                    &error.get(ContextKind::InvalidArg).expect(typed).to_string(),
                );
                assert!(answer.is_some(), "{name} {typed}: {error}");
            }
            for typed in help.split("`tank ").skip(1) {
                let line = typed.split(['`', '|']).next().expect("a command");
                let words = shell_words(line);
                let parsed = Args::try_parse_from(["tank".to_owned()].into_iter().chain(words));
                let kind = parsed.err().map(|error| error.kind());
                let is_there = kind.is_none_or(|kind| kind == ErrorKind::MissingRequiredArgument);
                assert!(is_there, "{line}: {kind:?}");
            }
        }
        let words = ["list", "--unknown"].map(str::to_owned);
        assert_eq!(option(&words, "--unknown"), None);
    }

    /// With a number where one is meant.
    fn shell_words(line: &str) -> Vec<String> {
        let words = line.split_whitespace();
        words
            .map(|word| {
                if word == "NAME" {
                    "name".to_owned()
                } else {
                    word.to_owned()
                }
            })
            .collect()
    }

    #[test]
    fn a_word_from_elsewhere_has_an_answer() {
        for (typed, answer) in [("ps", Some("`tank list`")), ("upp", None)] {
            let error = Args::try_parse_from(["tank", typed]).expect_err("no command");
            let here = here(&error);
            assert_eq!(here.is_some(), answer.is_some());
            assert!(answer.is_none_or(|answer| here.is_some_and(|here| here.starts_with(answer))));
        }
    }

    /// `exec -it web sh -c …`, as hands type it, and with `--`.
    #[test]
    fn exec_takes_its_command_with_and_without_dashes() {
        for typed in [
            &["exec", "-it", "web", "sh", "-c", "ls -l"][..],
            &["exec", "web", "--", "sh", "-c", "ls -l"],
            &["exec", "--cwd", "/", "web", "sh", "-c", "ls -l"],
            &["exec", "-w", "/", "-u", "app", "web", "sh", "-c", "ls -l"],
        ] {
            let args = Args::try_parse_from([&["tank"], typed].concat()).expect("parses");
            let Command::Exec(exec) = args.command else {
                panic!("{typed:?}");
            };
            assert_eq!(
                (exec.target.as_str(), exec.argv.join("|")),
                ("web", "sh|-c|ls -l".to_owned())
            );
        }
        assert!(Args::try_parse_from(["tank", "exec", "web"]).is_err());
    }
}
