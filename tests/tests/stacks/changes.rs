//! What is previewed, removed, gone back to and refused of one stack.

use super::*;

/// A probe that never succeeds.
const NEVER: &str =
    "containers.app.readiness = { exec = [\"/bin/false\"], period = \"100ms\", failures = 1000 },";

#[test]
fn a_diff_shows_what_a_switch_of_the_stack_does_and_the_switch_does_that() {
    let host = both();
    let shop = runs(&host, of_stack("shop"));
    write(
        &host,
        "blog",
        &project("blog", "2", "")
            .replace("pods.db", "pods.data")
            .replace("depends_on.db", "depends_on.data"),
    );
    let diff = host.tank(&["--json", "diff", "blog/pods.ncl"]).json();
    let steps = diff["steps"].as_array().expect("steps");
    assert!(!steps.is_empty());
    for step in steps {
        let pod = step["pod"].as_str().unwrap_or("blog:");
        assert!(pod.starts_with("blog:"), "{step}");
    }
    let changes = diff["changes"].to_string();
    assert!(
        changes.contains("pod blog:data") && !changes.contains("shop"),
        "{changes}"
    );
    let plan = diff["plan"].as_str().expect("a plan");
    let done = host.tank(&["switch", "--plan", plan, "blog/pods.ncl"]).ok();
    assert!(
        done.contains("undo with `tank generations rollback --stack blog`"),
        "{done}"
    );
    assert_eq!(
        names(&host),
        ["blog:data", "blog:web", "shop:db", "shop:web"]
    );
    assert_eq!(runs(&host, of_stack("shop")), shop);
    // One pod of a stack, beside the others of it.
    host.write(
        "blog/more.ncl",
        &format!("{{ pods.more.containers.app = {{ image = \"oci:../image\", {RUN} }} }}"),
    );
    host.tank(&["apply", "--stack", "blog", "blog/more.ncl"])
        .ok();
    assert_eq!(
        names(&host),
        ["blog:data", "blog:more", "blog:web", "shop:db", "shop:web"]
    );
    let done = host.tank(&["delete", "blog:more"]).ok();
    assert!(done.contains("rollback --stack blog`"), "{done}");
    assert_eq!(
        names(&host),
        ["blog:data", "blog:web", "shop:db", "shop:web"]
    );
    // And all of one.
    let typo = host.tank(&["delete", "--stack", "blgo"]);
    assert!(
        typo.status == 1 && typo.stderr.contains("did you mean `blog`?"),
        "{typo:?}"
    );
    host.tank(&["delete", "--stack", "blog"]).ok();
    assert_eq!(names(&host), ["shop:db", "shop:web"]);
    assert_eq!(runs(&host, of_stack("shop")), shop);
    host.finish();
}

#[test]
fn one_stack_goes_back_and_the_others_stay() {
    let host = both();
    let first = runs(&host, of_stack("blog"));
    let none = host.tank(&["generations", "rollback", "--stack", "shop"]);
    assert_eq!(none.status, 1);
    assert!(
        none.stderr
            .contains("no generation before 2 was good and has it otherwise"),
        "{none:?}"
    );
    push_another(&host.dir.join("image"));
    switch(&host, "blog", "2");
    switch(&host, "shop", "2");
    let shop = runs(&host, of_stack("shop"));
    // The newest good one in which the stack differs is the second: the third changed the other.
    let back = host
        .tank(&["--json", "generations", "rollback", "--stack", "blog"])
        .json();
    assert_eq!(back["generation"], 5);
    assert_eq!(host.exec("blog:web", "echo $STEP"), "1");
    let digests = |runs: &BTreeMap<String, (i64, String)>| -> Vec<String> {
        runs.values().map(|(_, digest)| digest.clone()).collect()
    };
    assert_eq!(digests(&runs(&host, of_stack("blog"))), digests(&first));
    assert_eq!(runs(&host, of_stack("shop")), shop);
    let why = host
        .tank(&["--json", "why", "blog:web.app.env.STEP"])
        .json();
    assert_eq!(why["place"], "blog/pods.ncl:8");
    // To one that is named; and of the host, all at once.
    host.tank(&["generations", "rollback", "--stack", "blog", "3"])
        .ok();
    assert_eq!(host.exec("blog:web", "echo $STEP"), "2");
    assert_eq!(runs(&host, of_stack("shop")), shop);
    host.tank(&["generations", "rollback", "2"]).ok();
    let steps = ["blog:web", "shop:web"].map(|pod| host.exec(pod, "echo $STEP"));
    assert_eq!(steps, ["1", "1"]);
    // One that is gone comes back.
    host.tank(&["delete", "--stack", "blog"]).ok();
    let shop = runs(&host, of_stack("shop"));
    host.tank(&["generations", "rollback", "--stack", "blog"])
        .ok();
    assert_eq!(host.exec("blog:db", "echo $STEP"), "1");
    assert_eq!(runs(&host, of_stack("shop")), shop);
    let typo = host.tank(&["generations", "rollback", "--stack", "blgo"]);
    assert!(
        typo.status == 1 && typo.stderr.contains("no such stack: `blgo`"),
        "{typo:?}"
    );
    assert!(typo.stderr.contains("did you mean `blog`?"), "{typo:?}");
    assert!(
        outcomes(&host).iter().all(|outcome| outcome == "good"),
        "{:?}",
        outcomes(&host)
    );
    host.finish();
}

