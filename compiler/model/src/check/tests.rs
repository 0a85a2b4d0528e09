use super::*;
use std::collections::{BTreeMap, BTreeSet};

fn codes(problems: &[Problem]) -> Vec<(&str, String)> {
    problems
        .iter()
        .map(|found| (found.code, found.path.join(".")))
        .collect()
}

fn config(pod: serde_json::Value) -> Config {
    serde_json::from_value(serde_json::json!({ "pods": { "web": pod } })).expect("a configuration")
}

#[test]
fn what_is_not_in_this_version_is_said_beside_the_rest() {
    let pod = serde_json::json!({
        "containers": { "app": { "image": "x" } },
        "update": "start_first",
        "network": { "nics": { "a-very-long-name": {
            "parent": "eth 0", "address": "10.0.0.5/24", "pool": "10.0.0.128/25", "gateway": "10.0.1.1",
        } } },
    });
    let found = check(&config(pod));
    let nic = "pods.web.network.nics.a-very-long-name";
    assert_eq!(
        codes(&found),
        [
            ("tank::nic::name_too_long", nic.to_owned()),
            ("tank::nic::gateway", format!("{nic}.gateway")),
            ("tank::nic::parent", format!("{nic}.parent")),
            ("tank::nic::outside_pool", format!("{nic}.pool")),
            (
                "tank::unsupported::start_first",
                "pods.web.update".to_owned()
            )
        ]
    );
}

#[test]
fn mistakes_of_interfaces_are_found_at_their_fields() {
    let nics = |nics: serde_json::Value| -> Vec<(&str, String)> {
        let pod = serde_json::json!({ "containers": { "app": { "image": "x" } }, "network": { "nics": nics } });
        let config = config(pod);
        let found = check(&config);
        let below = |path: &[String]| path.get(4..).unwrap_or_default().join(".");
        found
            .iter()
            .map(|found| (found.code, below(&found.path)))
            .collect()
    };
    let of = |nic: serde_json::Value| nics(serde_json::json!({ "a": nic }));
    let at = |code, field: &str| (code, format!("a.{field}"));
    let macvlan = |mut nic: serde_json::Value| {
        nic["mode"] = "macvlan".into();
        of(nic)
    };
    assert_eq!(
        nics(serde_json::json!({})),
        [("tank::nic::none", String::new())]
    );
    let twice = serde_json::json!({
        "a": { "parent": "br0", "address": "10.0.0.5/24" },
        "b": { "parent": "br0", "addresses": { "x": "10.0.0.5/16" } },
        "c": { "parent": "br1", "address": "10.0.0.5/24" },
    });
    let taken = "tank::nic::address_taken";
    assert_eq!(nics(twice), [(taken, "b.addresses.x".to_owned())]);
    let lo = serde_json::json!({ "lo": { "mode": "macvlan" } });
    assert_eq!(nics(lo), [("tank::nic::loopback", "lo".to_owned())]);
    // Of a bridge, which one; of a macvlan, the default route's.
    assert_eq!(
        of(serde_json::json!({})),
        [("tank::nic::parent", "a".to_owned())]
    );
    // It speaks to nobody, unless it makes its own packets or another one has an address.
    let mute = ("tank::nic::no_address", "a".to_owned());
    assert_eq!(macvlan(serde_json::json!({})), [mute]);
    let beside = serde_json::json!({ "a": { "mode": "macvlan" }, "b": { "parent": "br0", "pool": "10.0.0.0/24" } });
    assert_eq!(nics(beside), []);
    let raw = serde_json::json!({ "containers": { "app": { "image": "x", "capabilities": { "add": ["CAP_NET_RAW"] } } },
        "network": { "nics": { "a": { "mode": "macvlan" } } } });
    assert_eq!(check(&config(raw)).len(), 0);
    for parent in [
        "",
        ".",
        "..",
        "a/b",
        "a b",
        "a:b",
        "a\tb",
        "sixteen-letters-",
    ] {
        let found = macvlan(serde_json::json!({ "parent": parent }));
        assert_eq!(found, [at("tank::nic::parent", "parent")], "{parent}");
    }
    for bad in [
        "127.0.0.1/8",
        "224.0.0.1/24",
        "0.0.0.0/0",
        "10.0.0.0/24",
        "10.0.0.255/24",
        "fe80::1/64",
        "fd00::/64",
    ] {
        let found = macvlan(serde_json::json!({ "address": bad }));
        assert_eq!(found, [at("tank::nic::address", "address")], "{bad}");
        let found = macvlan(serde_json::json!({ "addresses": { "x": bad } }));
        assert_eq!(found, [at("tank::nic::address", "addresses.x")], "{bad}");
    }
    for good in [
        "10.0.0.0/31",
        "10.0.0.1/31",
        "10.0.0.7/32",
        "fd00::/127",
        "fd00::1/128",
    ] {
        assert_eq!(
            macvlan(serde_json::json!({ "address": good })),
            [],
            "{good}"
        );
    }
    for mtu in [0, 1279, 65_536] {
        let found = macvlan(serde_json::json!({ "mtu": mtu }));
        assert_eq!(found, [at("tank::nic::mtu", "mtu")], "{mtu}");
    }
    let routed = |via: &str, to: &str| {
        macvlan(
            serde_json::json!({ "address": "10.0.0.5/24", "addresses": { "six": "fd00::5/64" },
            "gateway": "10.0.0.1", "routes": { "r": { "to": to, "via": via } } }),
        )
    };
    assert_eq!(routed("fd00::1", "::/0"), []);
    let (gateway, route) = ("tank::nic::gateway", "tank::nic::route");
    assert_eq!(
        routed("10.0.1.1", "10.1.0.0/16"),
        [at(gateway, "routes.r.via")]
    );
    assert_eq!(routed("10.0.0.1", "fd01::/64"), [at(route, "routes.r.to")]);
    assert_eq!(
        routed("10.0.0.1", "10.1.0.1/16"),
        [at(route, "routes.r.to")]
    );
    let none = macvlan(serde_json::json!({ "gateway": "10.0.0.1" }));
    assert_eq!(none, [at(gateway, "gateway")]);
    // Its ports are everybody's there already.
    let pod = serde_json::json!({ "containers": { "app": { "image": "x" } },
        "network": { "nics": { "a": { "mode": "macvlan", "address": "10.0.0.5/24" } } }, "publish": { "p": { "port": 80 } } });
    let found = check(&config(pod));
    assert_eq!(found[0].code, "tank::publish::no_network");
    assert!(
        found[0].help.contains("at its own addresses"),
        "{}",
        found[0].help
    );
    // With the host's network they are the host's, and without one nobody's.
    for (network, expected) in [("host", "the host's already"), ("none", "nothing leads to")] {
        let pod = serde_json::json!({ "containers": { "app": { "image": "x" } },
            "network": network, "publish": { "p": { "port": 80 } } });
        let found = check(&config(pod));
        assert_eq!(found[0].code, "tank::publish::no_network");
        assert!(found[0].help.contains(expected), "{}", found[0].help);
    }
}

