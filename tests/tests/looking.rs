//! Looking changes nothing: a plan is made of what is there, and nobody is asked, signalled,
//! leased, watched or recorded for it, whatever the candidate says and however often.

use std::{
    collections::BTreeMap, fs, os::unix::fs::PermissionsExt, path::PathBuf, process::Command,
};
use tank_tests::{Host, RUN, eventually, sleeper};

/// A folder of the host that every pod may write to.
fn marks(host: &Host) -> PathBuf {
    let marks = host.dir.join("marks");
    fs::create_dir(&marks).expect("a folder");
    fs::set_permissions(&marks, fs::Permissions::from_mode(0o777)).expect("its mode");
    marks
}

/// A pod with the marks at `/marks`, and more fields of its container.
fn marked(host: &Host, pod: &str, container: &str, more: &str) -> String {
    format!(
        "pods.{pod} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN}, stop.timeout = \"1s\",
             mounts.marks = {{ volume = \"marks\", path = \"/marks\" }}, {container} }},
             volumes.marks.host = \"{}\", {more} }},\n",
        host.dir.join("marks").display()
    )
}

/// A probe that leaves a line in a file of the marks each time it is asked.
fn probe(kind: &str, mark: &str, answer: &str) -> String {
    format!(
        "{kind} = {{ exec = [\"/bin/sh\", \"-c\", \"echo asked >> /marks/{mark}; {answer}\"],
             period = \"20ms\", failures = 1 }},"
    )
}

fn lines(path: &std::path::Path) -> usize {
    fs::read_to_string(path).unwrap_or_default().lines().count()
}

/// What is on record, without when.
fn events(host: &Host) -> Vec<String> {
    let all = host.tank(&["--json", "events"]).ok();
    all.lines().map(str::to_owned).collect()
}

#[test]
fn a_candidate_with_a_failing_probe_ends_nothing() {
    let host = Host::new();
    let marks = marks(&host);
    // Beside it one of the current generation that is probed as often: where it was asked again,
    // the other would have been.
    let control = marked(&host, "control", &probe("liveness", "control", "true"), "");
    host.switch(&format!("{{ {} {control} }}", marked(&host, "web", "", "")));
    let asked = || lines(&marks.join("control"));
    eventually("the control is probed", || asked() > 0);
    let (pid, before) = (host.pid("web", "app"), events(&host));
    for kind in ["liveness", "startup", "readiness"] {
        let web = marked(&host, "web", &probe(kind, "candidate", "false"), "");
        host.write("candidate.ncl", &format!("{{ {web} {control} }}"));
        for _ in 0..5 {
            let diff = host.tank(&["diff", "candidate.ncl"]).ok();
            assert!(diff.contains(kind), "{diff}");
            let now = asked();
            eventually("the control was probed again", || asked() >= now + 5);
        }
    }
    assert!(
        !marks.join("candidate").exists(),
        "a probe of a candidate was asked"
    );
    assert_eq!(
        host.pid("web", "app"),
        pid,
        "a candidate's probe ended what runs"
    );
    assert_eq!(events(&host), before, "looking is on record");
    // What is declared is asked, and what fails is ended: the same probe in a generation.
    let web = marked(
        &host,
        "web",
        &probe("liveness", "candidate", "test ! -e /tmp/hung"),
        "",
    );
    host.switch(&format!("{{ {web} {control} }}"));
    eventually("it is probed", || marks.join("candidate").exists());
    assert_eq!(
        host.pid("web", "app"),
        pid,
        "another probe starts nothing anew"
    );
    host.exec("web", "touch /tmp/hung");
    eventually("another one runs", || {
        host.pod("web")["containers"][0]["pid"]
            .as_i64()
            .is_some_and(|one| one != pid)
    });
    let events = host.tank(&["events"]).ok();
    assert!(
        events.contains("web: end web/app: it does not answer any more"),
        "{events}"
    );
    host.finish();
}

/// The planner decides that a run ends; where nothing is repaired the plan shows it and nothing
/// ends.
#[test]
fn what_fails_its_probe_is_in_the_plan() {
    let mut host = Host::new();
    let marks = marks(&host);
    let web = marked(
        &host,
        "web",
        &probe("liveness", "web", "test ! -e /marks/hung"),
        "",
    );
    host.switch(&format!("{{ {web} }}"));
    let pid = host.pid("web", "app");
    host.kill_daemon();
    let host = host.started_with(&["--no-repair"]);
    fs::write(marks.join("hung"), "").expect("a mark");
    eventually("the plan ends it", || {
        let diff = host.tank(&["diff"]).ok();
        diff.contains("end web/app") && diff.contains("it does not answer any more")
    });
    assert_eq!(host.pid("web", "app"), pid);
    fs::remove_file(marks.join("hung")).expect("the mark");
    host.finish();
}

/// What a plan says of readiness is what the switch finds: a probe that nobody asked yet has not
/// answered.
#[test]
fn a_plan_with_new_probes_is_the_one_that_is_carried_out() {
    let host = Host::new();
    let marks = marks(&host);
    host.switch(&format!("{{ {} }}", marked(&host, "db", "", "")));
    let pid = host.pid("db", "app");
    host.write(
        "candidate.ncl",
        &format!(
            "{{ {} {} }}",
            marked(&host, "db", &probe("readiness", "db", "true"), ""),
            marked(&host, "web", "", "depends_on.db = 'ready"),
        ),
    );
    let first = host.tank(&["--json", "diff", "candidate.ncl"]).json();
    let waiting = first["waiting"].to_string();
    assert!(
        waiting.contains("web/app: waits for db to be ready"),
        "{first}"
    );
    for _ in 0..3 {
        assert_eq!(
            host.tank(&["--json", "diff", "candidate.ncl"]).json(),
            first
        );
    }
    assert!(
        !marks.join("db").exists(),
        "a probe of a candidate was asked"
    );
    let plan = first["plan"].as_str().expect("a hash").to_owned();
    host.tank(&["switch", "--plan", &plan, "candidate.ncl"])
        .ok();
    assert_eq!(
        (host.pod("web")["state"].clone(), host.pid("db", "app")),
        ("running".into(), pid)
    );
    host.finish();
}

/// Each pod's addresses.
fn addresses(host: &Host) -> BTreeMap<String, String> {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods").iter();
    pods.map(|pod| (pod["name"].to_string(), pod["addresses"].to_string()))
        .collect()
}

#[test]
fn plans_with_new_names_use_no_leases_up() {
    let mut host = Host::new();
    let first = format!("{{ {} }}", sleeper("first"));
    let then = format!(
        "{{ {} {} {} }}",
        sleeper("first"),
        sleeper("new-a"),
        sleeper("new-b")
    );
    host.switch(&first);
    // As many names as there are leases.
    for round in 0..40 {
        let pod = |i: u32| format!("pods.n{round}-{i}.containers.app.image = \"oci:./busybox\",");
        host.write(
            "candidate.ncl",
            &format!(
                "{{ {} {} }}",
                sleeper("first"),
                (0..100).map(pod).collect::<String>()
            ),
        );
        let diff = host.tank(&["diff", "candidate.ncl"]).ok();
        assert!(diff.contains(&format!("create pod n{round}-99")), "{diff}");
    }
    host.switch(&then);
    // Where nobody has looked, the same names get the same.
    let other = Host::new();
    other.switch(&first);
    other.switch(&then);
    let found = addresses(&host);
    assert_eq!(found, addresses(&other));
    assert_eq!(found.len(), 3);
    // And they stay with their names.
    host.switch(&first);
    host.kill_daemon();
    host.start_daemon();
    host.switch(&then);
    assert_eq!(addresses(&host), found);
    other.finish();
    host.finish();
}

/// Every file, folder, link and socket below the state and run folders: what it is, whose, since
/// when, and what is in it. The database's own log of what it does is left out.
fn everything(host: &Host) -> Vec<String> {
    let script = "find state run ! -name 'LOG*' -printf '%p %y %m %U:%G %s %T@ %l\\n' | sort; \
                  find state run -type f ! -name 'LOG*' -exec sha256sum {} + | sort";
    let output = Command::new("sh")
        .args(["-c", script])
        .current_dir(&host.dir)
        .output()
        .expect("sh");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// What the daemon has the kernel watch.
fn watches(host: &Host) -> usize {
    let script = format!(
        "cat /proc/{}/fdinfo/* | grep -c '^inotify'",
        host.daemon_pid()
    );
    let output = Command::new("sh")
        .args(["-c", &script])
        .output()
        .expect("sh");
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("a number")
}

#[test]
fn no_byte_differs_after_looking() {
    let host = Host::new();
    marks(&host);
    let same = marked(&host, "same", &probe("liveness", "same", "true"), "");
    let web = |container: &str, more: &str| marked(&host, "web", container, more);
    host.switch(&format!(
        "{{ {same} {} {} }}",
        web("limits.pids = 50", "hostname = \"one\""),
        sleeper("gone")
    ));
    let candidates = [
        format!(
            "{{ {same} {} }}",
            web("limits.pids = 60", "hostname = \"one\"")
        ),
        format!(
            "{{ {same} {} {} }}",
            web("limits.pids = 50", "hostname = \"two\""),
            sleeper("new")
        ),
        format!(
            "{{ {same} {} {} }}",
            web(&probe("liveness", "web", "false"), "hostname = \"one\""),
            sleeper("new").replace("containers", "network = 'none, pods.new.containers")
        ),
        format!(
            "{{ {same} {} }}",
            web(
                "files.\"/a\".text = \"b\"",
                "hostname = \"one\", publish.p = { port = 18080, to = 80 }"
            )
        ),
        "{}".to_owned(),
    ];
    let (before, watched, recorded) = (everything(&host), watches(&host), events(&host));
    assert!(before.len() > 50, "{before:#?}");
    for candidate in candidates {
        host.write("candidate.ncl", &candidate);
        let plan = |args: &[&str]| host.tank(args).json()["plan"].to_string();
        let first = plan(&["--json", "diff", "candidate.ncl"]);
        assert_eq!(plan(&["--json", "diff", "candidate.ncl"]), first);
        for look in [
            &["diff"][..],
            &["list"],
            &["status"],
            &["get", "web"],
            &["generations", "list"],
            &["events"],
        ] {
            host.tank(look).ok();
        }
        assert_eq!(everything(&host), before, "after looking at {candidate}");
        assert_eq!(watches(&host), watched, "after looking at {candidate}");
    }
    assert_eq!(events(&host), recorded);
    host.finish();
}
