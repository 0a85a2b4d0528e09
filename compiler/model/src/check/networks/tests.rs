use crate::{
    check::{Problem, check, check_host},
    name::Name,
    spec::Config,
    stack::Scope,
};
use serde_json::{Value, json};

/// A configuration of these networks and pods, each pod given without its container.
fn config(networks: &Value, pods: &Value) -> Config {
    let mut pods = pods.clone();
    for (_, pod) in pods.as_object_mut().expect("pods") {
        pod["containers"] = json!({ "app": { "image": "x" } });
    }
    let config = json!({ "networks": networks, "pods": pods });
    serde_json::from_value(config).expect("a configuration")
}

fn codes(problems: &[Problem]) -> Vec<(&str, String)> {
    let code = |found: &Problem| {
        let (_, code) = found.code.split_once("::").expect("a code");
        (code, found.path.join("."))
    };
    problems.iter().map(code).collect()
}

fn of(networks: Value, pods: Value) -> Vec<(String, String)> {
    let found = check(&config(&networks, &pods));
    let found = codes(&found).into_iter();
    found.map(|(code, path)| (code.to_owned(), path)).collect()
}

fn at(code: &str, path: &str) -> (String, String) {
    (code.to_owned(), path.to_owned())
}

/// A policy names pods that there is a way to: by a network of both, or by a published port.
#[test]
fn peers_of_policies_are_in_reach() {
    let networks = json!({ "back": {}, "front": {}, "inner": { "internal": true } });
    let policies = |web: Value, q: Value| {
        let mut found = Vec::new();
        for (field, owner, peer) in [("allow_from", "web", "q"), ("egress", "q", "web")] {
            let mut pods = json!({ "web": web, "q": q });
            pods[owner][field] = json!([peer]);
            let codes = of(networks.clone(), pods);
            let apart = at(
                "policy::no_common_network",
                &format!("pods.{owner}.{field}.0"),
            );
            assert!(codes.is_empty() || codes == [apart], "{codes:?}");
            found.push(codes.is_empty());
        }
        // Who may be asked is the same to both.
        assert_eq!(found[0], found[1], "{web} {q}");
        found[0]
    };
    let on = |names: &[&str]| -> Value {
        let on = names.iter().map(|name| ((*name).to_owned(), json!({})));
        json!({ "networks": on.collect::<serde_json::Map<_, _>>() })
    };
    let publishing = |names: &[&str], address: &str| {
        let mut pod = on(names);
        pod["publish"] = json!({ "p": { "port": 80, "address": address } });
        pod
    };
    let default = || json!({});
    for (web, q, is_way) in [
        (default(), default(), true),
        (default(), on(&["default", "back"]), true),
        (on(&["back"]), on(&["back", "front"]), true),
        (on(&["inner"]), on(&["inner"]), true),
        (on(&["back"]), on(&["front"]), false),
        (on(&["back"]), default(), false),
        (default(), on(&["inner"]), false),
        // By a port that others than the host reach.
        (publishing(&["back"], "0.0.0.0"), default(), true),
        (publishing(&["back"], "10.0.0.7"), on(&["front"]), true),
        (publishing(&["back"], "127.0.0.1"), default(), false),
        (publishing(&["back"], "0.0.0.0"), on(&["inner"]), false),
        (
            publishing(&["back"], "0.0.0.0"),
            on(&["inner", "front"]),
            true,
        ),
        // The other way round it is no way.
        (on(&["back"]), publishing(&["front"], "0.0.0.0"), false),
    ] {
        assert_eq!(policies(web.clone(), q.clone()), is_way, "{web} {q}");
    }
    // Nothing leads to the internet out of internal networks.
    let reaching = |names: &[&str], egress: Value| {
        let mut pod = on(names);
        pod["egress"] = egress;
        of(networks.clone(), json!({ "web": pod }))
    };
    let refused = |field: &str| [at("policy::internal", &format!("pods.web.{field}"))];
    assert_eq!(reaching(&["inner"], json!("internet")), refused("egress.0"));
    let list = json!(["10.0.0.1", "internet"]);
    assert_eq!(reaching(&["inner"], list.clone()), refused("egress.1"));
    assert_eq!(reaching(&["inner", "back"], list.clone()), []);
    assert_eq!(reaching(&[], list), []);
    // Of a network that is not declared that is all that is said.
    let mut web = on(&["bakc"]);
    web["allow_from"] = json!(["q"]);
    let found = of(networks.clone(), json!({ "web": web, "q": {} }));
    assert_eq!(found, [at("network::unknown", "pods.web.networks.bakc")]);
    // A pod of another stack is known on the whole host, and so is its network.
    let mut web = on(&["shop:own"]);
    web["allow_from"] = json!(["shop:q"]);
    let pods = |on_own: bool| {
        let q = if on_own {
            on(&["shop:own"])
        } else {
            on(&["front"])
        };
        json!({ "web": web.clone(), "shop:q": q })
    };
    let host = json!({ "front": {}, "shop:own": {} });
    assert_eq!(of(host.clone(), pods(true)), []);
    let found = |pods: Value| {
        let found = check_host(&config(&host, &pods), &Scope::Host);
        found.iter().map(|found| found.code).collect::<Vec<_>>()
    };
    assert_eq!(found(pods(true)), [""; 0]);
    assert_eq!(found(pods(false)), ["tank::policy::no_common_network"]);
}

