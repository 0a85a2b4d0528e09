//! What "good" and "done" mean: a gate outlives its daemon, a rollback goes to what was good and is
//! done when that runs, an `apply` touches what it names, a switch of what is declared already
//! repairs, clocks decide nothing, and an interrupt says what goes on.

#[path = "outcomes/apply.rs"]
mod apply;
#[path = "outcomes/clock.rs"]
mod clock;

use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use tank_tests::{Ended, Host, RUN, eventually, sleeper};

const READY_ONCE: &str =
    "readiness = { exec = [\"/bin/sh\", \"-c\", \"[ -e /marks/ok ]\"], period = \"100ms\" }";

/// A folder of the host that the containers of [`marked`] see as `/marks`, whose files say when.
fn marks(host: &Host) -> PathBuf {
    let marks = host.dir.join("marks");
    fs::create_dir_all(&marks).expect("a folder");
    marks
}

/// A pod with the folder of marks; `containers` and `more` are Nickel fields.
fn marked(host: &Host, containers: &str, more: &str) -> String {
    format!(
        "{{ pods.web = {{ {containers}, {more} volumes.marks = {{ host = \"{}\" }} }} }}",
        marks(host).display()
    )
}

/// A container with the marks that runs a script.
fn script(name: &str, script: &str, more: &str) -> String {
    format!(
        "{name} = {{ image = \"oci:./busybox\", command = [\"/bin/sh\", \"-c\", \"{script}\"], \
         mounts.marks = {{ volume = \"marks\", path = \"/marks\" }}, {more} }}"
    )
}

const STAY: &str = "trap 'exit 0' TERM; while true; do sleep 0.1; done";

fn spawn(host: &Host, args: &[&str]) -> Child {
    let mut command = host.command(args);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("tank")
}

fn wait(child: Child) -> Ended {
    child.wait_with_output().expect("wait").into()
}

/// How every generation went, oldest first.
fn outcomes(host: &Host) -> Vec<String> {
    let list = host.tank(&["--json", "generations", "list"]).json();
    let generations = list["generations"].as_array().expect("generations").iter();
    generations
        .map(|one| one["outcome"].as_str().expect("an outcome").to_owned())
        .collect()
}

fn has_event(host: &Host, kind: &str) -> bool {
    let mut command = host.command(&["--json", "events"]);
    let output = command.output().expect("tank");
    String::from_utf8_lossy(&output.stdout).contains(&format!("\"{kind}\""))
}

fn interrupt(child: &Child) {
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .expect("kill");
    assert!(sent.success());
}

/// A switch to a pod that becomes ready when there is a mark, whose daemon dies while it waits for
/// that.
fn die_in_a_gate(host: &mut Host) {
    host.switch(&marked(
        host,
        &format!("containers.{}", script("app", STAY, "env.STEP = \"1\"")),
        "",
    ));
    let next = "trap 'exit 0' TERM; while [ ! -e /marks/die ]; do sleep 0.1; done; exit 3";
    let more = format!("env.STEP = \"2\", {READY_ONCE}");
    host.write(
        "pods.ncl",
        &marked(
            host,
            &format!("containers.{}", script("app", next, &more)),
            "restart = 'never,",
        ),
    );
    let switch = spawn(host, &["switch", "--timeout", "10m", "pods.ncl"]);
    eventually("the second runs", || {
        host.tank(&["exec", "web", "--", "/bin/sh", "-c", "echo $STEP"])
            .stdout
            == "2\n"
    });
    host.kill_daemon();
    assert_eq!(wait(switch).status, 1);
    host.start_daemon();
    eventually("the gate is waited at again", || {
        has_event(host, "resumed") || outcomes(host)[1] != "pending"
    });
}

#[test]
fn a_generation_whose_daemon_died_in_its_gate_is_put_back_when_it_does_not_become_healthy() {
    let mut host = Host::new();
    die_in_a_gate(&mut host);
    assert_eq!(outcomes(&host), ["good", "pending"]);
    fs::write(marks(&host).join("die"), "").expect("a mark");
    eventually("it is put back", || {
        outcomes(&host) == ["good", "rolled_back", "good"]
    });
    assert_eq!(host.exec("web", "echo $STEP"), "1");
    host.finish();
}

