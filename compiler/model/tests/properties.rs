//! What hashes promise: the same configuration is the same hash however it came about, another one
//! is another.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tank_model::{
    Config, Digest, Graph, Key, Name, Scope, canonical, spec::Container, stack::settle,
};

/// A configuration that says something in every field there is.
fn full() -> Value {
    let probe = |port: u16| json!({ "http": { "port": port, "path": "/p1" }, "period": 2001, "timeout": 3001, "failures": 5, "delay": 4001 });
    let probe = |port| {
        let mut probe = probe(port);
        for time in ["period", "timeout", "delay"] {
            let millis = probe[time].as_u64().expect("a number");
            probe[time] = format!("{millis}ms").into();
        }
        probe
    };
    let container = json!({
        "image": "nginx:1", "pull": "missing", "platform": "linux/a1", "command": ["/a1", "b1"], "args": ["c1"], "env": { "A1": "x1", "B1": "y1" },
        "working_dir": "/w1", "user": "u1", "tty": true,
        "mounts": { "m1": { "volume": "v1", "path": "/m1", "read_only": true, "sub_path": "s1" } },
        "files": { "/f1": { "text": "t1", "mode": "0601" }, "/f2": { "text": "t2", "reload": "SIG2" } },
        "secrets": { "s1": { "file": "/s1", "path": "/p1", "mode": "0401" } },
        "limits": { "memory": 4194305, "pids": 11, "cpu": "501m" },
        "ports": { "http1": 81 },
        "logs": { "max_size": 1048577, "max_files": 3, "rate": 1048578, "journald": true },
        "ulimits": { "nofile": { "soft": 1, "hard": 2 }, "core": { "soft": 0, "hard": "unlimited" } },
        "capabilities": { "add": ["CAP_1"], "drop": ["CAP_2"] },
        "seccomp": { "profile": "unconfined", "allow": ["c1"], "deny": ["d1"] },
        "devices": { "d1": { "path": "/dev/1", "to": "/dev/2", "read_only": true } },
        "read_only": true,
        "readiness": probe(1), "liveness": probe(2), "startup": { "exec": ["e1"], "failures": 7 },
        "stop": { "signal": "SIG1", "timeout": "1001ms" },
    });
    let mut init = container.clone();
    for field in ["readiness", "liveness", "startup"] {
        init[field] = json!({ "tcp": { "port": 9 } });
    }
    let networks = json!({ "n1": { "internal": true, "subnets": ["10.1.0.0/24"] } });
    json!({ "networks": networks, "pods": { "web1": {
        "containers": { "app1": container },
        "init": { "i1": init },
        "network": { "nics": { "eth1": {
            "mode": "macvlan", "parent": "eth1", "address": "10.0.0.1/24", "pool": "10.0.0.0/25", "gateway": "10.0.0.3",
            "addresses": { "a1": "10.0.1.1/24" }, "routes": { "r1": { "to": "10.1.0.0/24", "via": "10.0.0.4" } },
            "mtu": 1401 } } },
        "networks": { "n1": { "addresses": ["10.1.0.5"], "aliases": { "a1": {} } }, "default": {} },
        "volumes": { "v1": { "host": "/h1" }, "v2": { "tmpfs": 1001 },
            "v3": { "owner": "1:2", "mode": "0701", "no_copy": true, "snapshots": "never",
                "backup": { "to": "/srv/1", "every": 120000, "keep": 3, "before": { "exec": ["sync1"], "container": "app1", "timeout": 1000 },
                    "after": { "exec": ["sync1"], "container": "app1", "timeout": 2000 } } } },
        "publish": { "p1": { "port": 1, "to": 2, "address": "10.0.0.1", "protocol": "udp" } },
        "allow_from": ["a1"], "egress": ["e1"],
        "restart": "never", "depends_on": { "db1": "ready" }, "update": "start_first", "hostname": "h1",
        "labels": { "l1": "x1" }, "sysctls": { "net.1": "1" },
    } } })
}