#[test]
fn what_does_not_become_healthy_in_one_stack_is_put_back_in_that_one_only() {
    let host = both();
    let (shop, db) = (runs(&host, of_stack("shop")), host.pid("blog:db", "app"));
    write(&host, "blog", &project("blog", "1", NEVER));
    let failed = host.tank(&["switch", "--timeout", "2s", "blog/pods.ncl"]);
    assert_eq!(failed.status, 3, "{failed:?}");
    assert!(failed.stderr.contains("blog:web/app"), "{failed:?}");
    assert_eq!(outcomes(&host), ["good", "good", "rolled_back", "good"]);
    assert_eq!(runs(&host, of_stack("shop")), shop);
    assert_eq!(host.pid("blog:db", "app"), db);
    assert_eq!(host.pod("blog:web")["state"], "running");
    host.finish();
}

#[test]
fn a_rollback_of_a_stack_ends_its_own_switch_and_nobody_elses() {
    let host = both();
    let (shop, blog) = (runs(&host, of_stack("shop")), runs(&host, of_stack("blog")));
    write(&host, "shop", &project("shop", "2", NEVER));
    let on_its_way = spawn(&host, &["switch", "--timeout", "60s", "shop/pods.ncl"]);
    eventually("it is on its way", || outcomes(&host).len() == 3);
    // The switch of another stack is not ended by it.
    let refused = host.tank(&["generations", "rollback", "--stack", "blog", "2"]);
    assert!(
        refused.status == 1
            && refused.stderr.contains("is under way")
            && refused
                .stderr
                .contains("`tank generations rollback --stack shop` ends it"),
        "{refused:?}"
    );
    // Nor does another one get past it, and it is told the same.
    let refused = host.tank(&["switch", "blog/pods.ncl"]);
    assert!(
        refused.status == 1
            && refused
                .stderr
                .contains("`tank generations rollback --stack shop` ends it"),
        "{refused:?}"
    );
    host.tank(&["generations", "rollback", "--stack", "shop"])
        .ok();
    let ended = wait(on_its_way);
    assert!(
        ended.status == 1 && ended.stderr.contains("came first"),
        "{ended:?}"
    );
    assert_eq!(outcomes(&host), ["good", "good", "rolled_back", "good"]);
    assert_eq!(host.exec("shop:web", "echo $STEP"), "1");
    assert_eq!(runs(&host, of_stack("blog")), blog);
    assert_eq!(runs(&host, of_stack("shop")).len(), shop.len());
    // Of one that changed several, nothing stays: no part of it was ever good.
    fs::create_dir_all(host.dir.join("all")).expect("a folder");
    let at = |stack: &str, step: &str, more: &str| {
        let text = project(stack, step, more);
        host.write(&format!("all/{stack}.ncl"), &text);
    };
    at("shop", "3", "");
    at("blog", "3", NEVER);
    let on_its_way = spawn(&host, &["switch", "--timeout", "60s", "--host", "all"]);
    eventually("it is on its way", || outcomes(&host).len() == 5);
    host.tank(&["generations", "rollback", "--stack", "blog"])
        .ok();
    assert_eq!(wait(on_its_way).status, 1);
    let steps = ["blog:db", "shop:web"].map(|pod| host.exec(pod, "echo $STEP"));
    assert_eq!(steps, ["1", "1"]);
    host.finish();
}

