//! Volumes that pods share: the same files in each, of one stack, until they are removed.

use serde_json::{Value, json};
use std::{collections::BTreeMap, fs};
use tank_tests::{Host, RUN, eventually, images::image};

/// A pod that mounts the shared volume `up`. `more` are fields of its container, `mount` of its mount.
fn pod(image: &str, more: &str, mount: &str) -> String {
    format!(
        "{{ volumes.own.shared = \"up\", containers.app = {{ image = \"{image}\", {RUN}, stop.signal = \"SIGKILL\", {more}
            mounts.up = {{ volume = \"own\", path = \"/srv/up\", {mount} }} }} }}"
    )
}

const BUSYBOX: &str = "oci:./busybox";

/// The volumes that are listed, by name.
fn listed(host: &Host) -> BTreeMap<String, Value> {
    let list = host.tank(&["--json", "volume", "list"]).json();
    let list = list["volumes"].as_array().expect("volumes").clone();
    let name = |one: &Value| one["name"].as_str().expect("a name").to_owned();
    list.into_iter().map(|one| (name(&one), one)).collect()
}

/// The main process of each pod.
fn pids(host: &Host) -> BTreeMap<String, i64> {
    let list = host.tank(&["--json", "list"]).json();
    let pods = list["pods"].as_array().expect("pods").iter();
    pods.map(|pod| {
        let pid = pod["containers"][0]["pid"].as_i64().unwrap_or_default();
        (pod["name"].as_str().expect("a name").to_owned(), pid)
    })
    .collect()
}

#[test]
fn pods_share_files_whose_owners_are_the_same_in_each() {
    let host = Host::new();
    host.switch(&format!(
        "{{ volumes.up = {{ owner = \"33:34\", mode = \"2775\" }},
            pods.web = {},
            pods.worker = {},
            pods.reader = {},
            pods.part = {},
            pods.apart = {{ volumes.up = {{}}, containers.app = {{ image = \"{BUSYBOX}\", {RUN}, stop.signal = \"SIGKILL\", mounts.up = {{ volume = \"up\", path = \"/srv/up\" }} }} }} }}",
        pod(BUSYBOX, "user = \"33:34\",", ""),
        pod(BUSYBOX, "user = \"1000:34\",", ""),
        pod(BUSYBOX, "", "read_only = true"),
        pod(BUSYBOX, "", "sub_path = \"of/web\""),
    ));
    host.exec(
        "web",
        "echo of web > /srv/up/web; mkdir /srv/up/in; echo x > /srv/up/in/x",
    );
    host.exec("worker", "echo of worker > /srv/up/worker");
    let look = "cd /srv/up && stat -c '%A %u:%g %n' . in in/x in/y web worker && cat web worker";
    let expected = "drwxrwsr-x 33:34 .\ndrwxr-sr-x 33:34 in\n-rw-r--r-- 33:34 in/x\n-rw-r--r-- 33:34 in/y\n-rw-r--r-- 33:34 web\n-rw-r--r-- 1000:34 worker\nof web\nof worker";
    // A directory of another's is not this user's to write.
    let refused = host.tank(&[
        "exec",
        "worker",
        "--",
        "sh",
        "-c",
        "echo more > /srv/up/in/z",
    ]);
    assert_ne!(refused.status, 0);
    host.exec("web", "echo more > /srv/up/in/y");
    for pod in ["web", "worker", "reader"] {
        assert_eq!(host.exec(pod, look), expected, "{pod}");
    }
    // Who has it read-only writes nothing, and neither does its root.
    let refused = host.tank(&["exec", "reader", "--", "sh", "-c", "echo x > /srv/up/web"]);
    assert!(refused.stderr.contains("Read-only"), "{}", refused.stderr);
    // A directory of it is made for who mounts that, and is the others' as well.
    host.exec("part", "echo p > /srv/up/p");
    assert_eq!(
        host.exec(
            "web",
            "cat /srv/up/of/web/p; stat -c '%a %u:%g' /srv/up/of/web"
        ),
        "p\n2775 33:34"
    );
    // A pod's own volume of that name is another one, on disk as well.
    assert_eq!(host.exec("apart", "ls /srv/up"), "");
    let state = host.dir.join("state");
    assert!(state.join("volumes/apart/up").is_dir());
    assert_eq!(
        fs::read_to_string(state.join("shared-volumes/up/web")).expect("reads"),
        "of web\n"
    );
    let mode = std::os::unix::fs::MetadataExt::mode(
        &fs::metadata(state.join("shared-volumes")).expect("it is there"),
    );
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    host.finish();
}

#[test]
fn it_begins_with_what_the_image_of_the_first_has_and_keeps_what_is_written() {
    let host = Host::new();
    let first = image(
        &host,
        "first",
        "folder('srv/up', 0o750, 7, 8)\nfile('srv/up/conf', b'first')\n",
    );
    let second = image(
        &host,
        "second",
        "folder('srv/up', 0o700, 9, 9)\nfile('srv/up/conf', b'second')\nfile('srv/up/other', b'x')\n",
    );
    let config = |order: &str, volume: &str| {
        format!(
            "{{ volumes.up = {{ {volume} }}, pods.one = {}, pods.two = {} & {{ {order} }} }}",
            pod(&first, "", ""),
            pod(&second, "", "")
        )
    };
    host.switch(&config("depends_on.one = 'ready", ""));
    let look = "cat /srv/up/conf; ls /srv/up; stat -c '%a %u:%g' /srv/up";
    for pod in ["one", "two"] {
        assert_eq!(host.exec(pod, look), "firstconf\n750 7:8", "{pod}");
    }
    host.exec("two", "rm /srv/up/conf; echo y > /srv/up/mine");
    host.tank(&["delete", "one", "two"]).ok();
    // Whoever starts first the next time: it was begun.
    host.switch(&config("", ""));
    for pod in ["one", "two"] {
        assert_eq!(host.exec(pod, "ls /srv/up"), "mine", "{pod}");
    }
    // Both start at once, many times: it has one's content, and never of both.
    for _ in 0..4 {
        host.tank(&["delete", "one", "two"]).ok();
        host.tank(&["delete", "volumes.up"]).ok();
        host.tank(&["volume", "remove", "up"]).ok();
        host.switch(&config("", ""));
        let found = host.exec("one", look);
        let either = ["firstconf\n750 7:8", "secondconf\nother\n700 9:9"];
        assert!(either.contains(&found.as_str()), "{found}");
        assert_eq!(host.exec("two", look), found);
    }
    host.tank(&["delete", "one", "two"]).ok();
    host.tank(&["delete", "volumes.up"]).ok();
    host.tank(&["volume", "remove", "up"]).ok();
    host.switch(&config("", "no_copy = true"));
    assert_eq!(
        host.exec("two", "ls /srv/up; stat -c '%a %u:%g' /srv/up"),
        "755 0:0"
    );
    host.finish();
}

#[test]
fn a_change_of_it_restarts_who_mounts_it_and_nobody_else() {
    let host = Host::new();
    let config = |volumes: &str, pods: &[&str]| {
        let sharing = pods
            .iter()
            .map(|name| format!("pods.{name} = {},", pod(BUSYBOX, "", "")));
        let sharing: String = sharing.collect();
        format!(
            "{{ volumes = {{ {volumes} }}, {sharing}
                pods.apart = {{ containers.app = {{ image = \"{BUSYBOX}\", {RUN}, stop.signal = \"SIGKILL\" }} }},
                pods.says = {{ volumes.own.shared = \"up\", containers.app = {{ image = \"{BUSYBOX}\", {RUN}, stop.signal = \"SIGKILL\" }} }} }}"
        )
    };
    host.switch(&config("up = {}", &["web", "worker"]));
    host.exec("web", "echo x > /srv/up/x");
    let before = pids(&host);
    // Another one beside it, and a pod more that uses this one: nobody is disturbed.
    host.switch(&config("up = {}, more = {}", &["web", "worker", "third"]));
    let mut now = pids(&host);
    assert!(now.remove("third").is_some());
    assert_eq!(now, before);
    assert_eq!(host.exec("third", "cat /srv/up/x"), "x");
    host.tank(&["delete", "third"]).ok();
    assert_eq!(pids(&host), before);
    host.tank(&["delete", "volumes.more"]).ok();
    assert_eq!(pids(&host), before);
    // The plan names what is changed, where it is declared.
    host.write(
        "next.ncl",
        &config("up.mode = \"0700\"", &["web", "worker"]),
    );
    let plan = host.tank(&["diff", "next.ncl"]).ok();
    let lines: Vec<&str> = plan.lines().filter(|line| line.contains("mode")).collect();
    assert!(
        !lines.is_empty()
            && lines
                .iter()
                .all(|line| line.contains("volume up: mode changed") || line.contains("volume up")),
        "{plan}"
    );
    assert!(
        !plan.contains("data_risk") && !plan.contains("data risk"),
        "{plan}"
    );
    host.tank(&["switch", "next.ncl"]).ok();
    let after = pids(&host);
    for pod in ["web", "worker"] {
        assert_ne!(after[pod], before[pod], "{pod}");
        assert_eq!(
            host.exec(pod, "cat /srv/up/x; stat -c %a /srv/up"),
            "x\n700"
        );
    }
    for pod in ["apart", "says"] {
        assert_eq!(after[pod], before[pod], "{pod}");
    }
    // Where the pod's is another one, what was written is not there any more.
    let text = config("up.mode = \"0700\", other = {}", &["web", "worker"]);
    host.write(
        "next.ncl",
        &text.replacen("shared = \"up\"", "shared = \"other\"", 1),
    );
    let plan = host.tank(&["--json", "diff", "next.ncl"]).json();
    assert!(plan.to_string().contains("data_risk"), "{plan}");
    // One pod of two goes; the other has what it had.
    host.tank(&["delete", "worker"]).ok();
    assert_eq!(pids(&host)["web"], after["web"]);
    assert_eq!(host.exec("web", "cat /srv/up/x"), "x");
    host.finish();
}

#[test]
fn it_is_listed_exported_imported_and_removed_under_its_name() {
    let host = Host::new();
    let both = format!(
        "{{ volumes.up = {{}}, pods.web = {}, pods.worker = {}, pods.up = {{ volumes.up = {{}}, containers.app = {{ image = \"{BUSYBOX}\", {RUN}, stop.signal = \"SIGKILL\", mounts.up = {{ volume = \"up\", path = \"/up\" }} }} }} }}",
        pod(BUSYBOX, "", ""),
        pod(BUSYBOX, "", "")
    );
    host.switch(&both);
    host.exec("web", "echo x > /srv/up/x");
    let found = listed(&host);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["up", "up/up"]);
    let one = &found["up"];
    assert_eq!(
        (
            &one["declared"],
            &one["mounted"],
            &one["generations"],
            &one["pods"]
        ),
        (
            &true.into(),
            &true.into(),
            &json!([1]),
            &json!(["web", "worker"])
        )
    );
    assert_eq!(found["up/up"]["pods"], Value::Null);
    let table = host.tank(&["volume", "list"]).ok();
    assert!(
        table
            .lines()
            .any(|line| line.starts_with("up ") && line.ends_with("web, worker")),
        "{table}"
    );
    let tar = host.dir.join("up.tar");
    let tar = tar.to_str().expect("a path");
    host.tank(&["volume", "export", "up", "-o", tar]).ok();
    // Not removed, and nothing put in its place, while anybody has it.
    let refused = host.tank(&["volume", "remove", "up"]);
    assert!(
        refused
            .stderr
            .contains("the shared volume `up` is declared, and used by web, worker"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("tank delete volumes.up"),
        "{}",
        refused.stderr
    );
    let refused = host.tank(&["volume", "import", "up", tar, "--replace"]);
    assert!(
        refused.stderr.contains("has `up` mounted")
            && refused.stderr.contains("tank stop web worker"),
        "{}",
        refused.stderr
    );
    let refused = host.tank(&["delete", "volumes.up"]);
    assert!(
        refused
            .stderr
            .contains("pod `web` uses the shared volume `up`"),
        "{}",
        refused.stderr
    );
    host.tank(&["delete", "web"]).ok();
    let refused = host.tank(&["volume", "import", "up", tar, "--replace"]);
    assert!(
        refused.stderr.contains("pod `worker` has `up` mounted"),
        "{}",
        refused.stderr
    );
    let refused = host.tank(&["delete", "volumes.pu"]);
    assert!(refused.stderr.contains("`up`"), "{}", refused.stderr);
    host.tank(&["delete", "worker"]).ok();
    // Nobody uses it, and it stays as it is declared.
    let refused = host.tank(&["volume", "remove", "up"]);
    assert!(
        refused
            .stderr
            .contains("the shared volume `up` is declared"),
        "{}",
        refused.stderr
    );
    fs::write(host.dir.join("state/shared-volumes/up/more"), "x").expect("written");
    host.tank(&["volume", "import", "up", tar, "--replace"])
        .ok();
    assert!(!host.dir.join("state/shared-volumes/up/more").exists());
    host.switch(&both);
    assert_eq!(host.exec("worker", "cat /srv/up/x; ls /srv/up"), "x\nx");
    // Declared no more, it is kept, by gc as well; a generation that can be gone back to names it.
    host.tank(&["delete", "web", "worker"]).ok();
    host.tank(&["delete", "volumes.up"]).ok();
    host.tank(&["gc"]).ok();
    let one = &listed(&host)["up"];
    assert_eq!(
        (&one["declared"], &one["pods"]),
        (&false.into(), &json!([]))
    );
    assert!(
        host.tank(&["volume", "remove", "--orphans"])
            .ok()
            .contains("nothing to remove")
    );
    host.tank(&["volume", "remove", "up"]).ok();
    // What is removed goes by way of the trash, which stays.
    let names = |path: &str| -> Vec<_> {
        let all = fs::read_dir(host.dir.join(path)).expect("a folder");
        all.map(|one| one.expect("an entry").file_name()).collect()
    };
    assert_eq!(names("state/shared-volumes"), [".trash"]);
    eventually("the trash is empty", || {
        names("state/shared-volumes/.trash").is_empty()
    });
    assert_eq!(listed(&host).keys().collect::<Vec<_>>(), ["up/up"]);
    host.finish();
}

#[test]
fn each_stack_has_its_own_and_no_other_stack_has_it() {
    let host = Host::new();
    for (stack, says) in [("shop", "s"), ("blog", "b")] {
        let text = format!(
            "{{ stack = \"{stack}\", volumes.up = {{}}, pods.web = {} }}",
            pod(BUSYBOX, "", "")
        );
        host.write(&format!("{stack}.ncl"), &text);
        host.tank(&["switch", &format!("{stack}.ncl")]).ok();
        host.exec(
            &format!("{stack}:web"),
            &format!("echo {says} > /srv/up/of"),
        );
    }
    assert_eq!(host.exec("shop:web", "cat /srv/up/of"), "s");
    assert_eq!(host.exec("blog:web", "cat /srv/up/of"), "b");
    assert_eq!(
        listed(&host).keys().collect::<Vec<_>>(),
        ["blog:up", "shop:up"]
    );
    // Neither by the name of another stack's, nor by its plain one.
    for shared in ["shop:up", ":up", "up"] {
        let text = format!(
            "{{ stack = \"other\", pods.web = {} }}",
            pod(BUSYBOX, "", "")
        );
        host.write(
            "other.ncl",
            &text.replace("shared = \"up\"", &format!("shared = \"{shared}\"")),
        );
        let refused = host.tank(&["switch", "other.ncl"]);
        assert_eq!(refused.status, 1, "{shared}");
        assert!(refused.stderr.contains("other.ncl:1"), "{}", refused.stderr);
    }
    let pids_before = pids(&host);
    host.tank(&["delete", "--stack", "blog"]).ok();
    assert_eq!(pids(&host)["shop:web"], pids_before["shop:web"]);
    assert_eq!(listed(&host)["blog:up"]["declared"], false);
    let why = host.tank(&["why", "volumes.shop:up"]).ok();
    assert!(why.contains("shop.ncl"), "{why}");
    host.tank(&["volume", "remove", "blog:up"]).ok();
    assert_eq!(host.exec("shop:web", "cat /srv/up/of"), "s");
    host.finish();
}

/// A pod that is applied brings the shared volumes of its files, and those of others stay.
#[test]
fn a_pod_that_is_applied_brings_its_own_and_takes_none_away() {
    let host = Host::new();
    host.switch(&format!(
        "{{ volumes = {{ up = {{}}, other = {{}} }}, pods.web = {} }}",
        pod(BUSYBOX, "", "")
    ));
    host.exec("web", "echo x > /srv/up/x");
    let web = pids(&host)["web"];
    let text = format!(
        "{{ volumes = {{ up = {{}}, more = {{}} }}, pods.worker = {} }}",
        pod(BUSYBOX, "", "read_only = true")
    );
    host.write("worker.ncl", &text);
    host.tank(&["apply", "worker.ncl"]).ok();
    assert_eq!(pids(&host)["web"], web);
    assert_eq!(host.exec("worker", "cat /srv/up/x"), "x");
    let declared = |name: &str| host.tank(&["why", &format!("volumes.{name}")]).status == 0;
    for (name, is) in [
        ("up", true),
        ("other", true),
        ("more", true),
        ("none", false),
    ] {
        assert_eq!(declared(name), is, "{name}");
    }
    let config = host.tank(&["--json", "get", "worker"]).ok();
    assert!(
        config.contains("\"up\"") && !config.contains("\"more\""),
        "{config}"
    );
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(pids(&host), BTreeMap::from([("web".to_owned(), web)]));
    assert!(!declared("more") && declared("other"));
    host.finish();
}

/// What a Compose user has: one named volume of two services.
#[test]
fn a_volume_of_two_services_is_one_volume() {
    let host = Host::new();
    host.write(
        "compose.yaml",
        "name: shop\nservices:\n  web:\n    image: oci:./busybox\n    entrypoint: [sleep, '1000000']\n    stop_signal: SIGKILL\n    volumes: ['my_uploads:/srv/up', 'own:/own']\n  worker:\n    image: oci:./busybox\n    entrypoint: [sleep, '1000000']\n    stop_signal: SIGKILL\n    volumes: ['my_uploads:/work:ro']\nvolumes: { my_uploads: {}, own: {} }\n",
    );
    host.tank(&["import", "--strict", "compose.yaml", "-o", "pods.ncl"])
        .ok();
    let text = fs::read_to_string(host.dir.join("pods.ncl")).expect("reads");
    assert!(text.contains("shared = \"my-uploads\""), "{text}");
    host.tank(&["switch", "pods.ncl"]).ok();
    host.exec("shop:web", "echo x > /srv/up/x");
    assert_eq!(host.exec("shop:worker", "cat /work/x"), "x");
    assert_eq!(
        listed(&host).keys().collect::<Vec<_>>(),
        ["shop:my-uploads", "shop:web/own"]
    );
    host.finish();
}

/// What somebody mounts on the host below a directory is in the container that follows it, as the host mounted
/// it, and goes with it. Where nothing is handed on, nothing is started.
#[test]
fn what_the_host_mounts_later_is_in_the_container_and_is_nobody_s_there() {
    let mut host = Host::without_daemon();
    let media = host.dir.join("media").display().to_string();
    let run = |host: &Host, script: &str| {
        let script = format!("set -e; M={media}; {script}");
        let status = host.inside("sh").args(["-c", &script]).status();
        assert!(status.expect("sh").success(), "{script}");
    };
    run(
        &host,
        "mkdir $M; mount -t tmpfs tank-test $M; mkdir $M/now $M/later",
    );
    host.start_daemon();
    let config = |more: &str| {
        let pod = |user: &str, mount: &str| {
            format!(
                "{{ volumes.media.host = \"{media}\", containers.app = {{ image = \"{BUSYBOX}\", {RUN}, stop.signal = \"SIGKILL\", user = \"{user}\",
                    mounts.media = {{ volume = \"media\", path = \"/media\", {mount} }} }} }}"
            )
        };
        let follows = format!("propagation = 'slave, {more}");
        format!(
            "{{ pods.web = {}, pods.user = {}, pods.apart = {} }}",
            pod("0", &follows),
            pod("1000:1000", &follows),
            pod("0", "")
        )
    };
    host.write("pods.ncl", &config(""));
    let refused = host.tank(&["switch", "pods.ncl"]);
    assert_eq!(refused.status, 1, "{}", refused.stderr);
    let says = "mount --make-shared";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    assert_eq!(pids(&host), BTreeMap::new());
    host.kill_daemon();
    run(
        &host,
        "mount --make-shared $M; mount -t tmpfs tank-now $M/now; echo now > $M/now/f",
    );
    host.start_daemon();
    host.tank(&["switch", "pods.ncl"]).ok();
    run(
        &host,
        "mount -t tmpfs tank-later $M/later; echo later > $M/later/f; cp /bin/busybox $M/later; chmod 6755 $M/later/busybox",
    );
    let look =
        "cat /media/now/f /media/later/f; stat -c %u:%g /media/later/f; stat -c %u:%g /media";
    assert_eq!(host.exec("web", look), "now\nlater\n65534:65534\n0:0");
    // The pod's root is nobody there, and a program of the host's root makes nobody its owner.
    let refused = host.tank(&["exec", "web", "--", "sh", "-c", "echo x > /media/later/f"]);
    let says = "Permission denied";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    let ids = "/media/later/busybox id -u; /media/later/busybox id -g";
    assert_eq!(host.exec("user", ids), "1000\n1000");
    // Who does not follow has none of it, and what is unmounted is gone.
    assert_eq!(
        host.exec("apart", "cd /media; ls now later"),
        "later:\n\nnow:"
    );
    run(&host, "umount $M/later");
    assert_eq!(host.exec("web", "ls /media/later"), "");
    // What the kernel can't keep is refused where it is written.
    host.write("bad.ncl", &config("read_only = true"));
    let refused = host.tank(&["check", "bad.ncl"]);
    let says = "tank::mount::propagation";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    host.write("bad.ncl", &config("").replace("'slave", "'shared"));
    let refused = host.tank(&["check", "bad.ncl"]);
    let says = "what a container mounts never appears on the host";
    assert!(refused.stderr.contains(says), "{}", refused.stderr);
    host.tank(&["delete", "web", "user", "apart"]).ok();
    run(&host, "umount -l $M; rmdir $M");
    host.finish();
}

/// A pod's own volume that becomes a shared one of the same name, and the other way round: what it had stays, and where is said.
#[test]
fn what_stays_behind_in_the_volume_that_it_was_is_said() {
    let host = Host::new();
    let text = |beside: &str, volume: &str| {
        format!(
            "{{ {beside} pods.db = {{ volumes.data = {volume}, containers.app = {{ image = \"{BUSYBOX}\", {RUN}, stop.signal = \"SIGKILL\",
                mounts.d = {{ volume = \"data\", path = \"/d\" }} }} }} }}"
        )
    };
    let (own, shared) = (
        text("", "{}"),
        text("volumes.data = {},", "{ shared = \"data\" }"),
    );
    host.switch(&own);
    host.exec("db", "echo mine > /d/file");
    for (next, name, has) in [(&shared, "db/data", ""), (&own, "data", "mine")] {
        host.write("next.ncl", next);
        let said = format!("what it had stays in `{name}` (`tank volume export {name}` has it)");
        let diff = tank_tests::words(&host.tank(&["diff", "next.ncl"]).ok());
        assert!(diff.contains(&said), "{diff}");
        let switched = host.tank(&["switch", "next.ncl"]);
        assert_eq!(switched.status, 0, "{}", switched.stderr);
        let warned = tank_tests::words(&switched.stderr);
        assert!(
            warned.contains("warning:") && warned.contains(&said),
            "{warned}"
        );
        assert_eq!(host.exec("db", "cat /d/file 2>/dev/null || true"), has);
    }
    // Nothing is left to be said.
    host.tank(&["volume", "export", "data", "-o", "data.tar"])
        .ok();
    let again = host.tank(&["diff", "next.ncl", "--exit-code"]);
    assert_eq!((again.status, again.stdout.trim()), (0, "nothing to do"));
    host.finish();
}
