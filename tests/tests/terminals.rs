//! Every command that prints, at real terminals of 80 and 200 columns, in colour and without, and into a pipe:
//! no line is longer than the terminal, no word is broken, and nothing but a terminal gets an escape.

use std::{collections::BTreeSet, process::Command};
use tank_tests::{Host, RUN, pty::Terminal};

/// Names that are as long as people have them, pods in every state, and something of everything that is listed.
fn host() -> Host {
    let host = Host::new();
    let pod = |name: &str, more: &str| {
        format!(
            "pods.{name} = {{ containers.application = {{ image = \"oci:./busybox\", {RUN}, stop.signal = \"SIGKILL\" {more} }}"
        )
    };
    let mounts = ", mounts.data = { volume = \"uploads-of-users\", path = \"/srv/uploads\" }, env.GREETING = \"hello\"";
    let config = |greeting: &str| {
        format!(
            "{{ stack = \"photographs\", volumes.uploads-of-users = {{}}, networks.front-of-house = {{}},
               {}, volumes.uploads-of-users.shared = \"uploads-of-users\", networks.front-of-house = {{}},
                 publish.http = {{ port = 18080, to = 80 }}, publish.metrics = {{ port = 19090, to = 9090 }} }},
               {} }}, {} }},
               pods.migration-job = {{ restart = 'never, containers.migrate = {{ image = \"oci:./busybox\", command = [\"/bin/true\"] }} }} }}",
            pod("thumbnailer-of-pictures", &mounts.replace("hello", greeting)),
            pod("worker", ""),
            pod("stopped-by-hand", ""),
        )
    };
    host.write("photographs.ncl", &config("hello"));
    host.tank(&["switch", "photographs.ncl"]).ok();
    host.tank(&["stop", "photographs:stopped-by-hand"]).ok();
    host.write(
        "photographs.ncl",
        &config("good morning to everybody who looks at these pictures"),
    );
    host.write("wrong.ncl", "{ pods.web = { containers.app = { image = \"nginx\", mounts.data = { volume = \"dta\", path = \"/data\" }, \
                              limts.memory = \"1GiB\" }, volumes.data = {} } }");
    host.write(
        "compose.yaml",
        "services:\n  web:\n    image: nginx:1.27\n    build: .\n    ports: [\"8080:80\"]\n",
    );
    host
}

/// What prints, and the statuses with which it ends.
const COMMANDS: &[(&[&str], i32)] = &[
    (&["list"], 0),
    (&["list", "networks"], 0),
    (&["get", "photographs:thumbnailer-of-pictures"], 0),
    (&["status"], 0),
    (&["explain", "photographs:stopped-by-hand"], 0),
    (&["explain", "photographs:migration-job"], 0),
    (&["events", "-n", "50"], 0),
    (&["diff"], 0),
    (&["diff", "photographs.ncl"], 0),
    (&["generations", "list"], 0),
    (&["generations", "show", "1"], 0),
    (&["generations", "rollback", "--dry-run", "1"], 0),
    (&["image", "list"], 0),
    (&["image", "inspect", "oci:./busybox"], 0),
    (&["volume", "list"], 0),
    (&["volume", "backups"], 0),
    (&["gc", "--dry-run"], 0),
    (&["fsck"], 0),
    (
        &[
            "why",
            "photographs:thumbnailer-of-pictures.application.env.GREETING",
        ],
        0,
    ),
    (&["doc", "containers.readiness"], 0),
    (&["doc", "publish"], 0),
    (&["doc", "tank::mount::unknown_volume"], 0),
    (&["check", "photographs.ncl"], 0),
    (&["check", "wrong.ncl"], 1),
    (&["import", "compose.yaml"], 0),
    (&["get", "photographs:thumbnailer-of-picture"], 1),
    (
        &[
            "exec",
            "photographs:worker",
            "--",
            "no-such-program-anywhere",
        ],
        127,
    ),
    (
        &[
            "switch",
            "no-such-file-in-this-folder-or-any-other-that-there-is.ncl",
        ],
        1,
    ),
    (
        &["logs", "photographs:no-such-pod-of-this-stack-is-there-now"],
        1,
    ),
    (&["volume", "remove", "photographs:uploads-of-users"], 1),
    (&["delete", "volumes.photographs:uploads-of-users"], 1),
    (&["--help"], 0),
    (&["switch", "--help"], 0),
    (&["logs", "--help"], 0),
    (&["prune"], 2),
];

/// What a terminal shows in the end, without colours: what was drawn over is gone.
fn plain(shown: &str) -> String {
    let (mut text, mut line) = (String::new(), String::new());
    let mut rest = shown.chars().peekable();
    while let Some(one) = rest.next() {
        match one {
            '\u{1b}' => {
                let end = rest.by_ref().find(char::is_ascii_alphabetic);
                // Up, or to the beginning: what is drawn there next is drawn anew.
                if end.is_some_and(|end| "AFG".contains(end)) {
                    line.clear();
                }
            }
            '\r' if rest.peek() == Some(&'\n') => {}
            '\r' => line.clear(),
            '\n' => {
                text.push_str(line.trim_end());
                text.push('\n');
                line.clear();
            }
            one => line.push(one),
        }
    }
    text + &line
}

/// Whether a line is of a source, as it is written, or one word that can't be divided.
fn may_be_long(line: &str) -> bool {
    let of_frame = line
        .trim_start()
        .trim_start_matches(|one: char| one.is_ascii_digit());
    let is_framed = of_frame.trim_start().starts_with(['│', '·', '┆']);
    let is_source = line.starts_with("{ ") || line.starts_with('#');
    is_framed || is_source || line.split_whitespace().count() < 3
}