#[test]
fn what_two_stacks_cannot_both_have_is_refused_before_anything_is_disturbed() {
    let host = both();
    let publish = "publish.http = { port = 8080, to = 80 },";
    write(&host, "shop", &project("shop", "1", publish));
    host.tank(&["switch", "shop/pods.ncl"]).ok();
    let before = (runs(&host, |_| true), outcomes(&host).len());
    write(&host, "blog", &project("blog", "2", publish));
    for attempt in [&["switch", "blog/pods.ncl"][..], &["diff", "blog/pods.ncl"]] {
        let refused = host.tank(attempt);
        assert_eq!(refused.status, 1, "{refused:?}");
        for said in [
            "blog/pods.ncl:10:",
            "publish.http = { port = 8080, to = 80 }",
            "port 8080 of the host is published twice",
            "`shop:web.http` has it already",
            "taken here: shop/pods.ncl:10",
        ] {
            assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        }
    }
    // A dependency on another stack is said with that stack, and has to be there.
    write(
        &host,
        "blog",
        &project("blog", "1", "depends_on.\"shop:cache\" = 'ready,"),
    );
    host.tank(&["check", "blog/pods.ncl"]).ok();
    let refused = host.tank(&["switch", "blog/pods.ncl"]);
    assert!(refused.status == 1, "{refused:?}");
    assert!(
        refused.stderr.contains("blog/pods.ncl:10:")
            && refused
                .stderr
                .contains("depends_on.\"shop:cache\" = 'ready")
            && refused
                .stderr
                .contains("depends on `cache` of the stack `shop`, which is not declared"),
        "{refused:?}"
    );
    assert_eq!((runs(&host, |_| true), outcomes(&host).len()), before);
    write(
        &host,
        "blog",
        &project("blog", "1", "depends_on.\"shop:db\" = 'ready,"),
    );
    host.tank(&["switch", "blog/pods.ncl"]).ok();
    // Now the other one can't go without it, nor wait for this one.
    let gone = host.tank(&["delete", "--stack", "shop"]);
    assert!(
        gone.status == 1
            && gone
                .stderr
                .contains("depends on `shop:db` (blog/pods.ncl:10)"),
        "{gone:?}"
    );
    let text = project("shop", "1", publish).replace(
        "volumes.data",
        "depends_on.\"blog:web\" = 'ready, volumes.data",
    );
    write(&host, "shop", &text);
    let circle = host.tank(&["switch", "shop/pods.ncl"]);
    assert!(
        circle.status == 1 && circle.stderr.contains("pods wait for each other"),
        "{circle:?}"
    );
    assert!(circle.stderr.contains("shop/pods.ncl:5:"), "{circle:?}");
    host.finish();
}

#[test]
fn a_stack_belongs_to_the_files_it_came_from() {
    let host = both();
    let before = runs(&host, |_| true);
    fs::create_dir_all(host.dir.join("other")).expect("a folder");
    host.write(
        "other/pods.ncl",
        &project("blog", "2", "")
            .replace("pods.db", "pods.x")
            .replace("depends_on.db", "depends_on.x"),
    );
    for attempt in [
        &["switch", "other/pods.ncl"][..],
        &["diff", "other/pods.ncl"],
    ] {
        let refused = host.tank(attempt);
        assert_eq!(refused.status, 1, "{refused:?}");
        for said in [
            "blog/pods.ncl` of user 0",
            "other/pods.ncl` of user 0",
            "--replace",
        ] {
            assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        }
    }
    // Nor is a stack emptied by another source.
    host.write("other/empty.ncl", "{ stack = \"blog\" }");
    let refused = host.tank(&["switch", "other/empty.ncl"]);
    assert!(
        refused.status == 1 && refused.stderr.contains("--replace"),
        "{refused:?}"
    );
    assert_eq!(runs(&host, |_| true), before);
    host.tank(&["switch", "--replace", "other/pods.ncl"]).ok();
    assert_eq!(names(&host), ["blog:web", "blog:x", "shop:db", "shop:web"]);
    // The source says its stack, or the command does; not two of them.
    let both = host.tank(&["switch", "--stack", "shop", "other/pods.ncl"]);
    assert_eq!(both.status, 1);
    for said in [
        "tank::stack::two_names",
        "`blog`",
        "`shop`",
        "other/pods.ncl:2",
    ] {
        assert!(both.stderr.contains(said), "{said}: {}", both.stderr);
    }
    let named = "{ pods.\"blog:web\".containers.app.image = \"x\" }";
    host.write("named.ncl", named);
    let refused = host.tank(&["check", "named.ncl"]);
    assert!(
        refused
            .stderr
            .contains("write `stack = \"blog\"` beside `pods`, and `pods.web`"),
        "{}",
        refused.stderr
    );
    host.finish();
}

