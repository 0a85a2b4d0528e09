//! Many at once: whoever commits first wins and the others learn of it; clients that misbehave hold
//! nobody up.

use std::{
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    process::Stdio,
    time::{Duration, Instant},
};
use tank_tests::{Ended, Host, RUN, eventually, sleeper};

fn pod(name: &str, more: &str) -> String {
    format!("{{ pods.{name}.containers.app = {{ image = \"oci:./busybox\", {RUN}, {more} }} }}")
}

#[test]
fn of_changes_at_once_one_wins_and_the_others_are_told() {
    let host = Host::new();
    host.switch(&pod("web", "env.STEP = \"0\""));
    // Each takes a while: all of them have asked before one is ready.
    let slow = "readiness = { exec = [\"/bin/true\"], delay = \"10s\" }";
    let count = 8;
    for i in 1..=count {
        host.write(
            &format!("{i}.ncl"),
            &pod("web", &format!("env.STEP = \"{i}\", {slow}")),
        );
    }
    let racing: Vec<_> = (1..=count)
        .map(|i| {
            let mut command = host.command(&["switch", &format!("{i}.ncl")]);
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("tank")
        })
        .collect();
    let ended: Vec<Ended> = racing
        .into_iter()
        .map(|child| child.wait_with_output().expect("wait").into())
        .collect();
    let winners: Vec<usize> = ended
        .iter()
        .enumerate()
        .filter(|(_, e)| e.status == 0)
        .map(|(i, _)| i + 1)
        .collect();
    assert_eq!(winners.len(), 1, "{ended:#?}");
    // Those that lost name the generation that won, or that another change is under way.
    for loser in ended.iter().filter(|ended| ended.status != 0) {
        assert_eq!(loser.status, 1, "{loser:?}");
        let named = loser.stderr.contains("generation 2 (switch ")
            || loser.stderr.contains("another change");
        assert!(
            named && !loser.stderr.contains("panicked"),
            "{}",
            loser.stderr
        );
    }
    assert!(
        ended
            .iter()
            .any(|loser| loser.stderr.contains("generation 2 (switch ")),
        "{ended:#?}"
    );
    assert_eq!(host.exec("web", "echo $STEP"), winners[0].to_string());
    let generations = host.tank(&["--json", "generations", "list"]).json();
    assert_eq!(
        generations["generations"]
            .as_array()
            .expect("generations")
            .len(),
        2,
        "a loser left a generation"
    );
    host.finish();
}

#[test]
fn a_switch_during_a_rollback_and_a_rollback_during_a_switch() {
    let host = Host::new();
    // A stop takes its seconds: the rollback is still at it when the switch comes.
    let stubborn = |step: u32| {
        format!(
            "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", env.STEP = \"{step}\", stop.timeout = \"5s\",
                command = [\"/bin/sh\", \"-c\", \"trap '' TERM USR1; while true; do sleep 0.1; done\"] }} }}"
        )
    };
    host.switch(&stubborn(1));
    host.switch(&stubborn(2));
    host.write("3.ncl", &stubborn(3));
    let spawn = |args: &[&str]| {
        let mut command = host.command(args);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("tank")
    };
    let current = || {
        let list = host.tank(&["--json", "generations", "list"]).json();
        list["generations"].as_array().expect("generations").len()
    };
    let rollback = spawn(&["generations", "rollback"]);
    eventually("the rollback is committed", || current() == 3);
    let refused = host.tank(&["switch", "3.ncl"]);
    assert_eq!(refused.status, 1, "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("generation 3 (rollback to 1) is under way"),
        "{}",
        refused.stderr
    );
    assert_eq!(
        rollback.wait_with_output().expect("wait").status.code(),
        Some(0)
    );
    assert_eq!(host.exec("web", "echo $STEP"), "1");
    let switch = spawn(&["switch", "3.ncl"]);
    eventually("the switch is committed", || current() == 4);
    // The switch ends after the pass that it is at.
    host.tank(&["generations", "rollback"]).ok();
    let ended: Ended = switch.wait_with_output().expect("wait").into();
    assert!(
        ended.status == 1 && ended.stderr.contains("generation 5 (rollback to "),
        "{ended:?}"
    );
    assert_ne!(host.exec("web", "echo $STEP"), "3");
    host.finish();
}

#[test]
fn a_pod_is_deleted_while_a_switch_pulls() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} {} }}", sleeper("a"), sleeper("b")));
    host.start_registry();
    // The registry says nothing more, until the test lets it: so long lasts the pull.
    host.signal_registry("STOP");
    let config = format!(
        "{{ {} pods.c.containers.app.image = \"localhost:5000/nginx:latest\" }}",
        sleeper("a")
    );
    host.write("tank.ncl", &config);
    let mut command = host.command(&["switch", "tank.ncl"]);
    let mut switch = command
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tank");
    let mut said = BufReader::new(switch.stderr.take().expect("piped"))
        .lines()
        .map_while(Result::ok);
    assert!(
        said.any(|line| line == "pull localhost:5000/nginx:latest"),
        "it does not pull"
    );
    let before = Instant::now();
    host.tank(&["delete", "b"]).ok();
    assert!(
        before.elapsed() < Duration::from_secs(5),
        "it waited for the pull"
    );
    host.signal_registry("CONT");
    let said: Vec<String> = said.collect();
    assert_eq!(switch.wait().expect("wait").code(), Some(1), "{said:?}");
    assert!(
        said.iter()
            .any(|line| line.contains("generation 2 (delete b) came first")),
        "{said:?}"
    );
    let list = host.tank(&["--json", "list"]).json();
    assert_eq!(list["pods"].as_array().expect("pods").len(), 1, "{list}");
    host.finish();
}

