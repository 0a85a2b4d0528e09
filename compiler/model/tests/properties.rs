//! What hashes promise: the same configuration is the same hash however it came about, another one
//! is another.

use proptest::prelude::*;
use serde_json::{Value, json};
use tank_model::{Config, Digest, Graph, canonical};

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
        "image": "nginx:1", "command": ["/a1", "b1"], "args": ["c1"], "env": { "A1": "x1", "B1": "y1" },
        "working_dir": "/w1", "user": "u1", "tty": true,
        "mounts": { "m1": { "volume": "v1", "path": "/m1", "read_only": true } },
        "files": { "/f1": { "text": "t1", "mode": "0601" }, "/f2": { "text": "t2", "reload": "SIG2" } },
        "secrets": { "s1": { "file": "/s1", "path": "/p1", "mode": "0401" } },
        "limits": { "memory": 4194305, "pids": 11, "cpu": "501m" },
        "ports": { "http1": 81 },
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
    json!({ "pods": { "web1": {
        "containers": { "app1": container },
        "init": { "i1": init },
        "network": { "nics": { "eth1": {
            "mode": "macvlan", "parent": "eth1", "address": "10.0.0.1/24", "pool": "10.0.0.0/25", "gateway": "10.0.0.3" } } },
        "volumes": { "v1": { "host": "/h1" }, "v2": { "tmpfs": 1001 } },
        "publish": { "p1": { "port": 1, "to": 2, "address": "10.0.0.1", "protocol": "udp" } },
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
        *leaf = other(leaf);
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
    let config: Config = serde_json::from_value(full()).expect("a configuration");
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
    // Its pods once, its root twice.
    assert_eq!(reads, config.pods.len() + 2);
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