#[test]
fn subnets_are_networks_that_pods_can_have() {
    let subnet = |text: &str| of(json!({ "n": { "subnets": [text] } }), json!({}));
    for good in [
        "10.91.7.0/24",
        "192.168.0.0/30",
        "172.16.0.0/12",
        "fd00:7::/64",
        "fd00::/120",
        "2001:db8::/32",
    ] {
        assert_eq!(subnet(good), [], "{good}");
    }
    for bad in [
        "10.91.7.1/24",
        "10.0.0.0/31",
        "10.0.0.0/32",
        "fd00::/121",
        "fd00::1/64",
        "0.0.0.0/0",
        "0.0.0.0/8",
        "127.0.0.0/8",
        "127.1.0.0/16",
        "126.0.0.0/7",
        "169.254.3.0/24",
        "224.0.0.0/24",
        "255.255.255.0/24",
        "::/0",
        "::/64",
        "::1:0/112",
        "::ffff:10.0.0.0/104",
        "fe80::/64",
        "ff02::/64",
    ] {
        let expected = match bad {
            // Nothing in it means anything else.
            "::1:0/112" => vec![],
            _ => vec![at("network::subnet", "networks.n.subnets.0")],
        };
        assert_eq!(subnet(bad), expected, "{bad}");
    }
    let two =
        json!({ "n": { "subnets": ["10.0.0.0/24", "fd00::/64", "10.0.1.0/24", "10.0.2.0/24"] } });
    assert_eq!(
        of(two, json!({})),
        [at("network::two_subnets", "networks.n.subnets.2")]
    );
}

#[test]
fn networks_do_not_overlap_and_the_one_that_changes_gives_way() {
    let networks = json!({
        "blog:back": { "subnets": ["10.0.0.0/16", "fd00::/64"] },
        "shop:back": { "subnets": ["fd01::/64", "10.0.7.0/24"] },
        "back": { "subnets": ["10.1.0.0/16"] },
    });
    let config = config(&networks, &json!({}));
    let stack = |name: &str| Scope::Stack(Some(Name::new(name).expect("a name")));
    for (scope, fault) in [
        (stack("shop"), "networks.shop:back.subnets.1"),
        (stack("blog"), "networks.blog:back.subnets.0"),
    ] {
        let found = check_host(&config, &scope);
        assert_eq!(codes(&found), [("network::overlap", fault.to_owned())]);
        assert!(found[0].related.is_some());
    }
}

#[test]
fn a_pod_is_on_networks_that_are_there() {
    let on = |network: &str| {
        let networks = json!({ "back": {}, "front": {} });
        of(networks, json!({ "web": { "networks": { network: {} } } }))
    };
    assert_eq!(on("back"), []);
    assert_eq!(on("default"), []);
    // Of another stack it is not known here; on the whole host it is.
    assert_eq!(on("shop:back"), []);
    let unknown = |name: &str| [at("network::unknown", &format!("pods.web.networks.{name}"))];
    assert_eq!(on("bakc"), unknown("bakc"));
    let pods = json!({ "web": { "networks": { "shop:back": {} } } });
    let whole = check_host(&config(&json!({ "back": {} }), &pods), &Scope::Host);
    assert_eq!(
        codes(&whole),
        [("network::unknown", "pods.web.networks.shop:back".to_owned())]
    );
    let help = |said: &str| {
        let pods = json!({ "blog:web": { "networks": { said: {} } } });
        check(&config(&json!({ "blog:back": {} }), &pods))[0]
            .help
            .clone()
    };
    assert_eq!(help("blog:bakc"), "did you mean `back`?");
    assert_eq!(help("blog:x"), "declare it: `networks.x = {}`");
    for reserved in ["default", "blog:default"] {
        assert_eq!(
            of(json!({ reserved: {} }), json!({})),
            [at("network::reserved", &format!("networks.{reserved}"))]
        );
    }
    for network in [json!("host"), json!("none"), json!({ "nics": {} })] {
        let pods = json!({ "web": { "network": network, "networks": { "back": {} } } });
        let found = of(json!({ "back": {} }), pods);
        assert!(
            found.contains(&at("network::not_bridge", "pods.web.networks")),
            "{found:?}"
        );
    }
}