fn root(value: &Value) -> Digest {
    let config: Config =
        serde_json::from_value(value.clone()).unwrap_or_else(|e| panic!("{e}: {value}"));
    Graph::build(&config, |_| None).expect("builds").root()
}

/// The paths of every leaf, arrays' elements included.
fn leaves(value: &Value, at: String, out: &mut Vec<String>) {
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, field)| {
            leaves(
                field,
                format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")),
                out,
            );
        }),
        Value::Array(items) => items
            .iter()
            .enumerate()
            .for_each(|(i, item)| leaves(item, format!("{at}/{i}"), out)),
        _ => out.push(at),
    }
}

/// Another value that the same field takes.
fn other(value: &Value) -> Value {
    match value {
        Value::Bool(bool) => (!bool).into(),
        Value::Number(number) => (number.as_u64().expect("whole") + 1).into(),
        Value::String(text) => match text.as_str() {
            "never" => "always".into(),
            "ready" => "started".into(),
            "start_first" => "recreate".into(),
            "missing" => "never".into(),
            "macvlan" => "bridge".into(),
            "udp" => "tcp".into(),
            "unconfined" => "default".into(),
            "unlimited" => 7.into(),
            text => text
                .replacen('1', "4", 1)
                .replacen('2', "3", usize::from(!text.contains('1')))
                .into(),
        },
        other => panic!("no other value for {other}"),
    }
}

#[test]
fn any_change_of_a_value_changes_the_root() {
    let full = full();
    let before = root(&full);
    let mut paths = Vec::new();
    leaves(&full, String::new(), &mut paths);
    assert!(paths.len() > 100, "{}", paths.len());
    for path in paths {
        let mut changed = full.clone();
        let leaf = changed.pointer_mut(&path).expect("a leaf");
        *leaf = match path.ends_with("/snapshots") {
            true => "on_new_image".into(),
            false => other(leaf),
        };
        assert_ne!(changed, full, "{path} was not changed");
        assert_ne!(root(&changed), before, "{path} is in no hash");
        // And a field that is left out is another configuration as well, where it can be.
        let (parent, name) = path.rsplit_once('/').expect("a path");
        let mut without = full.clone();
        if let Some(Value::Object(fields)) = without.pointer_mut(parent) {
            fields.remove(&name.replace("~1", "/"));
            if let Ok(config) = serde_json::from_value::<Config>(without) {
                assert_ne!(
                    Graph::build(&config, |_| None).expect("builds").root(),
                    before,
                    "{path} can be left out unseen"
                );
            }
        }
    }
}

#[test]
fn a_graph_holds_the_whole_configuration() {
    let mut config: Config = serde_json::from_value(full()).expect("a configuration");
    let shared = serde_json::from_value(serde_json::json!({})).expect("a volume");
    let name = tank_model::Name::new("kept").expect("a name");
    config.volumes.insert(name, shared);
    let graph = Graph::build(&config, |_| None).expect("builds");
    assert_eq!(graph.config(), config);
    let stored: std::collections::BTreeMap<_, _> =
        graph.stored().expect("encodes").into_iter().collect();
    let loaded = Graph::load::<Box<tank_model::graph::LoadError>>(graph.root(), |hash| {
        Ok(stored.get(hash).cloned())
    });
    assert_eq!(loaded.expect("loads").config(), config);
    let mut pods = std::collections::BTreeMap::new();
    let mut reads = 0;
    for _ in 0..2 {
        let read = |hash: &tank_model::Digest| {
            reads += 1;
            Ok::<_, Box<tank_model::graph::LoadError>>(stored.get(hash).cloned())
        };
        Graph::load_pods(graph.root(), &mut pods, read).expect("loads");
        assert_eq!(pods.values().collect::<Vec<_>>().len(), config.pods.len());
        assert_eq!(
            pods.values().collect::<std::collections::BTreeSet<_>>(),
            config.pods.keys().collect()
        );
    }
    // Its pods once; its root, its networks and its volumes twice.
    let others = 1 + config.networks.len() + config.volumes.len();
    assert_eq!(reads, config.pods.len() + 2 * others);
}