#[test]
fn settings_of_the_host_are_not_a_pods() {
    let keys = |network: &str| {
        let keys = [
            "net.core.somaxconn",
            "kernel.sem",
            "kernel.shmmax",
            "kernel.msgmax",
            "fs.mqueue.msg_max",
        ];
        let hosts = [
            "kernel.core_pattern",
            "kernel.hostname",
            "kernel.domainname",
            "vm.swappiness",
            "fs.file-max",
            "net",
        ];
        let sysctls: BTreeMap<_, _> = keys.iter().chain(&hosts).map(|key| (*key, "1")).collect();
        let pod = serde_json::json!({
            "containers": { "app": { "image": "x" } }, "network": network, "sysctls": sysctls,
        });
        let found = check(&config(pod));
        found
            .iter()
            .map(|found| (found.code, found.path[3].clone()))
            .collect::<BTreeSet<_>>()
    };
    let hosts = [
        "fs.file-max",
        "kernel.core_pattern",
        "kernel.domainname",
        "kernel.hostname",
        "net",
        "vm.swappiness",
    ];
    let mut expected: BTreeSet<_> = hosts
        .iter()
        .map(|key| ("tank::sysctl::not_namespaced", (*key).to_owned()))
        .collect();
    assert_eq!(keys("bridge"), expected);
    expected.insert((
        "tank::sysctl::host_network",
        "net.core.somaxconn".to_owned(),
    ));
    assert_eq!(keys("host"), expected);
}

#[test]
fn what_makes_programs_of_root_is_not_given_beside_files_of_the_host() {
    let pod = |read_only: bool, volume: serde_json::Value| {
        let plain = serde_json::json!({ "image": "x", "capabilities": { "add": ["CAP_SETFCAP"] } });
        let mounts =
            serde_json::json!({ "m": { "volume": "v", "path": "/v", "read_only": read_only } });
        let other = serde_json::json!({ "image": "x", "mounts": mounts });
        let pod = serde_json::json!({ "containers": { "a": plain, "b": other }, "volumes": { "v": volume } });
        check(&config(pod))
            .iter()
            .map(|found| found.code)
            .collect::<Vec<_>>()
    };
    let of_host = serde_json::json!({ "host": "/srv/a" });
    assert_eq!(
        pod(false, of_host.clone()),
        ["tank::capability::host_volume"]
    );
    assert_eq!(pod(true, of_host), Vec::<&str>::new());
    assert_eq!(pod(false, serde_json::json!({})), Vec::<&str>::new());
}