#[test]
fn a_generation_whose_daemon_died_in_its_gate_is_good_once_it_is_healthy() {
    let mut host = Host::new();
    die_in_a_gate(&mut host);
    // Another change comes too early, and nothing calls it good meanwhile.
    host.write("other.ncl", &format!("{{ {} }}", sleeper("other")));
    let early = host.tank(&["switch", "other.ncl"]);
    assert!(
        early.status == 1
            && early
                .stderr
                .contains("generation 2 (switch pods.ncl) is under way"),
        "{early:?}"
    );
    assert_eq!(outcomes(&host), ["good", "pending"]);
    fs::write(marks(&host).join("ok"), "").expect("a mark");
    eventually("it is good", || outcomes(&host) == ["good", "good"]);
    assert_eq!(host.exec("web", "echo $STEP"), "2");
    host.finish();
}

#[test]
fn a_rollback_after_an_automatic_one_goes_to_the_last_good_one_and_not_to_the_bad_one() {
    let host = Host::new();
    let pod = |step: u32, command: &str| {
        format!(
            "{{ pods.web = {{ restart = 'never, containers.app = {{ image = \"oci:./busybox\", env.STEP = \"{step}\", \
             {command} }} }} }}"
        )
    };
    host.switch(&pod(1, RUN));
    // Where there is nothing to go back to, the command fails with that, and nothing is done.
    let nowhere = host.tank(&["generations", "rollback"]);
    assert_eq!(
        (nowhere.status, outcomes(&host)),
        (1, vec!["good".to_owned()]),
        "{nowhere:?}"
    );
    assert!(
        nowhere.stderr.contains("no generation before 1 was good"),
        "{nowhere:?}"
    );
    host.switch(&pod(2, RUN));
    host.write(
        "bad.ncl",
        &pod(3, "command = [\"/bin/sh\", \"-c\", \"exit 7\"]"),
    );
    assert_eq!(host.tank(&["switch", "bad.ncl"]).status, 3);
    assert_eq!(host.exec("web", "echo $STEP"), "2");
    let back = host.tank(&["generations", "rollback"]);
    assert!(
        back.stderr
            .contains("going back to generation 1 (switch pods.ncl)"),
        "{back:?}"
    );
    assert_eq!(
        (back.status, host.exec("web", "echo $STEP").as_str()),
        (0, "1")
    );
    assert_eq!(
        outcomes(&host),
        ["good", "good", "rolled_back", "good", "good"]
    );
    // A bad one that is named is gone back to, and the command shows how it had ended.
    let asked = host.tank(&["generations", "rollback", "3"]);
    assert!(
        asked.status == 0 && asked.stderr.contains("; it was rolled back"),
        "{asked:?}"
    );
    assert_eq!(host.pod("web")["containers"][0]["status"], 7);
    host.finish();
}

/// A pod with a container that runs before the others until there is a mark, and `after`.
fn with_init(host: &Host, after: &str) -> String {
    let first = format!(
        "init.{}",
        script(
            "setup",
            &format!("while [ ! -e /marks/go ]; do sleep 0.1; done; {after}"),
            ""
        )
    );
    marked(
        host,
        &format!("{first}, containers.{}", script("app", STAY, "")),
        "",
    )
}

fn runs(host: &Host, container: &str) -> bool {
    let pod = host.pod("web");
    let containers = pod["containers"].as_array().cloned().unwrap_or_default();
    containers
        .iter()
        .any(|found| found["name"] == container && found["state"] == "running")
}