#[test]
fn static_addresses_are_of_their_network() {
    let networks = json!({
        "front": { "subnets": ["10.0.0.0/24", "fd00::/64"] }, "back": {}, "odd": { "subnets": ["10.0.9.1/24"] },
    });
    let address = |network: &str, text: &str| {
        let pods = json!({ "web": { "networks": { network: { "addresses": [text] } } } });
        let mut found = of(networks.clone(), pods);
        found.retain(|(code, _)| code != "network::subnet");
        found
    };
    for good in [
        "10.0.0.2",
        "10.0.0.254",
        "fd00::2",
        "fd00::ffff:ffff:ffff:ffff",
    ] {
        assert_eq!(address("front", good), [], "{good}");
    }
    let wrong = |network| {
        [at(
            "network::address",
            &format!("pods.web.networks.{network}.addresses.0"),
        )]
    };
    for bad in [
        "10.0.0.0",
        "10.0.0.1",
        "10.0.0.255",
        "10.0.1.2",
        "fd00::",
        "fd00::1",
        "fd01::2",
        "127.0.0.1",
    ] {
        assert_eq!(address("front", bad), wrong("front"), "{bad}");
    }
    assert_eq!(address("back", "10.0.0.2"), wrong("back"));
    assert_eq!(address("default", "10.0.0.2"), wrong("default"));
    // What is wrong with the network is said once.
    assert_eq!(address("odd", "10.0.9.2"), []);
    let two = json!({ "web": { "networks": { "front": { "addresses": ["10.0.0.2", "fd00::2", "10.0.0.3"] } } } });
    let second = at("network::address", "pods.web.networks.front.addresses.2");
    assert_eq!(of(networks.clone(), two), {
        let subnet = at("network::subnet", "networks.odd.subnets.0");
        [subnet, second]
    });
    // One network has an address once, two networks can't have it both.
    let own = json!({ "networks": { "front": { "addresses": ["10.0.0.2"] } } });
    let networks = json!({ "front": { "subnets": ["10.0.0.0/24"] } });
    assert_eq!(
        of(networks, json!({ "a": own, "b": own })),
        [at(
            "network::address_taken",
            "pods.b.networks.front.addresses.0"
        )]
    );
}

#[test]
fn nothing_leads_into_internal_networks() {
    let networks =
        json!({ "back": { "internal": true }, "deep": { "internal": true }, "front": {} });
    let on = |names: &[&str]| {
        let names = names.iter().map(|name| ((*name).to_owned(), json!({})));
        let on = Value::Object(names.collect());
        let pods = json!({ "web": { "networks": on, "publish": { "http": { "port": 80 } } } });
        of(networks.clone(), pods)
    };
    let refused = [at("publish::internal", "pods.web.publish")];
    assert_eq!(on(&["back"]), refused);
    assert_eq!(on(&["back", "deep"]), refused);
    assert_eq!(on(&["back", "front"]), []);
    assert_eq!(on(&["back", "default"]), []);
    // Whether it is internal is not known here.
    assert_eq!(on(&["back", "shop:back"]), []);
}

