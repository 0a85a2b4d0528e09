//! By what reaches an operator's terminal, and what it costs.

use super::*;

/// Logs as a shim writes them: 26 MB in two files. The text of a line is `line N`.
fn write_logs(host: &Host, pod: &str) -> usize {
    let dir = host.dir.join("state/logs").join(pod);
    fs::create_dir_all(&dir).expect("a folder");
    let mut number = 0;
    for (name, size) in [("app.log.1", 16 << 20), ("app.log", 10 << 20)] {
        let mut text = String::new();
        while text.len() < size {
            text.push_str(&format!(
                "2999-11-25T12:00:00.000000000Z stdout F line {number:0>60}\n"
            ));
            number += 1;
        }
        fs::write(dir.join(name), text).expect("write");
    }
    number
}

#[test]
fn a_long_log_costs_what_is_asked_of_it() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let count = write_logs(&host, "web");
    let line = |number: usize| format!("line {number:0>60}\n");

    let before = bytes_read(&host);
    assert_eq!(host.tank(&["logs", "web", "-n", "1"]).ok(), line(count - 1));
    let read = bytes_read(&host) - before;
    assert!(read < 2 << 20, "{read} bytes are read for one line");

    let memory = peak_memory(&host);
    let before = bytes_read(&host);
    let all = host.tank(&["logs", "web"]).ok();
    let read = bytes_read(&host) - before;
    assert!(
        all == (0..count).map(line).collect::<String>(),
        "{} of {count} lines",
        all.lines().count()
    );
    assert!(read < 40 << 20, "{read} bytes are read for 26 MB");
    let more = peak_memory(&host).saturating_sub(memory) >> 20;
    assert!(more < 16, "{more} MiB more to read a log");
    host.finish();
}

#[test]
fn nothing_is_read_for_an_asker_who_left() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    write_logs(&host, "web");
    let before = bytes_read(&host);
    let mut stream = connect(&host, 0, &[]).expect("connects");
    stream
        .write_all(&call("Logs", &json!({ "targets": ["web"] }), true))
        .expect("sends");
    let names = reply(&mut stream).expect("whose they are");
    assert_eq!(
        names["parameters"]["logs"],
        json!([{ "pod": "web", "container": "app" }])
    );
    let lines = reply(&mut stream).expect("lines");
    let first = lines["parameters"]["lines"][0]["line"].as_str();
    assert!(first.expect("a text").starts_with("line 0"));
    drop(stream);
    // Until neither its descriptors nor what it has read changes any more.
    let sockets = || {
        let all = fs::read_dir(format!("/proc/{}/fd", host.daemon_pid()))
            .expect("descriptors")
            .flatten();
        all.filter(|fd| {
            fs::read_link(fd.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"))
        })
        .count()
    };
    host.tank(&["list"]).ok();
    let mut last = (usize::MAX, u64::MAX);
    eventually("it stands still", || {
        std::thread::sleep(Duration::from_millis(200));
        let now = (sockets(), bytes_read(&host));
        std::mem::replace(&mut last, now) == now
    });
    let read = bytes_read(&host) - before;
    assert!(read < 4 << 20, "{read} bytes are read for nobody");
    host.finish();
}

#[test]
fn a_failing_switch_quotes_a_little_of_a_long_log() {
    let host = Host::new();
    let config = format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN}, readiness.exec = [\"/bin/false\"] }} }}"
    );
    host.write("pods.ncl", &config);
    let count = write_logs(&host, "web");
    let before = bytes_read(&host);
    let failed = host.tank(&["switch", "pods.ncl", "--timeout", "6s", "--no-rollback"]);
    let read = bytes_read(&host) - before;
    assert_eq!(failed.status, 1, "{}", failed.stderr);
    let quoted: Vec<&str> = failed
        .stderr
        .lines()
        .filter_map(|line| line.trim().strip_prefix("web/app: "))
        .collect();
    let expected: Vec<String> = (count - 10..count)
        .map(|number| format!("line {number:0>60}"))
        .collect();
    let (probe, quoted) = quoted.split_first().expect("a line");
    assert_eq!(*probe, "its probe failed: its command ended with status 1");
    assert_eq!(quoted, expected, "{}", failed.stderr);
    assert!(read < 6 << 20, "{read} bytes are read for ten lines");
    host.finish();
}