#[test]
fn a_rollback_is_done_when_all_that_it_declares_runs() {
    let host = Host::new();
    let go = marks(&host).join("go");
    fs::write(&go, "").expect("a mark");
    host.switch(&with_init(&host, "sleep 3"));
    host.switch(&format!("{{ {} }}", sleeper("other")));
    fs::remove_file(&go).expect("removes");
    let rollback = spawn(&host, &["generations", "rollback"]);
    eventually("what comes first runs", || runs(&host, "setup"));
    fs::write(&go, "").expect("a mark");
    let ended = wait(rollback);
    assert!(runs(&host, "app"), "it says it is done: {ended:?}");
    assert_eq!(
        (ended.status, outcomes(&host).as_slice()),
        (0, ["good", "good", "good"].map(str::to_owned).as_slice())
    );
    host.finish();
}

#[test]
fn a_rollback_says_what_does_not_run_yet_and_goes_on() {
    let mut host = Host::without_daemon();
    let settings = fs::read_to_string(host.dir.join("tank.toml")).expect("settings");
    host.write("tank.toml", &format!("{settings}wait = \"8s\"\n"));
    host.start_daemon();
    let go = marks(&host).join("go");
    fs::write(&go, "").expect("a mark");
    host.write("pods.ncl", &with_init(&host, "true"));
    host.tank(&["switch", "--timeout", "1m", "pods.ncl"]).ok();
    host.write("other.ncl", &format!("{{ {} }}", sleeper("other")));
    host.tank(&["switch", "--timeout", "1m", "other.ncl"]).ok();
    fs::remove_file(&go).expect("removes");
    let ended = host.tank(&["generations", "rollback"]);
    assert_eq!(ended.status, 1, "{ended:?}");
    assert!(
        ended
            .stderr
            .contains("generation 3 is current and not all of it is there"),
        "{ended:?}"
    );
    assert!(
        ended
            .stderr
            .contains("not running yet: web/app waits for setup to end well"),
        "{ended:?}"
    );
    assert_eq!(outcomes(&host), ["good", "good", "pending"]);
    fs::write(&go, "").expect("a mark");
    eventually("it is good", || outcomes(&host) == ["good", "good", "good"]);
    assert!(runs(&host, "app"));
    host.write("nothing.ncl", "{}");
    host.tank(&["switch", "--timeout", "1m", "nothing.ncl"])
        .ok();
    host.finish();
}

/// A host that repairs nothing by itself, with a pod that was killed.
fn broken() -> Host {
    let host = Host::without_daemon().started_with(&["--no-repair"]);
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let killed = Command::new("kill")
        .args(["-9", &host.pid("web", "app").to_string()])
        .status()
        .expect("kill");
    assert!(killed.success());
    eventually("it has ended", || {
        host.pod("web")["containers"][0]["state"] == "failed"
    });
    host
}

#[test]
fn a_switch_of_an_unchanged_configuration_repairs_what_is_broken_and_says_so() {
    let host = broken();
    let repaired = host.tank(&["--json", "switch", "pods.ncl"]).json();
    assert_eq!(host.pod("web")["state"], "running");
    assert_eq!(
        (&repaired["changed"], &repaired["generation"]),
        (&true.into(), &1.into())
    );
    assert_eq!(repaired["repaired"], serde_json::json!(["start web/app"]));
    let same = host.tank(&["--json", "switch", "pods.ncl"]).json();
    assert_eq!(
        (&same["changed"], &same["repaired"]),
        (&false.into(), &serde_json::json!([]))
    );
    host.finish();
}

#[test]
fn a_plan_of_nothing_but_drift_is_carried_out_or_refused() {
    let host = broken();
    let diff = host.tank(&["--json", "diff", "pods.ncl"]).json();
    assert!(
        diff["steps"]
            .as_array()
            .expect("steps")
            .iter()
            .all(|step| step["drift"] == true),
        "{diff}"
    );
    let plan = diff["plan"].as_str().expect("a plan");
    let wrong = host.tank(&[
        "switch",
        "--plan",
        &plan.replace(|c: char| c.is_ascii_digit(), "0"),
        "pods.ncl",
    ]);
    assert!(
        wrong.status == 1 && wrong.stderr.contains("what would be done is not that plan"),
        "{wrong:?}"
    );
    assert_eq!(host.pod("web")["containers"][0]["state"], "failed");
    let done = host.tank(&["switch", "--plan", plan, "pods.ncl"]);
    assert!(done.stdout.contains("repaired generation 1 ("), "{done:?}");
    assert_eq!(
        (done.status, &host.pod("web")["state"]),
        (0, &"running".into())
    );
    let stale = host.tank(&["switch", "--plan", plan, "pods.ncl"]);
    assert_eq!(stale.status, 1, "{stale:?}");
    host.finish();
}