/// A host of these pods, each with nothing but a container and these fields.
fn host(pods: serde_json::Value) -> Config {
    let mut pods = pods;
    for pod in pods.as_object_mut().expect("pods").values_mut() {
        pod["containers"] = serde_json::json!({ "app": { "image": "x" } });
    }
    serde_json::from_value(serde_json::json!({ "pods": pods })).expect("a configuration")
}

fn stack(name: &str) -> Scope {
    Scope::Stack(Some(crate::Name::new(name).expect("a name")))
}

#[test]
fn what_two_stacks_cannot_both_have_is_the_fault_of_the_one_that_changes() {
    let both = host(serde_json::json!({
        "blog:web": { "publish": { "http": { "port": 80 } } },
        "shop:web": { "publish": { "front": { "port": 80 } } },
    }));
    for (changes, at, other) in [
        (
            "blog",
            "pods.blog:web.publish.http.port",
            "`shop:web.front`",
        ),
        (
            "shop",
            "pods.shop:web.publish.front.port",
            "`blog:web.http`",
        ),
    ] {
        let found = check_host(&both, &stack(changes));
        let [found] = found.as_slice() else {
            panic!("{found:?}")
        };
        assert_eq!(found.path.join("."), at);
        assert!(found.help.contains(other), "{}", found.help);
    }
    let circle = host(serde_json::json!({
        "a:one": { "depends_on": { "b:two": "ready" } },
        "b:two": { "depends_on": { "three": "ready" } },
        "three": { "depends_on": { "a:one": "ready" } },
    }));
    for (changes, at) in [
        (stack("a"), "pods.a:one.depends_on.b:two"),
        (stack("b"), "pods.b:two.depends_on.three"),
        (Scope::Stack(None), "pods.three.depends_on.a:one"),
        (Scope::Host, "pods.three.depends_on.a:one"),
    ] {
        let found = check_host(&circle, &changes);
        assert_eq!(codes(&found), [("tank::depends_on::cycle", at.to_owned())]);
    }
}

#[test]
fn a_source_is_not_asked_for_the_pods_of_other_stacks() {
    let blog = host(serde_json::json!({
        "blog:web": { "depends_on": { "shop:db": "ready", "blog:dbb": "ready", "db": "ready" } },
        "blog:db": {},
    }));
    let at = |found: &[Problem]| -> Vec<(String, String)> {
        let words = |one: &Problem| {
            (
                one.path[3].clone(),
                format!("{}; {}", one.message, one.help),
            )
        };
        found.iter().map(words).collect()
    };
    let own = (
        "blog:dbb".to_owned(),
        "pod `blog:web` depends on `dbb`, which is not declared; did you mean `db`?".to_owned(),
    );
    assert_eq!(at(&check(&blog)), std::slice::from_ref(&own));
    let said = at(&check_host(&blog, &stack("blog")));
    let other = |stack: &str| format!("`blog:web` depends on `db`{stack}, which is not declared");
    assert_eq!(said[0], own);
    assert!(
        said[1]
            .1
            .contains("depends on `:db`, which is not declared"),
        "{said:?}"
    );
    assert!(
        said[2].1.contains(&other(" of the stack `shop`")),
        "{said:?}"
    );
}

fn pods(pods: serde_json::Value) -> Config {
    let mut pods = pods;
    for pod in pods.as_object_mut().expect("pods").values_mut() {
        pod["containers"] = serde_json::json!({ "app": { "image": "x" } });
    }
    serde_json::from_value(serde_json::json!({ "pods": pods })).expect("a configuration")
}

#[test]
fn ranges_clash_where_they_have_a_port_in_common() {
    let two = |first: serde_json::Value, second: serde_json::Value| {
        let found = check(&pods(serde_json::json!({
            "a": { "publish": { "p": first } }, "b": { "publish": { "q": second } },
        })));
        let found = found
            .iter()
            .map(|found| format!("{} {}", found.path.join("."), found.message));
        found.collect::<Vec<_>>()
    };
    use serde_json::json;
    let range = || json!({ "port": "8000-8010" });
    let twice = |port: u16| {
        vec![format!(
            "pods.b.publish.q.port port {port} of the host is published twice"
        )]
    };
    for (other, port) in [
        (json!({ "port": 8010 }), Some(8010)),
        (json!({ "port": "8005-8020", "to": 80 }), Some(8005)),
        (
            json!({ "port": "7000-8000", "protocol": "both" }),
            Some(8000),
        ),
        (
            json!({ "port": 8001, "address": ["::", "0.0.0.0"] }),
            Some(8001),
        ),
        (json!({ "port": "7990-7999" }), None),
        (json!({ "port": "8011-8020" }), None),
        (json!({ "port": 8010, "protocol": "udp" }), None),
        (
            json!({ "port": 8010, "address": ["127.0.0.2", "::"] }),
            None,
        ),
    ] {
        assert_eq!(
            two(range(), other.clone()),
            port.map(twice).unwrap_or_default(),
            "{other}"
        );
        assert_eq!(
            two(other.clone(), range()),
            port.map(twice).unwrap_or_default(),
            "{other}"
        );
    }
}

