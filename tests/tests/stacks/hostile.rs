//! A client that is not ours, and names at the end of what they may be.

use super::*;
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
};

/// Calls a method of the daemon as any program may.
fn call(host: &Host, method: &str, parameters: &Value) -> Value {
    let mut socket = UnixStream::connect(host.socket()).expect("connect");
    let call = json!({ "method": format!("io.tank.Executor.{method}"), "parameters": parameters });
    socket
        .write_all(format!("{call}\0").as_bytes())
        .expect("write");
    let mut answer = Vec::new();
    BufReader::new(socket)
        .read_until(0, &mut answer)
        .expect("read");
    answer.pop();
    serde_json::from_slice(&answer).expect("an answer")
}

#[test]
fn a_client_reaches_no_stack_but_the_one_it_names() {
    let host = both();
    let (before, count) = (runs(&host, |_| true), outcomes(&host).len());
    let pod = json!({ "containers": { "app": { "image": "oci:./image" } } });
    let configs = [
        // Pods of another stack than it says, or of a stack where it says none.
        json!({ "pods": { "shop:db": pod }, "stack": "blog" }),
        json!({ "pods": { "db": pod }, "stack": "blog" }),
        json!({ "pods": { "shop:db": pod } }),
        // What is no stack.
        json!({ "pods": {}, "stack": "../shop" }),
        json!({ "pods": {}, "stack": ".." }),
        json!({ "pods": {}, "stack": "a/b" }),
        json!({ "pods": {}, "stack": "a:b" }),
        json!({ "pods": {}, "stack": "" }),
        json!({ "pods": { "../x:db": pod }, "stack": "../x" }),
        json!({ "pods": { "a:b:c": pod } }),
        json!({ "pods": { ":db": pod } }),
        json!({ "pods": { "blog:": pod }, "stack": "blog" }),
        json!({ "pods": { format!("blog:{}", "x".repeat(59)): pod }, "stack": "blog" }),
        // A stack for what has none.
        json!({ "pods": { "blog:x": { "containers": { "a:b": { "image": "x" } } } }, "stack": "blog" }),
        json!({ "pods": { "blog:x": { "containers": { "a": { "image": "x" } }, "volumes": { "a:b": {} } } }, "stack": "blog" }),
    ];
    for config in configs {
        let text = config.to_string().replace("\"pods\":{},", "");
        for (method, merge) in [("Switch", false), ("Switch", true), ("Diff", false)] {
            let answer = call(
                &host,
                method,
                &json!({
                    "config": text, "source": "x", "merge": merge, "replace": true,
                    "base_dir": host.dir.display().to_string(),
                }),
            );
            assert_eq!(
                answer["error"], "io.tank.Executor.Invalid",
                "{text}: {answer}"
            );
        }
    }
    // A whole host has to say where each stack comes from, and is no part itself.
    let host_of = |config: &Value, stacks: Value| {
        let text = config.to_string();
        call(
            &host,
            "Switch",
            &json!({ "config": text, "source": "x", "stacks": stacks }),
        )
    };
    let dir = host.dir.display().to_string();
    let source = |stack: Value| json!([{ "stack": stack, "base_dir": dir, "files": [] }]);
    for (config, stacks) in [
        (json!({ "pods": { "shop:db": pod } }), json!([])),
        (json!({ "pods": { "shop:db": pod } }), source(json!("blog"))),
        (json!({ "pods": { "db": pod } }), source(json!("blog"))),
        (
            json!({ "pods": { "blog:db": pod }, "stack": "blog" }),
            source(json!("blog")),
        ),
    ] {
        let answer = host_of(&config, stacks);
        assert_eq!(
            answer["error"], "io.tank.Executor.Invalid",
            "{config}: {answer}"
        );
    }
    for parameters in [json!({}), json!({ "pod": "blog:db", "stack": "blog" })] {
        let answer = call(&host, "Delete", &parameters);
        assert_eq!(answer["error"], "io.tank.Executor.Invalid", "{answer}");
    }
    for stack in ["..", "a/b", "blog:db", ""] {
        let deleted = call(&host, "Delete", &json!({ "stack": stack }));
        let back = call(&host, "Rollback", &json!({ "stack": stack, "to": 1 }));
        for answer in [deleted, back] {
            assert_eq!(answer["error"], "io.tank.Executor.NoSuchStack", "{answer}");
        }
    }
    assert_eq!(
        (runs(&host, |_| true), outcomes(&host).len()),
        (before, count)
    );
    // What it says of the lines of others is not kept.
    let blog = project("blog", "1", "");
    host.write("blog/pods.ncl", &blog);
    let canonical = host.tank(&["build", "--canonical", "blog/pods.ncl"]).ok();
    let lie = json!({ "files": ["lie.ncl"], "fields": {
        "pods.\"shop:web\".containers.app.env.STEP": { "file": 0, "line": 666 } } });
    let changed = canonical
        .trim_end()
        .replace("\"STEP\":\"1\"", "\"STEP\":\"7\"");
    let answer = call(
        &host,
        "Switch",
        &json!({
            "config": changed, "source": "x", "provenance": lie.to_string(), "replace": true,
            "base_dir": host.dir.join("blog").display().to_string(),
        }),
    );
    assert_eq!(answer["parameters"]["outcome"]["changed"], true, "{answer}");
    let why = host
        .tank(&["--json", "why", "shop:web.app.env.STEP"])
        .json();
    assert_eq!(why["place"], "shop/pods.ncl:8", "{why}");
    host.finish();
}

#[test]
fn a_name_of_the_greatest_length_fits_everywhere() {
    let mut host = Host::new();
    copy_of_busybox(&host, "image");
    let (stack, pod) = ("s".repeat(31), "p".repeat(31));
    let name = format!("{stack}:{pod}");
    let config = |pod: &str| {
        format!(
            "{{ pods.{pod} = {{ containers.app = {{ image = \"oci:./image\", {RUN}, mounts.d = {{ volume = \"d\", path = \"/d\" }} }}, volumes.d = {{}}, publish.http = {{ port = 8080, to = 80 }} }} }}"
        )
    };
    host.write("pods.ncl", &config(&pod));
    host.tank(&["switch", "--stack", &stack, "pods.ncl"]).ok();
    assert_eq!(
        host.exec(&name, "hostname; touch /d/x; ls /d"),
        format!("{pod}\nx")
    );
    let pid = host.pid(&name, "app");
    host.kill_daemon();
    host.start_daemon();
    assert_eq!(host.pid(&name, "app"), pid);
    assert_eq!(host.tank(&["diff"]).ok(), "nothing to do\n");
    // One more is refused on its line.
    host.write("long.ncl", &config(&format!("{pod}p")));
    let refused = host.tank(&["check", "--stack", &stack, "long.ncl"]);
    assert_eq!(refused.status, 1);
    for said in ["tank::name::invalid", "has more than 63", "long.ncl:1"] {
        assert!(refused.stderr.contains(said), "{said}: {}", refused.stderr);
    }
    host.tank(&["delete", &name]).ok();
    host.finish();
}
