//! What is shown of a host beside its pods: the networks and who is on them, the lines that a record
//! was written on, and what becomes of a list.

use serde_json::Value;
use std::collections::BTreeSet;
use tank_tests::{Host, RUN};

/// A pod on lines of its own.
fn pod(name: &str, more: &str) -> String {
    format!(
        "  pods.{name} = {{\n    containers.app = {{ image = \"oci:./busybox\", {RUN} }},\n    {more}\n  }},\n"
    )
}

fn texts(list: &Value) -> BTreeSet<&str> {
    let list = list.as_array().expect("a list");
    list.iter()
        .map(|text| text.as_str().expect("a text"))
        .collect()
}

#[test]
fn networks_are_listed_with_who_is_on_them() {
    let host = Host::new();
    assert_eq!(host.tank(&["list", "networks"]).ok(), "no networks\n");
    let networks = "networks = { back.internal = true, later.subnets = [\"10.77.0.0/24\"] },";
    host.write(
        "shop.ncl",
        &format!(
            "{{\n  stack = \"shop\",\n  {networks}\n{}{}}}\n",
            pod("db", "networks.back = {},"),
            pod("web", "networks = { back = {}, default = {} },")
        ),
    );
    host.write("one.ncl", &format!("{{\n{}}}\n", pod("one", "")));
    host.tank(&["switch", "shop.ncl"]).ok();
    host.tank(&["switch", "one.ncl"]).ok();
    // Names say their leases: they are the same on every host that has nothing else.
    insta::assert_snapshot!("networks", host.tank(&["list", "networks"]).ok());
    let of_stack = host.tank(&["list", "networks", "--stack", "shop"]).ok();
    assert!(!of_stack.contains("default"), "{of_stack}");
    // Every command that takes a stack says the same of one that there is not.
    for command in [
        &["list", "networks"][..],
        &["list"],
        &["stats", "-1"],
        &["stats", "--since", "1h"],
        &["logs"],
        &["events"],
    ] {
        let unknown = host.tank(&[command, &["--stack", "shopp"]].concat());
        assert_eq!(unknown.status, 1, "{command:?}: {}", unknown.stdout);
        assert_eq!(
            unknown.stderr, "Error: no such stack: `shopp`\n  help: did you mean `shop`?\n",
            "{command:?}"
        );
    }
    // The addresses are those that the pods have.
    let listed = host.tank(&["--json", "list", "networks"]).json();
    let listed = listed["networks"].as_array().expect("networks");
    for name in ["one", "shop:db", "shop:web"] {
        let on = listed
            .iter()
            .flat_map(|network| network["pods"].as_array().expect("pods"));
        let on = on.filter(|on| on["pod"] == name);
        let of_networks: BTreeSet<&str> = on.flat_map(|on| texts(&on["addresses"])).collect();
        let pod = host.pod(name);
        assert_eq!(texts(&pod["addresses"]), of_networks, "{name}");
        let shown = host.tank(&["get", name]).ok();
        assert!(of_networks.iter().all(|own| shown.contains(own)), "{shown}");
    }
    // Each is said with its network.
    let shown = host.tank(&["get", "shop:web"]).ok();
    let addresses = shown.lines().filter(|line| line.starts_with("  address"));
    insta::assert_snapshot!("addresses", addresses.collect::<Vec<_>>().join("\n"));
    // What is piped has all of them.
    let table = host.tank(&["list"]).ok();
    let row = |pod: &str| {
        table
            .lines()
            .find(|line| line.starts_with(pod))
            .expect("a row")
    };
    assert_eq!(row("shop:web").matches(", ").count(), 3, "{table}");
    assert_eq!(row("one").matches(", ").count(), 1, "{table}");
    assert_eq!(host.tank(&["list", "pods"]).ok(), table);
    host.finish();
}