#[test]
fn ports_are_published_at_addresses_of_a_family_that_the_pod_has() {
    let on = |subnets: &[&str], address: Value| {
        let networks = json!({ "a": { "internal": true }, "b": { "subnets": subnets }, "c": { "subnets": ["10.9.0.0/24"] } });
        let publish = json!({ "http": { "port": 80, "address": address } });
        let on = json!({ "a": {}, "b": {}, "c": {} });
        of(
            networks,
            json!({ "web": { "networks": on, "publish": publish } }),
        )
    };
    let refused = [at("publish::family", "pods.web.publish.http")];
    assert_eq!(on(&["fd00:9::/64"], json!("127.0.0.1")), refused);
    assert_eq!(
        on(&["fd00:9::/64"], json!(["0.0.0.0", "192.0.2.1"])),
        refused
    );
    assert_eq!(on(&["10.8.0.0/24"], json!("::")), refused);
    assert_eq!(on(&["fd00:9::/64"], json!("::")), []);
    // As whoever comes from Compose writes it, where `8080:80` is both.
    assert_eq!(on(&["10.8.0.0/24"], json!(["0.0.0.0", "::"])), []);
    assert_eq!(on(&["10.8.0.0/24", "fd00:9::/64"], json!("::")), []);
    assert_eq!(on(&[], json!("::")), []);
}

#[test]
fn there_are_bounds() {
    let many = |count: usize| {
        let names = (0..count).map(|index| (format!("n{index:03}"), json!({})));
        Value::Object(names.collect())
    };
    assert_eq!(of(many(256), json!({})), []);
    assert_eq!(
        of(many(257), json!({})),
        [at("network::many", "networks.n256")]
    );
    assert_eq!(of(many(16), json!({ "web": { "networks": many(16) } })), []);
    assert_eq!(
        of(many(17), json!({ "web": { "networks": many(17) } })),
        [at("network::many", "pods.web.networks")]
    );
    let pods = |count: usize| {
        let pod = json!({ "networks": { "n": {} } });
        let pods = (0..count).map(|index| (format!("p{index:04}"), pod.clone()));
        Value::Object(pods.collect())
    };
    let full =
        |subnets: Value, count: usize| of(json!({ "n": { "subnets": subnets } }), pods(count));
    let beyond = |pod: &str| [at("network::full", &format!("pods.{pod}.networks.n"))];
    assert_eq!(full(json!(["10.0.0.0/29"]), 5), []);
    assert_eq!(full(json!(["10.0.0.0/29"]), 9), beyond("p0005"));
    assert_eq!(full(json!(["fd00::/120"]), 254), []);
    assert_eq!(full(json!(["fd00::/120"]), 255), beyond("p0254"));
    assert_eq!(full(json!([]), 1_000), []);
    assert_eq!(full(json!([]), 1_001), beyond("p1000"));
    assert_eq!(
        full(json!(["10.0.0.0/8", "fd00::/64"]), 1_001),
        beyond("p1000")
    );
}

#[test]
fn names_on_a_network_are_names() {
    let aliases = |names: &[&str]| {
        let names = names.iter().map(|name| ((*name).to_owned(), json!({})));
        let aliases = Value::Object(names.collect());
        let pods = json!({ "web": { "networks": { "n": { "aliases": aliases } } } });
        of(json!({ "n": {} }), pods)
    };
    assert_eq!(aliases(&["database", "db.example.org"]), []);
    let below = |name: &str| format!("pods.web.networks.n.aliases.{name}");
    assert_eq!(aliases(&["a b"]), [at("alias::invalid", &below("a b"))]);
    assert_eq!(
        aliases(&["x.localhost"]),
        [at("alias::reserved", &below("x.localhost"))]
    );
    let many: Vec<String> = (0..65).map(|index| format!("a{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(aliases(&many[..64]), []);
    assert_eq!(aliases(&many), [at("alias::many", "pods.web.networks")]);
}

/// A pod's alias holds on each of its networks: on none of them it is the name of another pod there.
#[test]
fn an_alias_is_no_name_of_a_pod_on_a_network_of_both() {
    let of = |pods: Value| of(json!({ "n": {}, "m": {} }), pods);
    let taken = [at("alias::pod_name", "pods.web.aliases.q")];
    let alias = json!({ "q": {} });
    assert_eq!(of(json!({ "web": { "aliases": alias }, "q": {} })), taken);
    let there = json!({ "web": { "aliases": alias, "networks": { "n": {}, "m": {} } }, "q": { "networks": { "m": {} } } });
    assert_eq!(of(there), taken);
    for apart in [
        json!({ "web": { "aliases": alias, "networks": { "n": {} } }, "q": {} }),
        json!({ "web": { "aliases": alias, "networks": { "n": {} } }, "q": { "networks": { "m": {} } } }),
        json!({ "web": { "aliases": alias }, "q": { "network": "host" } }),
        json!({ "web": { "aliases": { "web": {} } } }),
    ] {
        assert_eq!(of(apart.clone()), [], "{apart}");
    }
}
