//! An `apply` touches what it names, and nothing else.

use super::*;
use tank_tests::layouts::{copy_of_busybox as layout, push_another};

fn of_image(pod: &str, image: &str) -> String {
    format!("{{ pods.{pod}.containers.app = {{ image = \"{image}\", {RUN} }} }}")
}

fn digest(host: &Host, pod: &str) -> String {
    host.pod(pod)["containers"][0]["digest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

#[test]
fn an_apply_resolves_the_images_of_the_pods_it_names_and_no_others() {
    let host = Host::new();
    let image = layout(&host, "image");
    host.write("a.ncl", &of_image("a", "oci:./image"));
    host.write("b.ncl", &of_image("b", "oci:./image"));
    host.tank(&["switch", "a.ncl", "b.ncl"]).ok();
    let (first, pid) = (digest(&host, "a"), host.pid("a", "app"));
    push_another(&image);
    host.tank(&["apply", "b.ncl"]).ok();
    let second = digest(&host, "b");
    assert_ne!(first, second);
    assert_eq!(
        (digest(&host, "a"), host.pid("a", "app")),
        (first, pid),
        "a bystander got another image"
    );
    // The same again is the same.
    let again = host.tank(&["--json", "apply", "b.ncl"]).json();
    assert_eq!(
        (&again["changed"], &again["generation"]),
        (&false.into(), &2.into())
    );
    host.tank(&["apply", "a.ncl"]).ok();
    assert_eq!(digest(&host, "a"), second);
    host.finish();
}

#[test]
fn an_apply_asks_no_registry_for_the_pods_it_does_not_name() {
    let mut host = Host::new();
    host.start_registry();
    host.write(
        "a.ncl",
        "{ pods.a.containers.app.image = \"localhost:5000/nginx:latest\" }",
    );
    host.tank(&["switch", "a.ncl"]).ok();
    let pid = host.pid("a", "app");
    host.signal_registry("KILL");
    eventually("the registry is down", || {
        host.get("http://localhost:5000/v2/").status != 0
    });
    host.write("b.ncl", &of_image("b", "oci:./busybox"));
    host.tank(&["apply", "b.ncl"]).ok();
    assert_eq!(host.pid("a", "app"), pid);
    // One that it names is asked for.
    let down = host.tank(&["apply", "a.ncl"]);
    assert!(
        down.status == 1 && down.stderr.contains("can't get the image"),
        "{down:?}"
    );
    host.finish();
}

#[test]
fn a_pod_of_another_source_is_taken_over_only_when_that_is_asked() {
    let host = Host::new();
    for (project, step) in [("shop", "1"), ("blog", "2")] {
        fs::create_dir_all(host.dir.join(project)).expect("a folder");
        let pod = format!(
            "{{ pods.db.containers.app = {{ image = \"oci:../busybox\", env.STEP = \"{step}\", {RUN} }} }}"
        );
        host.write(&format!("{project}/pods.ncl"), &pod);
    }
    host.tank(&["apply", "shop/pods.ncl"]).ok();
    let pid = host.pid("db", "app");
    for attempt in [
        &["apply", "blog/pods.ncl"][..],
        &["diff", "--apply", "blog/pods.ncl"],
    ] {
        let refused = host.tank(attempt);
        assert_eq!(refused.status, 1, "{refused:?}");
        for said in [
            "shop/pods.ncl` of user 0",
            "blog/pods.ncl` of user 0",
            "--replace",
        ] {
            assert!(refused.stderr.contains(said), "{said}: {refused:?}");
        }
    }
    assert_eq!((host.pid("db", "app"), outcomes(&host).len()), (pid, 1));
    // The same files from another folder are the same source.
    let mut same = host.command(&["apply", "pods.ncl", "--set", "pods.db.labels.a=\"b\""]);
    assert!(
        same.current_dir(host.dir.join("shop"))
            .output()
            .expect("tank")
            .status
            .success()
    );
    host.tank(&["apply", "--replace", "blog/pods.ncl"]).ok();
    assert_eq!(host.exec("db", "echo $STEP"), "2");
    // From now on it is the other's; and where it went back to, it is whose it was.
    host.tank(&["apply", "blog/pods.ncl"]).ok();
    assert_eq!(host.tank(&["apply", "shop/pods.ncl"]).status, 1);
    host.tank(&["generations", "rollback", "1"]).ok();
    host.tank(&["apply", "shop/pods.ncl"]).ok();
    host.finish();
}

#[test]
fn a_diff_shows_what_an_apply_would_do_and_the_apply_does_that() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("a")));
    host.write("b.ncl", &format!("{{ {} }}", sleeper("b")));
    let diff = host.tank(&["--json", "diff", "--apply", "b.ncl"]).json();
    let steps: Vec<&str> = diff["steps"]
        .as_array()
        .expect("steps")
        .iter()
        .filter_map(|s| s["pod"].as_str())
        .collect();
    assert!(
        !steps.is_empty() && steps.iter().all(|pod| *pod == "b"),
        "{diff}"
    );
    let plan = diff["plan"].as_str().expect("a plan").to_owned();
    let other = host.tank(&[
        "apply",
        "--plan",
        &plan.replace(|c: char| c.is_ascii_digit(), "0"),
        "b.ncl",
    ]);
    assert!(other.status == 1 && host.pod("b").is_null(), "{other:?}");
    host.tank(&["apply", "--plan", &plan, "b.ncl"]).ok();
    assert_eq!(
        (
            host.pod("a")["state"].clone(),
            host.pod("b")["state"].clone()
        ),
        ("running".into(), "running".into())
    );
    host.finish();
}