#[test]
fn escape_sequences_of_others_do_not_reach_a_terminal() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let evil = "\x1b]0;owned\x07\x1b[2J\u{9b}31m\u{202e}back\x08\tend";
    let shown = "\\u{1b}]0;owned\\u{7}\\u{1b}[2J\\u{9b}31m\\u{202e}back\\u{8}";
    let dir = host.dir.join("state/logs/web");
    fs::create_dir_all(&dir).expect("a folder");
    fs::write(
        dir.join("app.log"),
        format!("2026-11-25T12:00:00.000000000Z stdout F {evil}\n"),
    )
    .expect("write");

    let clean = |args: &[&str]| {
        let mut terminal = Terminal::run(&host.command(args));
        terminal.ended();
        terminal.expect(shown);
        let controls: String = terminal
            .shown
            .chars()
            .filter(|c| c.is_control() && !"\r\n\t".contains(*c))
            .collect();
        assert_eq!(controls, "", "{args:?}: {:?}", terminal.shown);
        assert!(!terminal.shown.contains('\u{202e}'), "{args:?}");
    };
    // A log, the error of a program's name, and what is asked for by a name that is none.
    clean(&["logs", "web"]);
    clean(&["exec", "web", "--", evil]);
    clean(&["logs", evil]);
    // As JSON it is escaped as JSON has it, and the same to who reads it.
    let json = host.tank(&["--json", "logs", "web"]);
    assert_eq!(
        json.stdout
            .chars()
            .filter(|c| c.is_control())
            .collect::<String>(),
        "\n"
    );
    assert!(!json.stdout.contains('\u{202e}'), "{}", json.stdout);
    assert_eq!(json.json()["line"], evil);
    // A pipe gets every byte as it was.
    assert_eq!(host.tank(&["logs", "web"]).ok(), format!("{evil}\n"));
    host.finish();
}

#[test]
fn a_detached_program_does_not_keep_the_terminal() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let script =
        r"printf '\033[?1049h\033[?25l\033[?1002h\033[?2004h\033[31m'; echo in'side'; sleep 1000";
    let mut terminal =
        Terminal::run(&host.command(&["exec", "web", "--", "/bin/sh", "-c", script]));
    terminal.expect("inside");
    terminal.type_in("\x10\x11");
    assert_eq!(terminal.ended(), 0);
    terminal.expect("\x1b[0m\x1b[?25h\x1b[?1002l\x1b[?2004l\x1b[?1049l");
    terminal.expect("detached");

    // What changed nothing is followed by nothing.
    let mut terminal =
        Terminal::run(&host.command(&["exec", "web", "--", "/bin/sh", "-c", "printf plain"]));
    assert_eq!(terminal.ended(), 0);
    terminal.expect("plain");
    assert_eq!(terminal.shown, "plain");
    host.finish();
}

#[test]
fn no_color_holds_for_diagnostics() {
    let host = Host::without_daemon();
    host.write(
        "bad.ncl",
        "{\n  pods.web.containers.app.imagee = \"nginx\",\n}\n",
    );
    let shown = |no_color: &str| {
        let tank = host.command(&["check", "bad.ncl"]);
        let mut command = Command::new("env");
        command
            .arg(format!("NO_COLOR={no_color}"))
            .arg(tank.get_program())
            .args(tank.get_args())
            .current_dir(&host.dir);
        let mut terminal = Terminal::run(&command);
        assert_eq!(terminal.ended(), 1);
        terminal.expect("did you mean `image`?");
        std::mem::take(&mut terminal.shown)
    };
    assert!(!shown("1").contains('\x1b'));
    assert!(
        shown("").contains('\x1b'),
        "it is for the terminal's sake that there are colours"
    );
}