/// What has no pod is removed as what has some, and what pods are on is not.
#[test]
fn networks_without_pods_are_deleted() {
    let host = Host::new();
    let bare = |more: &str| {
        format!("{{ stack = \"shop\", networks = {{ back = {{}}, front = {{}} }}, {more} }}")
    };
    host.write("shop.ncl", &bare(""));
    host.write("blog.ncl", "{ stack = \"blog\", networks.back = {} }");
    for file in ["shop.ncl", "blog.ncl"] {
        host.tank(&["switch", file]).ok();
    }
    let networks = |host: &Host| {
        let listed = host.tank(&["--json", "list", "networks"]).json();
        let listed = listed["networks"].as_array().expect("networks").clone();
        let names = listed
            .into_iter()
            .map(|one| one["name"].as_str().expect("a name").to_owned());
        names.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(networks(&host), "blog:back shop:back shop:front");
    host.tank(&["delete", "networks.shop:front"]).ok();
    assert_eq!(networks(&host), "blog:back shop:back");
    let undo = host.tank(&["delete", "--stack", "shop"]).ok();
    assert!(
        undo.contains("tank generations rollback --stack shop"),
        "{undo}"
    );
    assert_eq!(networks(&host), "blog:back");
    host.tank(&["generations", "rollback", "--stack", "shop"])
        .ok();
    assert_eq!(networks(&host), "blog:back shop:back");
    // What it is asked for by other words, or is in use, is said.
    let said = |args: &[&str]| {
        let ended = host.tank(args);
        assert_eq!(ended.status, 1, "{args:?}: {ended:?}");
        ended.stderr
    };
    insta::assert_snapshot!("delete_as_a_pod", said(&["delete", "shop:back"]));
    let stack = said(&["delete", "shop"]);
    assert!(stack.contains("did you mean `--stack shop`?"), "{stack}");
    insta::assert_snapshot!("delete_without_stack", said(&["delete", "networks.back"]));
    host.write("shop.ncl", &bare(&pod("web", "networks.back = {},")));
    host.tank(&["switch", "shop.ncl"]).ok();
    insta::assert_snapshot!("delete_in_use", said(&["delete", "networks.shop:back"]));
    assert_eq!(networks(&host), "blog:back shop:back shop:front");
    host.finish();
}

/// Of a usual terminal's columns a list takes no more than it has to, and all of it is in `--wide`.
#[test]
fn a_list_fits_a_terminal() {
    let host = Host::new();
    let publish = |port: u16| {
        format!(
            "networks = {{ back = {{}}, front = {{}} }}, publish = {{
              web = {{ port = {port}, to = 80, address = [\"0.0.0.0\", \"::\"] }},
              more = {{ port = \"{}-{}\", address = [\"127.0.0.1\", \"127.0.0.9\"] }},
            }},",
            port + 1,
            port + 9
        )
    };
    host.switch(&format!(
        "{{ networks = {{ back = {{}}, front = {{}} }}, {}{} }}",
        pod("web", &publish(8080)),
        pod("api", &publish(9090))
    ));
    // Where it is no terminal, nothing is left out.
    let table = host.tank(&["list"]).ok();
    assert_eq!(host.tank(&["list", "--wide"]).ok(), table);
    insta::assert_snapshot!("table_wide", table);
    host.finish();
}

#[test]
fn why_a_record_is_there() {
    let host = Host::new();
    let networks = "networks = {\n      back = {\n        aliases.database = {},\n      },\n      default = {},\n    },";
    let own = format!("{{\n  networks.back = {{}},\n{}}}\n", pod("web", networks));
    host.write("base.ncl", &own);
    host.write(
        "prod.ncl",
        "{\n  networks.back.internal = true,\n  pods.web.networks.back.aliases.db = {},\n}\n",
    );
    host.tank(&["switch", "base.ncl", "prod.ncl"]).ok();
    insta::with_settings!({ filters => vec![(r"\d+[smh] ago", "a while ago")] }, {
        for (field, name) in [
            ("networks.back", "why_network"),
            ("networks.back.internal", "why_internal"),
            ("pods.web.networks", "why_networks_of_a_pod"),
            ("web.networks.back.aliases", "why_aliases"),
            ("web.networks.back.aliases.database", "why_alias"),
            ("web.networks.default", "why_empty"),
            ("web.app", "why_container"),
            ("web", "why_pod"),
        ] {
            let shown = host.tank(&["why", field]).ok();
            let shown = shown.split_once(" = ").expect("a value").1;
            insta::assert_snapshot!(name, shown);
        }
    });
    let unknown = host.tank(&["why", "networks.bakc.internal"]);
    assert_eq!(unknown.status, 1);
    insta::assert_snapshot!("why_no_network", unknown.stderr);
    host.finish();
}

#[test]
fn policies_and_lists_are_shown_as_they_are_written() {
    let host = Host::new();
    let write = |policies: &str, args: &str| {
        let text = format!(
            "{{\n  stack = \"shop\",\n{}{}}}\n",
            pod("db", policies),
            pod("web", "")
        );
        host.write(
            "shop.ncl",
            &text.replacen(RUN, &format!("{RUN}, args = {args}"), 1),
        );
    };
    write("", "[\"a\"]");
    host.tank(&["switch", "shop.ncl"]).ok();
    let changes = |host: &Host| -> String {
        let diff = host.tank(&["diff", "shop.ncl"]).ok();
        let changes = diff.lines().filter(|line| line.starts_with('~'));
        changes.map(|line| format!("{line}\n")).collect()
    };
    write(
        "allow_from = [\"web\", \"10.0.0.0/8\"], egress = 'internet,",
        "[\"a\", \"b \\\"c\\\"\"]",
    );
    insta::assert_snapshot!("policy_set", changes(&host));
    host.tank(&["switch", "shop.ncl"]).ok();
    write(
        "allow_from = 'none, egress = [\"web\", \":db\", \"internet\"],",
        "[\"a\"]",
    );
    host.write("db.ncl", &format!("{{\n{}}}\n", pod("db", "")));
    host.tank(&["switch", "db.ncl"]).ok();
    insta::assert_snapshot!("policy_changed", changes(&host));
    host.finish();
}

/// What is published at a family of which the pod has no address leads nowhere, and nothing says that it does.
#[test]
fn ports_of_a_family_that_a_pod_lacks_are_not_listed() {
    let host = Host::new();
    host.write(
        "a.ncl",
        &format!(
            "{{\n  networks.four.subnets = [\"10.91.7.0/24\"],\n{}}}\n",
            pod(
                "a",
                "networks.four = {}, publish.http = { port = 8080, to = 80, address = [\"0.0.0.0\", \"::\"] },"
            )
        ),
    );
    let diff = host.tank(&["diff", "a.ncl"]).ok();
    assert!(
        diff.contains("0.0.0.0:8080 from anywhere") && !diff.contains("[::]"),
        "{diff}"
    );
    host.tank(&["switch", "a.ncl"]).ok();
    assert_eq!(
        host.pod("a")["published"],
        serde_json::json!(["0.0.0.0:8080->80"])
    );
    host.finish();
}

/// What is of a pod's own stack is named without it, there as in the file.
#[test]
fn why_knows_what_a_stack_calls_its_own() {
    let host = Host::new();
    host.write(
        "shop.ncl",
        &format!(
            "{{\n  stack = \"shop\",\n  networks.back = {{}},\n{}{}}}\n",
            pod("db", "networks.back = {},"),
            pod("web", "networks.back = {},\n    depends_on.db = 'started,"),
        ),
    );
    host.tank(&["switch", "shop.ncl"]).ok();
    for (field, line) in [
        ("shop:web.networks.back", "shop.ncl:10"),
        ("shop:web.networks.\"shop:back\"", "shop.ncl:10"),
        ("shop:web.depends_on.db", "shop.ncl:11"),
    ] {
        let shown = host.tank(&["why", field]).ok();
        assert!(
            shown.contains(&format!("set at      {line}")),
            "{field}: {shown}"
        );
    }
    // A generation in which a stack was not there is no good one of it by its number.
    host.write("other.ncl", "{ stack = \"other\", networks.x = {} }");
    host.tank(&["switch", "other.ncl"]).ok();
    let back = host.tank(&["generations", "rollback", "1", "--stack", "other"]);
    assert!(
        back.stderr
            .contains("that has nothing of `other`, so all of it goes"),
        "{back:?}"
    );
    host.finish();
}