#[test]
fn what_a_graph_has_beside_another_completes_it() {
    let config: Config = serde_json::from_value(full()).expect("a configuration");
    let before = Graph::build(&config, |_| None).expect("builds");
    let mut changed = config.clone();
    let first = changed.pods.values_mut().next().expect("a pod");
    first.labels.insert("changed".to_owned(), "yes".to_owned());
    let after = Graph::build(&changed, |_| None).expect("builds");
    let beside = after.stored_beside(&before).expect("encodes");
    // The pod and what needs it: the root.
    assert_eq!(beside.len(), 2);
    assert_eq!(after.stored_beside(&after).expect("encodes"), []);
    let mut stored: std::collections::BTreeMap<_, _> =
        before.stored().expect("encodes").into_iter().collect();
    stored.extend(beside);
    let loaded = Graph::load::<Box<tank_model::graph::LoadError>>(after.root(), |hash| {
        Ok(stored.get(hash).cloned())
    });
    assert_eq!(loaded.expect("loads").config(), changed);
}

/// Any JSON without floating-point numbers.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
            prop::collection::btree_map(any::<String>(), inner, 0..8)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// The paths of every field, with the names that users choose among them.
fn fields(value: &Value, at: &[String], out: &mut Vec<Vec<String>>) {
    for (name, inner) in value.as_object().into_iter().flatten() {
        let path = [at, std::slice::from_ref(name)].concat();
        fields(inner, &path, out);
        out.push(path);
    }
}

/// The same with the field at `path` under another name.
fn renamed(value: &Value, path: &[String], to: &str) -> Value {
    let mut out = value.clone();
    let (last, parents) = path.split_last().expect("a path");
    let parent = parents
        .iter()
        .fold(&mut out, |value, part| &mut value[part]);
    let fields = parent.as_object_mut().expect("a record");
    let inner = fields.remove(last).expect("a field");
    fields.insert(to.to_owned(), inner);
    out
}

#[test]
fn nothing_but_a_pod_has_a_stack() {
    let full = full();
    let mut paths = Vec::new();
    fields(&full, &[], &mut paths);
    let mut taken = std::collections::BTreeSet::new();
    for path in paths {
        let name = path.last().expect("a name");
        if serde_json::from_value::<Config>(renamed(&full, &path, &format!("a:{name}"))).is_ok() {
            taken.insert(path[..path.len() - 1].last().cloned().unwrap_or_default());
        }
    }
    // Pods, networks, the pods that one depends on, and maps whose keys are texts or paths.
    let expected = [
        "aliases",
        "depends_on",
        "env",
        "files",
        "labels",
        "networks",
        "pods",
        "sysctls",
        "ulimits",
    ];
    assert_eq!(taken, expected.map(str::to_owned).into());
    let mut full = full;
    let stacks = ["blog/x", "..", "a:b", "", "Blog", "-"];
    for bad in stacks {
        full["stack"] = bad.into();
        assert!(
            serde_json::from_value::<Config>(full.clone()).is_err(),
            "{bad}"
        );
    }
    full["stack"] = Value::Null;
    assert!(serde_json::from_value::<Config>(full.clone()).is_err());
    full["stack"] = "blog".into();
    let config: Config = serde_json::from_value(full.clone()).expect("a configuration");
    let again = serde_json::to_value(&config).expect("encodes");
    assert_eq!(again["stack"], "blog");
}