#[test]
fn ranges_lead_to_as_many_or_to_one() {
    let of = |publish: serde_json::Value| {
        let found = check(&pods(
            serde_json::json!({ "a": { "publish": { "p": publish } } }),
        ));
        let found = found
            .iter()
            .map(|found| format!("{} {}", found.code, found.path[4]));
        found.collect::<Vec<_>>()
    };
    use serde_json::json;
    let none = Vec::<String>::new();
    assert_eq!(of(json!({ "port": "80-89", "to": "180-189" })), none);
    assert_eq!(of(json!({ "port": "80-89", "to": 80 })), none);
    assert_eq!(of(json!({ "port": "1-4096" })), none);
    assert_eq!(
        of(json!({ "port": "80-89", "to": "180-188" })),
        ["tank::publish::range to"]
    );
    assert_eq!(
        of(json!({ "port": 80, "to": "80-81" })),
        ["tank::publish::range to"]
    );
    assert_eq!(
        of(json!({ "port": "1-65535" })),
        ["tank::publish::range port"]
    );
    assert_eq!(
        of(json!({ "port": "0-1", "to": "1-2" })),
        ["tank::publish::port_zero port"]
    );
    assert_eq!(
        of(json!({ "port": 80, "address": ["127.0.0.1", "::1"] })),
        ["tank::publish::ipv6_loopback address"]
    );
}

#[test]
fn policies_name_pods_that_are_there() {
    use serde_json::json;
    let found = |all: serde_json::Value| {
        let found = check(&pods(all));
        found
            .iter()
            .map(|found| (found.code, found.path.join("."), found.help.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found(json!({
            "blog:db": { "allow_from": ["blog:web", "shop:web", "10.0.0.0/8"], "egress": ["internet"] },
            "blog:web": {},
        })),
        [],
        "those of other stacks are asked for at the switch"
    );
    let wrong = json!({
        "db": { "allow_from": ["web", "wep", "internet"], "egress": ["out"] },
        "out": { "network": "host", "egress": "none" },
        "web": {},
    });
    let wrong = found(wrong);
    let codes: Vec<(&str, &str)> = wrong
        .iter()
        .map(|(code, path, _)| (*code, path.as_str()))
        .collect();
    assert_eq!(
        codes,
        [
            ("tank::policy::unknown_pod", "pods.db.allow_from.1"),
            ("tank::policy::internet", "pods.db.allow_from.2"),
            ("tank::policy::peer_without_address", "pods.db.egress.0"),
            ("tank::policy::no_network", "pods.out.egress"),
        ]
    );
    assert!(wrong[0].2.contains("did you mean `web`"), "{}", wrong[0].2);
    // A pod with a port is meant, in whichever stack, and no pod of another one.
    let ports = found(json!({
        "db": {}, "web": { "egress": ["db:5432"] },
        "blog:db": {}, "blog:web": { "egress": ["db:5432", "shop:5432"] },
    }));
    let at: Vec<&str> = ports.iter().map(|(_, path, _)| path.as_str()).collect();
    assert_eq!(at, ["pods.blog:web.egress.0", "pods.web.egress.0"]);
    assert!(ports[0].2.contains("write \"db\""), "{}", ports[0].2);
    let there = check_host(
        &pods(json!({ "db": { "allow_from": ["shop:web"] } })),
        &Scope::Host,
    );
    assert_eq!(there.len(), 1, "of a whole host every pod is known");
}

#[test]
fn a_folder_has_no_platform_and_what_is_in_an_index_has() {
    for (image, refused) in [
        ("nginx", false),
        (
            "nginx:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            false,
        ),
        ("oci:./layout", false),
        ("docker-archive:./app.tar", false),
        ("dir:./rootfs", true),
        ("nix:/nix/store/00000000000000000000000000000000-app", true),
    ] {
        let app = serde_json::json!({ "image": image, "platform": "linux/aarch64" });
        let found = check(&config(serde_json::json!({ "containers": { "app": app } })));
        let expected = (
            "tank::platform::none",
            "pods.web.containers.app.platform".to_owned(),
        );
        let expected = if refused { vec![expected] } else { Vec::new() };
        assert_eq!(codes(&found), expected, "{image}");
    }
}