#[test]
fn a_hundred_clients() {
    let host = Host::new();
    host.switch(&pod("web", ""));
    let pid = host.pid("web", "app");
    let running: Vec<_> = (0..100)
        .map(|i| {
            let args: &[&str] = match i % 4 {
                0 => &["list"],
                1 => &["exec", "web", "--", "/bin/echo", "said"],
                2 => &["status"],
                _ => &["logs", "web"],
            };
            let mut command = host.command(args);
            (
                i,
                command
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .expect("tank"),
            )
        })
        .collect();
    for (i, child) in running {
        let ended: Ended = child.wait_with_output().expect("wait").into();
        let said = ended.ok();
        assert!(i % 4 != 1 || said == "said\n", "{said}");
    }
    assert_eq!(host.pid("web", "app"), pid);
    host.finish();
}

#[test]
fn clients_that_do_not_read_or_leave_in_the_middle_hold_nobody_up() {
    let host = Host::new();
    host.switch(&pod("web", "env.STEP = \"1\""));
    let connect = || UnixStream::connect(host.socket()).expect("connects");
    let call = |method: &str, more: bool| {
        let mut text = format!(
            "{{\"method\":\"io.tank.Executor.{method}\",\"parameters\":{{}},\"more\":{more}}}"
        )
        .into_bytes();
        text.push(0);
        text
    };
    // Asks for ever and reads nothing.
    let mut deaf: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
    for client in &mut deaf {
        client
            .set_write_timeout(Some(Duration::from_millis(200)))
            .expect("set");
        let asked = call("Status", false);
        while client.write_all(&asked).is_ok() {}
        let _ = client.write_all(&call("Events", true));
    }
    // Leaves in the middle of a message, in the middle of a reply, and of a switch.
    for length in [1, 10, 40] {
        let mut client = connect();
        client
            .write_all(&call("Status", false)[..length])
            .expect("writes");
    }
    let mut client = connect();
    client.write_all(&call("Events", true)).expect("writes");
    client.read_exact(&mut [0; 5]).expect("reads");
    drop(client);
    host.write("pods.ncl", &pod("web", "env.STEP = \"2\""));
    let mut switching = host
        .command(&["switch", "pods.ncl"])
        .stderr(Stdio::null())
        .spawn()
        .expect("tank");
    eventually("it has committed", || {
        host.tank(&["--json", "generations", "list"]).json()["generations"]
            .as_array()
            .expect("list")
            .len()
            == 2
    });
    switching.kill().expect("kill");
    switching.wait().expect("wait");
    // Nonsense is refused, and what is too long is not read to its end.
    let mut client = connect();
    client.write_all(b"{\"method\": 7}\0").expect("writes");
    let mut endless = connect();
    endless
        .set_write_timeout(Some(Duration::from_secs(2)))
        .expect("set");
    let chunk = vec![b' '; 1 << 20];
    let written = (0..512)
        .take_while(|_| endless.write_all(&chunk).is_ok())
        .count();
    assert!(written < 512, "it read half a gigabyte of nothing");

    // The others are served, quickly, and what was begun is done.
    let before = Instant::now();
    // While one container takes the place of the other there is nothing to enter.
    let step = || {
        host.tank(&["exec", "web", "--", "/bin/sh", "-c", "echo $STEP"])
            .stdout
    };
    eventually("the switch went on", || step() == "2\n");
    eventually("it is good", || {
        let list = host.tank(&["--json", "generations", "list"]).json();
        list["generations"][1]["outcome"] == "good"
    });
    assert!(
        before.elapsed() < Duration::from_secs(10),
        "{:?}",
        before.elapsed()
    );
    drop((deaf, client, endless));
    host.finish();
}