#[test]
fn a_pod_of_a_stack_is_another_pod_with_the_same_host_name() {
    let full = full();
    let alone: Config = serde_json::from_value(full.clone()).expect("a configuration");
    let pods = json!({ "blog:web1": full["pods"]["web1"], "shop:web1": full["pods"]["web1"], "web1": full["pods"]["web1"] });
    let mut host: Config =
        serde_json::from_value(json!({ "pods": pods })).expect("a configuration");
    for pod in host.pods.values_mut() {
        pod.hostname = None;
    }
    let graph = Graph::build(&host, |_| None).expect("builds");
    assert_eq!(graph.config(), host);
    let names: Vec<&str> = graph.pods().map(Name::as_str).collect();
    assert_eq!(names, ["blog:web1", "shop:web1", "web1"]);
    let hostname = |pod: &Name| graph.sandbox(pod).expect("a sandbox").0.hostname.clone();
    assert!(graph.pods().all(|pod| hostname(pod) == "web1"));
    assert_eq!(graph.part(&Scope::Host).len(), 3);
    let hashes: std::collections::BTreeSet<_> = graph.part(&Scope::Host).into_values().collect();
    assert_eq!(hashes.len(), 3, "two pods have one hash");
    // One that is given stays.
    let given = Graph::build(&alone, |_| None).expect("builds");
    assert_eq!(given.config(), alone);
    let stored: BTreeMap<_, _> = graph.stored().expect("encodes").into_iter().collect();
    let loaded = Graph::load::<Box<tank_model::graph::LoadError>>(graph.root(), |hash| {
        Ok(stored.get(hash).cloned())
    });
    assert_eq!(loaded.expect("loads").config(), host);
}

/// A pod of one container.
fn pod(container: &Value, label: u8) -> tank_model::spec::Pod {
    serde_json::from_value(json!({
        "containers": { "app": container }, "labels": { "l": label.to_string() },
    }))
    .expect("a pod")
}

/// Of the third it is the first image for another platform.
fn container(image: u8) -> Value {
    match image {
        2 => json!({ "image": "i0", "platform": "linux/arm64" }),
        image => json!({ "image": format!("i{image}") }),
    }
}

/// Some pods of a stack: by index, the image's index and a label.
fn any_part() -> impl Strategy<Value = BTreeMap<u8, (u8, u8)>> {
    prop::collection::btree_map(0u8..3, (0u8..3, 0u8..2), 0..4)
}

const STACKS: [Option<&str>; 3] = [None, Some("blog"), Some("shop")];

fn scope_of(stack: usize) -> (Option<Name>, Scope) {
    let name = STACKS[stack].map(|stack| Name::new(stack).expect("a name"));
    (name.clone(), Scope::Stack(name))
}

fn config_of(stack: usize, part: &BTreeMap<u8, (u8, u8)>) -> Config {
    let (stack, _) = scope_of(stack);
    let one = |(index, (image, label)): (&u8, &(u8, u8))| {
        let name = Name::new(format!("p{index}")).expect("a name");
        let name = name.in_stack(stack.as_ref()).expect("a name");
        (name, pod(&container(*image), *label))
    };
    Config {
        pods: part.iter().map(one).collect(),
        networks: BTreeMap::new(),
        volumes: BTreeMap::new(),
        stack: None,
    }
}