/// What another stack's pod is in is not waited for: it was no better before.
#[test]
fn a_rollback_of_a_stack_does_not_wait_for_a_broken_pod_of_another() {
    let host = both();
    let broken = "{ stack = \"m\", pods.x = { containers.app = { image = \"oci:../image\", mounts.data = { volume = \"data\", path = \"/data\" }, \
                  command = [\"/bin/sh\", \"-c\", \"[ ! -e /data/stop ] && exec sleep 10000; exit 7\"] }, volumes.data = {} } }";
    write(&host, "m", broken);
    host.tank(&["switch", "m/pods.ncl"]).ok();
    switch(&host, "shop", "2");
    host.tank(&["exec", "m:x", "--", "touch", "/data/stop"])
        .ok();
    let pid = i32::try_from(host.pid("m:x", "app")).expect("a pid");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("kills");
    eventually("it is given up for a while", || {
        host.tank(&["list"]).stdout.contains("failed (7)")
    });
    let back = host.tank(&["--json", "generations", "rollback", "--stack", "shop"]);
    assert_eq!(back.status, 0, "{}{}", back.stdout, back.stderr);
    assert!(
        host.tank(&["list"]).stdout.contains("failed (7)"),
        "it is still broken"
    );
    let shop = runs(&host, of_stack("shop"));
    assert!(shop.values().all(|(pid, _)| *pid > 0), "{shop:?}");
    // Nor does one that is put back by itself.
    write(
        &host,
        "shop",
        &project(
            "shop",
            "3",
            "containers.bad = { image = \"oci:../image\", command = [\"/bin/false\"] },",
        ),
    );
    let failed = host.tank(&["switch", "shop/pods.ncl"]);
    assert_eq!(failed.status, 3, "{}{}", failed.stdout, failed.stderr);
    let cause = "caused by: shop:web/bad ";
    assert!(failed.stderr.contains(cause), "{}", failed.stderr);
    // Nor does a switch that changes nothing, whether what is current is good or not.
    for outcome in ["good", "failed"] {
        if outcome == "failed" {
            write(&host, "m", &broken.replace("exit 7", "exit 8"));
            let failed = host.tank(&["switch", "--no-rollback", "m/pods.ncl"]);
            assert_ne!(failed.status, 0, "{}{}", failed.stdout, failed.stderr);
        }
        let before = outcomes(&host);
        assert_eq!(
            before.last().map(String::as_str),
            Some(outcome),
            "{before:?}"
        );
        write(&host, "shop", &project("shop", "1", ""));
        let same = host.tank(&["switch", "shop/pods.ncl"]);
        assert_eq!(same.status, 0, "{}{}", same.stdout, same.stderr);
        assert_eq!(outcomes(&host), before);
    }
    let own = host.tank(&["switch", "m/pods.ncl"]);
    assert!(own.status != 0 && own.stderr.contains("m:x/app"), "{own:?}");
    host.finish();
}

/// Nor do steps of another stack's pods that fail count, which nobody asked for.
#[test]
fn a_change_of_a_stack_does_not_fail_for_a_pod_of_another() {
    let host = both();
    let folder = host.dir.join("gone");
    std::fs::create_dir(&folder).expect("a folder");
    let broken = format!(
        "{{ stack = \"m\", pods.x = {{ containers.app = {{ image = \"oci:../image\", mounts.data = {{ volume = \"data\", path = \"/data\" }}, \
          command = [\"/bin/sh\", \"-c\", \"exec sleep 10000\"] }}, volumes.data.host = \"{}\" }} }}",
        folder.display()
    );
    write(&host, "m", &broken);
    host.tank(&["switch", "m/pods.ncl"]).ok();
    std::fs::remove_dir(&folder).expect("removed");
    let pid = i32::try_from(host.pid("m:x", "app")).expect("a pid");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(pid).expect("a pid"),
        rustix::process::Signal::KILL,
    )
    .expect("kills");
    let is_broken = || {
        let events = host.tank(&["events", "-n", "50", "m:x"]).stdout;
        events.contains("can't")
    };
    eventually("it can't be started", is_broken);
    write(&host, "shop", &project("shop", "2", ""));
    let switched = host.tank(&["switch", "shop/pods.ncl"]);
    assert_eq!(switched.status, 0, "{}{}", switched.stdout, switched.stderr);
    let back = host.tank(&["generations", "rollback", "--stack", "shop"]);
    assert_eq!(back.status, 0, "{}{}", back.stdout, back.stderr);
    let bad = "containers.bad = { image = \"oci:../image\", command = [\"/bin/false\"] },";
    write(&host, "shop", &project("shop", "3", bad));
    let failed = host.tank(&["switch", "shop/pods.ncl"]);
    assert_eq!(failed.status, 3, "{}{}", failed.stdout, failed.stderr);
    assert_eq!(outcomes(&host).last().map(String::as_str), Some("good"));
    // A switch of its own stack says so.
    let own = host.tank(&["switch", "m/pods.ncl"]);
    assert!(own.status != 0 && own.stderr.contains("m:x"), "{own:?}");
    host.finish();
}
