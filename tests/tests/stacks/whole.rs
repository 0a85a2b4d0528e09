//! A folder of stacks is the whole host.

use super::*;

#[test]
fn a_folder_of_stacks_is_the_whole_host() {
    let host = Host::new();
    fs::create_dir_all(host.dir.join("hosts/shop")).expect("a folder");
    copy_of_busybox(&host, "hosts/shop/_image");
    copy_of_busybox(&host, "hosts/_image");
    let local = |text: String| text.replace("../image", "./_image");
    let path = |name: &str| host.dir.join("hosts").join(name);
    // A sub-folder, a file, and the pods that belong to no stack; and what is none of them.
    host.write("hosts/shop/pods.ncl", &local(project("shop", "1", "")));
    host.write(
        "hosts/blog.ncl",
        &local(project("x", "1", "")).replace("stack = \"x\",", ""),
    );
    host.write(
        "hosts/pods.ncl",
        &format!("{{ pods.plain.containers.app = {{ image = \"oci:./_image\", {RUN} }} }}"),
    );
    host.write("hosts/_library.ncl", "5");
    host.write("hosts/README.md", "# Hosts");
    let checked = host.tank(&["check", "--host", "hosts"]).ok();
    assert!(checked.contains("5 pods"), "{checked}");
    let root = host.tank(&["build", "--host", "hosts"]).ok();
    assert!(
        root.contains("pod blog:web") && root.contains("pod plain"),
        "{root}"
    );
    host.tank(&["switch", "--host", "hosts"]).ok();
    let all = ["blog:db", "blog:web", "plain", "shop:db", "shop:web"];
    assert_eq!(names(&host), all);
    // The same file by itself is the same stack: nothing changes.
    let before = runs(&host, |_| true);
    for args in [
        &["--json", "switch", "--stack", "blog", "hosts/blog.ncl"][..],
        &["--json", "switch", "hosts/shop/pods.ncl"],
        &["--json", "switch", "hosts/pods.ncl"],
        &["--json", "switch", "--host", "hosts"],
    ] {
        let again = host.tank(args).json();
        assert_eq!(
            (&again["changed"], &again["generation"]),
            (&json!(false), &json!(1)),
            "{args:?}"
        );
    }
    assert_eq!(runs(&host, |_| true), before);
    // One path of an image means another image in each folder.
    push_another(&path("shop/_image"));
    host.write(
        "hosts/cache.ncl",
        &format!("{{ pods.one.containers.app = {{ image = \"oci:./_image\", {RUN} }} }}"),
    );
    fs::remove_file(path("blog.ncl")).expect("remove");
    let diff = host.tank(&["--json", "diff", "--host", "hosts"]).json();
    let plan = diff["plan"].as_str().expect("a plan");
    host.tank(&["switch", "--plan", plan, "--host", "hosts"])
        .ok();
    assert_eq!(names(&host), ["cache:one", "plain", "shop:db", "shop:web"]);
    let after = runs(&host, |_| true);
    assert_eq!(after["plain"], before["plain"]);
    assert_ne!(after["shop:web"].1, before["shop:web"].1);
    assert_eq!(after["cache:one"].1, before["plain"].1);
    host.tank(&["generations", "rollback"]).ok();
    assert_eq!(names(&host), all);
    host.finish();
}

#[test]
fn a_whole_host_is_a_seed() {
    let host = Host::without_daemon();
    copy_of_busybox(&host, "image");
    for stack in ["shop", "blog"] {
        write(
            &host,
            &format!("hosts/{stack}"),
            &project(stack, "1", "").replace("../image", "./image"),
        );
    }
    let seed = host.tank(&["build", "--canonical", "--host", "hosts"]).ok();
    host.write("seed.json", &seed);
    let path = host.dir.join("seed.json").display().to_string();
    let host = host.started_with(&["--seed", &path]);
    eventually("it runs", || {
        names(&host) == ["blog:db", "blog:web", "shop:db", "shop:web"]
            && host.pod("shop:web")["state"] == "running"
    });
    host.finish();
}

#[test]
fn a_folder_that_is_no_host_is_refused() {
    let host = Host::new();
    let dir = host.dir.join("hosts");
    fs::create_dir_all(dir.join("blog")).expect("a folder");
    let refused = |said: &str| {
        for command in ["check", "switch", "diff"] {
            let ended = host.tank(&[command, "--host", "hosts"]);
            assert!(
                ended.status == 1 && ended.stderr.contains(said),
                "{said}: {ended:?}"
            );
        }
    };
    // Removing pods by a folder that was mistyped, or half written, is not what is meant.
    refused("hosts/blog has no `pods.ncl`");
    fs::remove_dir(dir.join("blog")).expect("remove");
    refused("hosts has no configuration of a stack");
    let pod = |more: &str| format!("{{ {more} pods.a.containers.app.image = \"x\" }}");
    host.write("hosts/Blog.ncl", &pod(""));
    refused("hosts/Blog.ncl can't be the configuration of a stack");
    fs::remove_file(dir.join("Blog.ncl")).expect("remove");
    host.write("hosts/lib.ncl", "{ base = {} }");
    refused("begins with `_`");
    fs::remove_file(dir.join("lib.ncl")).expect("remove");
    host.write("hosts/_lib.ncl", "{ base = {} }");
    host.write("hosts/one.ncl", &pod("stack = \"blog\","));
    host.write("hosts/two.ncl", &pod("stack = \"blog\","));
    refused("are both the stack `blog`");
    let publish = |pod: &str| {
        format!(
            "{{\n  pods.{pod} = {{\n    containers.app.image = \"x\",\n    publish.http.port = 80,\n  }},\n}}"
        )
    };
    host.write("hosts/one.ncl", &publish("a"));
    host.write("hosts/two.ncl", &publish("b"));
    refused("`one:a.http` has it already");
    refused("hosts/two.ncl:4:");
    refused("publish.http.port = 80");
    let missing = host.tank(&["switch", "--host", "nowhere"]);
    assert!(
        missing.status == 1 && missing.stderr.contains("nowhere"),
        "{missing:?}"
    );
    let mixed = host.tank(&["switch", "--host", "hosts", "hosts/one.ncl"]);
    assert_eq!(mixed.status, 2, "{mixed:?}");
    assert!(names(&host).is_empty() && outcomes(&host).is_empty());
    host.finish();
}