/// What each container runs: its pod and the digest of its image.
fn runs(graph: &Graph, wanted: impl Fn(&Name) -> bool) -> BTreeMap<Name, Option<Digest>> {
    let pods = graph.pods().filter(|pod| wanted(pod));
    pods.flat_map(|pod| {
        graph
            .containers(pod)
            .map(move |(_, node, _)| (pod.clone(), graph.image(&node.image)))
    })
    .collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is switched to, and whatever tags stand for at the time: a stack has what was asked
    /// for, the others have the hashes and digests that they had, and the same again changes nothing.
    #[test]
    fn a_switch_of_a_stack_touches_that_stack_only(
        switches in prop::collection::vec((0usize..3, any_part(), 0u8..3), 1..12)
    ) {
        let mut host = Graph::build(&Config::default(), |_| None).expect("builds");
        for (stack, part, time) in switches {
            let (_, scope) = scope_of(stack);
            let found = |_: &Name, container: &Container| {
                let image = &container.image;
                // Half of the tags move.
                let moves = image.as_str() == "i0";
                let text = format!("{}@{}{:?}", image.as_str(), if moves { time } else { 0 }, container.platform);
                Some(Digest::of(text.as_bytes()))
            };
            let part = config_of(stack, &part);
            let switch = |before: &Graph| {
                settle(before.config().with(&part, &scope), before, &scope, found).expect("settles")
            };
            let after = switch(&host);
            let others = |pod: &Name| !scope.has(pod);
            prop_assert_eq!(
                host.part(&Scope::Host).into_iter().filter(|(key, _)| key.pod().is_some_and(others)).collect::<Vec<_>>(),
                after.part(&Scope::Host).into_iter().filter(|(key, _)| key.pod().is_some_and(others)).collect::<Vec<_>>()
            );
            prop_assert_eq!(runs(&host, others), runs(&after, others));
            let own = after.part(&scope);
            let own: Vec<&Name> = own.keys().filter_map(Key::pod).collect();
            prop_assert_eq!(own, part.pods.keys().collect::<Vec<_>>());
            for (name, spec) in &part.pods {
                let container = spec.containers.values().next().expect("a container");
                prop_assert_eq!(&runs(&after, |pod| pod == name)[name], &found(name, container));
            }
            prop_assert_eq!(switch(&after).root(), after.root());
            // One stack of an earlier host, in today's: the digests that it had.
            let (known, all) = (host.images(), host.config());
            let back = settle(after.config().with(&all, &scope), &after, &scope, |_, container| known.get(&container.image).copied());
            let back = back.expect("settles");
            prop_assert_eq!(runs(&back, |_| true), runs(&host, |_| true));
            host = after;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn canonical_bytes_round_trip(value in any_json()) {
        let bytes = canonical::encode(&value).expect("encodes");
        prop_assert_eq!(&canonical::decode::<Value>(&bytes).expect("decodes"), &value);
        // Whatever else is made of them is refused, or is no second spelling of the same value.
        let spaced = serde_json::to_vec_pretty(&value).expect("encodes");
        if spaced != bytes {
            prop_assert!(canonical::decode::<Value>(&spaced).is_err());
        }
    }

    #[test]
    fn the_decoder_takes_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        if let Ok(value) = canonical::decode::<Config>(&bytes) {
            prop_assert_eq!(canonical::encode(&value).expect("encodes"), bytes);
        }
    }

    /// Bytes of a real configuration with a few of them changed: refused, or canonical themselves.
    #[test]
    fn the_decoder_takes_damaged_bytes(damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        let config: Config = serde_json::from_value(full()).expect("a configuration");
        let mut bytes = canonical::encode(&config).expect("encodes");
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Ok(value) = canonical::decode::<Config>(&bytes) {
            prop_assert_eq!(canonical::encode(&value).expect("encodes"), bytes);
        }
    }
}

/// By which names a pod is found, and whom it asks, is nothing its processes are made of.
#[test]
fn names_come_back_and_disturb_no_container() {
    let config = |more: serde_json::Value| -> Config {
        let mut web = serde_json::json!({ "containers": { "app": { "image": "web" } } });
        for (field, value) in more.as_object().into_iter().flatten() {
            web[field] = value.clone();
        }
        let pods = serde_json::json!({ "pods": { "web": web } });
        serde_json::from_value(pods).expect("a configuration")
    };
    let build = |config: &Config| Graph::build(config, |_| None).expect("a graph");
    let plain = config(serde_json::json!({}));
    let named = config(serde_json::json!({
        "aliases": { "site": {}, "www.example.org": {} },
        "dns": { "servers": { "a": "192.0.2.1" }, "search": { "a": "example.org" }, "options": { "ndots": "2" } },
        "extra_hosts": { "build": "10.0.0.7", "host": "host-gateway" },
    }));
    let (before, after) = (build(&plain), build(&named));
    assert_eq!(after.config(), named);
    let web = tank_model::Name::new("web").expect("a name");
    let app = tank_model::Name::new("app").expect("a name");
    assert_eq!(
        before.container(&web, &app).map(|(_, hash)| hash),
        after.container(&web, &app).map(|(_, hash)| hash)
    );
    assert_eq!(before.sandbox(&web), after.sandbox(&web));
    assert_ne!(before.root(), after.root());
}
