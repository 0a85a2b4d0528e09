//! `exec` and `attach`, driven through real terminals and pipes.

use tank_tests::{Host, RUN, bin, pty::Terminal, sleeper};

fn shell(host: &Host, target: &str) -> Terminal {
    let mut terminal = Terminal::run(&host.command(&["exec", target, "--", "/bin/sh"]));
    // The answer and not the echo of what is typed.
    terminal.type_in("PS1='ready'\"> \"\r");
    terminal.expect("ready> ");
    terminal
}

#[test]
fn a_terminal_is_a_terminal() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let mut terminal = shell(&host, "web");

    // It is one, it is the container's own, and TERM came along.
    terminal.type_in("tty; echo term=$TERM image=$FROM_IMAGE\r");
    terminal.expect("/dev/pts/0");
    terminal.expect("term=vt220 image=yes");
    terminal.expect("ready> ");

    // Its size follows.
    terminal.type_in("stty size\r");
    terminal.expect("24 80");
    terminal.resize(50, 132);
    terminal.type_in("sleep 0.3; stty size\r");
    terminal.expect("50 132");
    terminal.expect("ready> ");

    // Ctrl-C ends what runs and not the shell.
    terminal.type_in("sleep 1000\r");
    std::thread::sleep(std::time::Duration::from_millis(300));
    terminal.type_in("\x03");
    terminal.expect("ready> ");
    terminal.type_in("echo st=$?\r");
    terminal.expect("st=130");

    // The status is the command's own.
    terminal.type_in("exit 3\r");
    assert_eq!(terminal.ended(), 3);

    let mut terminal = shell(&host, "web");
    terminal.type_in("kill -9 $$\r");
    assert_eq!(terminal.ended(), 137);
    host.finish();
}

#[test]
fn detaching_leaves_the_command_running() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let mut terminal = shell(&host, "web");
    // It prints more than a terminal holds, so it stops unless somebody goes on reading.
    terminal
        .type_in("i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; echo done > /tmp/done; sleep 1000\r");
    terminal.expect("line 5");
    terminal.type_in("\x10\x11");
    assert_eq!(terminal.ended(), 0);
    assert!(terminal.shown.contains("detached"), "{}", terminal.shown);
    tank_tests::eventually("the command went on", || {
        host.tank(&["exec", "web", "--", "cat", "/tmp/done"]).stdout == "done\n"
    });
    assert!(host.exec("web", "ps").contains("sleep 1000"));
    host.finish();
}

#[test]
fn several_at_once_and_without_a_terminal() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let mut one = shell(&host, "web");
    let mut two = shell(&host, "web");
    one.type_in("tty\r");
    one.expect("/dev/pts/0");
    two.type_in("tty\r");
    two.expect("/dev/pts/1");

    // Pipes pass through untouched, in both directions, byte for byte.
    let bytes: Vec<u8> = (0..=255).cycle().take(1 << 20).collect();
    let mut command = host.command(&["exec", "web", "--", "cat"]);
    let output = {
        use std::{io::Write, process::Stdio};
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tank");
        let mut stdin = child.stdin.take().expect("stdin");
        let input = bytes.clone();
        let writer = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().expect("wait");
        writer.join().expect("join").expect("write");
        output
    };
    assert!(output.status.success());
    assert!(
        output.stdout == bytes,
        "{} bytes came back",
        output.stdout.len()
    );

    let split = host.tank(&[
        "exec",
        "web",
        "--",
        "/bin/sh",
        "-c",
        "echo out; echo err >&2; exit 42",
    ]);
    assert_eq!(
        (split.status, split.stdout.as_str(), split.stderr.as_str()),
        (42, "out\n", "err\n")
    );

    // Directory and environment.
    let out = host.tank(&[
        "exec",
        "web",
        "--cwd",
        "/etc",
        "--env",
        "A=b c",
        "--",
        "/bin/sh",
        "-c",
        "pwd; echo $A",
    ]);
    assert_eq!(out.ok(), "/etc\nb c\n");
    assert_eq!(
        host.exec("web", "pwd"),
        "/tmp",
        "the image's working directory"
    );

    // Statuses that container users expect.
    assert_eq!(host.tank(&["exec", "web", "--", "nope"]).status, 127);
    assert_eq!(host.tank(&["exec", "web", "--", "/etc/passwd"]).status, 126);
    assert_eq!(
        host.tank(&["exec", "web", "--", "/bin/sh", "-c", "kill -9 $$"])
            .status,
        137
    );
    drop((one, two));
    host.finish();
}