/// Words, without what frames and lists put around them.
fn words(text: &str) -> BTreeSet<&str> {
    let frame = |one: char| "│╭╰─·┬×☞├▶┴".contains(one);
    text.split(|one: char| one.is_whitespace() || frame(one))
        .map(|word| {
            word.trim_end_matches([',', ';', ')'])
                .trim_start_matches('(')
        })
        .filter(|word| !word.is_empty())
        .collect()
}

/// Without what is drawn while something goes on: that is on standard error.
fn run(host: &Host, args: &[&str], columns: u16, no_color: bool) -> (i32, String) {
    let tank = host.command(args);
    let mut command = Command::new(tank.get_program());
    command.args(tank.get_args());
    command.current_dir(&host.dir).envs(
        tank.get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    if no_color {
        command.env("NO_COLOR", "1");
    }
    let mut terminal = Terminal::of(&command, columns);
    let status = terminal.ended();
    (status, terminal.shown.clone())
}

#[test]
fn what_is_printed_fits_its_terminal() {
    let host = host();
    let mut wrong = Vec::new();
    for &(args, ref expected) in COMMANDS {
        let piped = host.tank(args);
        assert_eq!(
            piped.status, *expected,
            "{args:?}: {}{}",
            piped.stdout, piped.stderr
        );
        let all = format!("{}{}", piped.stdout, piped.stderr);
        if all.contains('\u{1b}') {
            wrong.push(format!("{args:?}: an escape in a pipe: {all:?}"));
        }
        // What a narrow list leaves out, a wide one has.
        let wide = match args {
            ["list"] => host.tank(&["list", "--wide"]).stdout,
            _ => String::new(),
        };
        let mut known = words(&all);
        known.extend(words(&wide));
        // Times go on, and what is left out is counted.
        let is_number = |word: &str| {
            word.starts_with(|one: char| one.is_ascii_digit() || one == '+') && word.len() < 4
        };
        for columns in [80, 200] {
            for no_color in [false, true] {
                let (status, shown) = run(&host, args, columns, no_color);
                let how = format!("{args:?} at {columns}");
                assert_eq!(status, *expected, "{how}: {shown}");
                if no_color && shown.contains("\u{1b}[3") {
                    wrong.push(format!("{how}: a colour in spite of NO_COLOR: {shown:?}"));
                }
                let plain = plain(&shown);
                let long =
                    |line: &&str| line.chars().count() > columns.into() && !may_be_long(line);
                for line in plain.lines().filter(long) {
                    wrong.push(format!("{how}: too long: {line}"));
                }
                for word in words(&plain) {
                    if !known.contains(word) && !word.contains('…') && !is_number(word) {
                        wrong.push(format!("{how}: not a word of what is piped: {word}"));
                    }
                }
            }
        }
    }
    wrong.dedup();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    host.finish();
}

/// What is longer than a terminal is read in pages there, by the pager that is asked for, and nothing of the command changes by it.
#[test]
fn what_is_long_is_read_in_pages() {
    let host = Host::new();
    let pod = format!("{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}");
    host.write("web.ncl", &pod);
    let with = |pager: Option<&str>, args: &[&str]| {
        let mut command = host.command(args);
        command
            .env_remove("TANK_PAGER")
            .env_remove("PAGER")
            .env_remove("LESS");
        if let Some(pager) = pager {
            command.env("TANK_PAGER", pager);
        }
        command
    };
    let shown = |pager: Option<&str>, args: &[&str]| {
        let mut terminal = Terminal::of(&with(pager, args), 80);
        (terminal.ended(), terminal.shown.clone())
    };
    // By a shell, with its options; the status is the command's.
    let marks = "sed 's/^/page: /'";
    let (status, text) = shown(Some(marks), &["diff", "--exit-code", "web.ncl"]);
    assert_eq!(status, 2, "{text}");
    assert!(
        text.contains("page: ") && text.contains("start web/app"),
        "{text}"
    );
    let (status, text) = shown(Some(marks), &["doc", "publish"]);
    assert!(status == 0 && text.contains("page: "), "{text}");
    // Nobody asks for one: lists, JSON, an option, an empty name.
    for (pager, args) in [
        (marks, &["list"][..]),
        (marks, &["--json", "diff", "web.ncl"]),
        (marks, &["--no-pager", "doc", "publish"]),
        (marks, &["events", "-f", "--until", "1s"]),
        ("", &["doc", "publish"]),
        ("cat", &["doc", "publish"]),
    ] {
        let (status, text) = shown(Some(pager), args);
        assert!(status == 0 && !text.contains("page: "), "{args:?}: {text}");
        assert!(args == ["list"] || args[0] == "events" || !text.is_empty());
    }
    let piped = with(Some(marks), &["doc", "publish"])
        .output()
        .expect("tank");
    assert!(!String::from_utf8_lossy(&piped.stdout).contains("page: "));
    // One that is not there loses nothing; one that is left early ends nothing.
    let (status, text) = shown(Some("no-such-pager"), &["doc", "publish"]);
    assert!(status == 0 && text.contains("fields:"), "{text}");
    let (status, text) = shown(Some("true"), &["diff", "--exit-code", "web.ncl"]);
    assert_eq!((status, text.contains("panicked")), (2, false), "{text}");
    // `less` itself: it waits where there is more than a page, whatever Ctrl-C does to others, and not where all fits.
    let mut terminal = Terminal::of(&with(None, &["doc", "publish"]), 80);
    terminal.expect(":");
    terminal.type_in("\x03");
    terminal.type_in("q");
    assert_eq!(terminal.ended(), 0);
    let (status, text) = shown(None, &["diff", "--exit-code", "web.ncl"]);
    assert_eq!(status, 2, "{text}");
    host.finish();
}