#[test]
fn a_rollback_ends_a_switch_that_is_on_its_way() {
    let host = Host::new();
    host.switch(&marked(
        &host,
        &format!("containers.{}", script("app", STAY, "env.STEP = \"1\"")),
        "",
    ));
    let more = format!("env.STEP = \"2\", {READY_ONCE}");
    host.write(
        "pods.ncl",
        &marked(
            &host,
            &format!("containers.{}", script("app", STAY, &more)),
            "",
        ),
    );
    let switch = spawn(&host, &["switch", "--timeout", "1h", "pods.ncl"]);
    eventually("the switch is committed", || outcomes(&host).len() == 2);
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(host.exec("web", "echo $STEP"), "1");
    let ended = wait(switch);
    let said = "generation 2 was ended on its way: generation 3 (rollback to 1) came first";
    assert!(
        ended.status == 1 && ended.stderr.contains(said),
        "{ended:?}"
    );
    assert_eq!(outcomes(&host), ["good", "rolled_back", "good"]);
    host.finish();
}

#[test]
fn an_interrupt_in_a_pull_ends_the_switch_and_nothing_is_committed() {
    let mut host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    host.start_registry();
    host.signal_registry("STOP");
    host.write(
        "pulls.ncl",
        "{ pods.c.containers.app.image = \"localhost:5000/nginx:latest\" }",
    );
    let mut command = host.command(&["switch", "pulls.ncl"]);
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
    interrupt(&switch);
    assert_eq!(switch.wait().expect("wait").code(), Some(130));
    let said: Vec<String> = said.collect();
    assert!(
        said.iter()
            .any(|line| line.contains("interrupted before the commit")),
        "{said:?}"
    );
    host.signal_registry("CONT");
    // The image can be had now: a switch that still went on would have it, and be committed.
    host.tank(&["diff", "pulls.ncl"]).ok();
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        assert_eq!(outcomes(&host), ["good"], "it was committed");
        std::thread::sleep(Duration::from_millis(50));
    }
    host.finish();
}

#[test]
fn an_interrupt_after_the_commit_says_what_goes_on_and_how_to_end_it() {
    let host = Host::new();
    host.switch(&marked(
        &host,
        &format!("containers.{}", script("app", STAY, "env.STEP = \"1\"")),
        "",
    ));
    let more = format!("env.STEP = \"2\", {READY_ONCE}");
    host.write(
        "pods.ncl",
        &marked(
            &host,
            &format!("containers.{}", script("app", STAY, &more)),
            "",
        ),
    );
    let switch = spawn(&host, &["switch", "--timeout", "1h", "pods.ncl"]);
    eventually("the second runs", || {
        host.tank(&["exec", "web", "--", "/bin/sh", "-c", "echo $STEP"])
            .stdout
            == "2\n"
    });
    interrupt(&switch);
    let ended = wait(switch);
    assert_eq!(ended.status, 130, "{ended:?}");
    for said in [
        "generation 2 goes on being reached",
        "`tank generations rollback` ends it",
    ] {
        assert!(ended.stderr.contains(said), "{ended:?}");
    }
    assert_eq!(outcomes(&host), ["good", "pending"]);
    // It does go on, and a rollback ends it, as the message promised.
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(
        (
            outcomes(&host)[1].as_str(),
            host.exec("web", "echo $STEP").as_str()
        ),
        ("rolled_back", "1")
    );
    host.finish();
}