#[test]
fn attach_twice_detach_and_come_back() {
    let host = Host::new();
    host.switch(r#"{ pods.box.containers.sh = { image = "oci:./busybox", command = ["/bin/sh"], tty = true } }"#);
    let attach = || Terminal::run(&host.command(&["attach", "box"]));
    let mut one = attach();
    one.type_in("MINE=kept; PS1='in'\"> \"\r");
    one.expect("in> ");
    // Two at once see the same.
    let mut two = attach();
    two.type_in("echo seen-by-$MINE\r");
    two.expect("seen-by-kept");
    one.expect("seen-by-kept");
    two.resize(33, 99);
    two.type_in("sleep 0.3; stty size\r");
    two.expect("33 99");
    one.type_in("\x10\x11");
    assert_eq!(one.ended(), 0);
    // Back in the same shell.
    let mut again = attach();
    again.type_in("echo again-$MINE-$$\r");
    again.expect("again-kept-1");
    // What it printed is in the log, too.
    assert!(host.tank(&["logs", "box"]).ok().contains("again-kept-1"));
    // The shell ends: so do those attached, with its status; the pod starts again.
    again.type_in("exit 5\r");
    assert_eq!(again.ended(), 5);
    assert_eq!(two.ended(), 5);
    tank_tests::eventually("it starts again", || host.pod("box")["state"] == "running");
    drop(again);
    host.finish();
}

#[test]
fn what_can_not_be_entered_is_said_clearly() {
    let host = Host::new();
    host.switch(&format!(
        r#"{{ {} pods.two.containers = {{ a = {{ image = "oci:./busybox", {RUN} }}, b = {{ image = "oci:./busybox", {RUN} }} }},
             pods.job = {{ containers.run = {{ image = "oci:./busybox", command = ["/bin/true"] }}, restart = 'never }} }}"#,
        sleeper("web")
    ));
    let said = |args: &[&str]| {
        let ended = host.tank(args);
        assert_eq!(ended.status, 125, "{args:?}: {}", ended.stderr);
        ended.stderr
    };
    insta::assert_snapshot!("no_such_pod", said(&["exec", "wbe", "--", "sh"]));
    insta::assert_snapshot!("not_running", said(&["exec", "job", "--", "sh"]));
    insta::assert_snapshot!("not_a_tty", said(&["attach", "web"]));
    insta::assert_snapshot!("several_containers", said(&["exec", "two", "--", "sh"]));
    insta::assert_snapshot!("no_such_container", said(&["exec", "two/c", "--", "sh"]));
    assert_eq!(host.exec("two/b", "echo fine"), "fine");
    host.finish();
}

#[test]
fn a_terminal_is_never_handed_in() {
    // Standard error is a terminal, the others are not: the command sees pipes everywhere.
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let script = format!(
        "{} --socket {} exec web -- /bin/sh -c 'test -t 2 && echo leaked; echo err >&2' < /dev/null | cat",
        bin("tank").display(),
        host.socket().display()
    );
    let mut command = std::process::Command::new("sh");
    command.args(["-c", &script]).current_dir(&host.dir);
    let mut terminal = Terminal::run(&command);
    terminal.expect("err");
    assert_eq!(terminal.ended(), 0);
    assert!(!terminal.shown.contains("leaked"), "{}", terminal.shown);
    host.finish();
}
