//! Networks of some pods only: what their hashes promise, and whose they are.

use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{
    Config, Graph, Key, Name, Scope, canonical,
    graph::LoadError,
    provenance::{Line, Origin, Provenance},
    spec::{Membership, NamedNetwork},
};

fn build(config: &Config) -> Graph {
    Graph::build(config, |_| None).expect("builds")
}

/// Networks changed no hash of what was there before them.
#[test]
fn without_networks_hashes_are_what_they_were() {
    let empty = "sha256:3d93aa3d0c6e906e05ea4810fb54dc12304bb8a5ff4311d69ff01d9419e007e5";
    assert_eq!(build(&Config::default()).root().to_string(), empty);
    let web = "../../tests/tests/snapshots/compile__canonical_of_examples_web.snap";
    let web = std::fs::read_to_string(web).expect("the canonical bytes of an example");
    let web = web.trim().lines().last().expect("a line");
    let config: Config = canonical::decode(web.as_bytes()).expect("decodes");
    assert_eq!(canonical::encode(&config).expect("encodes"), web.as_bytes());
    let root = "sha256:cd77ec222a7ab2e31e16f0d300bbf89ad5ee3096490190fcbb2f9c1cdbd9fd0b";
    assert_eq!(build(&config).root().to_string(), root);
}

const STACKS: [Option<&str>; 3] = [None, Some("blog"), Some("shop")];

fn name(stack: usize, own: &str) -> Name {
    let stack = STACKS[stack].map(|stack| Name::new(stack).expect("a name"));
    let own = Name::new(own).expect("a name");
    own.in_stack(stack.as_ref()).expect("a name")
}

fn scope_of(stack: usize) -> Scope {
    Scope::Stack(STACKS[stack].map(|stack| Name::new(stack).expect("a name")))
}

fn network(kind: u8) -> NamedNetwork {
    serde_json::from_value(match kind {
        0 => json!({}),
        1 => json!({ "internal": true }),
        _ => json!({ "subnets": ["10.91.7.0/24", "fd00:7::/64"] }),
    })
    .expect("a network")
}

fn membership(kind: u8) -> Membership {
    serde_json::from_value(match kind {
        0 => json!({}),
        1 => json!({ "aliases": { "database": {} } }),
        _ => json!({ "addresses": ["10.91.7.10"] }),
    })
    .expect("a membership")
}

/// The networks of a source, by index, and its pods, each on some of them.
type Part = (BTreeMap<u8, u8>, BTreeMap<u8, BTreeMap<u8, u8>>);

fn any_part() -> impl Strategy<Value = Part> {
    let on = prop::collection::btree_map(0u8..4, 0u8..3, 0..4);
    (
        prop::collection::btree_map(0u8..3, 0u8..3, 0..4),
        prop::collection::btree_map(0u8..3, on, 0..4),
    )
}

fn config_of(stack: usize, (networks, pods): &Part) -> Config {
    let pod = |on: &BTreeMap<u8, u8>| {
        let pod = json!({ "containers": { "app": { "image": "x" } } });
        let mut pod: tank_model::spec::Pod = serde_json::from_value(pod).expect("a pod");
        let named = |index: &u8| match index {
            3 => Name::new("default").expect("a name"),
            index => name(stack, &format!("n{index}")),
        };
        pod.networks = on
            .iter()
            .map(|(index, kind)| (named(index), membership(*kind)))
            .collect();
        pod
    };
    let pods = pods.iter();
    let networks = networks.iter();
    Config {
        pods: pods
            .map(|(index, on)| (name(stack, &format!("p{index}")), pod(on)))
            .collect(),
        networks: networks
            .map(|(index, kind)| (name(stack, &format!("n{index}")), network(*kind)))
            .collect(),
        volumes: BTreeMap::new(),
        stack: None,
    }
}

fn of_others(config: &Config, scope: &Scope) -> BTreeMap<Name, NamedNetwork> {
    let others = config.networks.iter().filter(|(name, _)| !scope.has(name));
    others.map(|(n, spec)| (n.clone(), spec.clone())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A host comes back from its canonical bytes, from its graph and from the store.
    #[test]
    fn networks_come_back(parts in prop::collection::vec((0usize..3, any_part()), 1..6)) {
        let host = parts.iter().fold(Config::default(), |host, (stack, part)| {
            host.with(&config_of(*stack, part), &scope_of(*stack))
        });
        let bytes = canonical::encode(&host).expect("encodes");
        prop_assert_eq!(&canonical::decode::<Config>(&bytes).expect("decodes"), &host);
        let graph = build(&host);
        prop_assert_eq!(&graph.config(), &host);
        let networks: BTreeMap<Name, NamedNetwork> =
            graph.networks().map(|(name, network)| (name.clone(), network.clone())).collect();
        prop_assert_eq!(&networks, &host.networks);
        let stored: BTreeMap<_, _> = graph.stored().expect("encodes").into_iter().collect();
        let read = |hash: &tank_model::Digest| Ok::<_, Box<LoadError>>(stored.get(hash).cloned());
        let loaded = Graph::load(graph.root(), read).expect("loads");
        prop_assert_eq!(loaded.config(), host.clone());
        let mut pods = BTreeMap::new();
        Graph::load_pods(graph.root(), &mut pods, read).expect("loads");
        let pods: BTreeSet<Name> = pods.into_values().collect();
        prop_assert_eq!(pods, host.pods.keys().cloned().collect::<BTreeSet<_>>());
    }

    /// A switch of a stack replaces its networks and no others; an apply those that it names.
    #[test]
    fn a_change_means_its_own_networks(
        parts in prop::collection::vec((0usize..3, any_part()), 1..6), stack in 0usize..3, part in any_part()
    ) {
        let host = parts.iter().fold(Config::default(), |host, (stack, part)| {
            host.with(&config_of(*stack, part), &scope_of(*stack))
        });
        let part = config_of(stack, &part);
        let scope = scope_of(stack);
        let after = host.with(&part, &scope);
        prop_assert_eq!(of_others(&after, &scope), of_others(&host, &scope));
        let own = after.networks.iter().filter(|(name, _)| scope.has(name));
        prop_assert_eq!(own.map(|(n, s)| (n.clone(), s.clone())).collect::<BTreeMap<_, _>>(), part.networks.clone());
        prop_assert_eq!(after.with(&part, &scope), after.clone());

        let applied = host.with(&part, &Scope::Pods(part.pods.keys().cloned().collect()));
        let mut expected = host.networks.clone();
        expected.extend(part.networks.clone());
        prop_assert_eq!(&applied.networks, &expected);
        // What deletes a pod leaves the networks.
        let gone = host.with(&Config::default(), &Scope::Pods(host.pods.keys().cloned().collect()));
        prop_assert_eq!((&gone.networks, gone.pods.len()), (&host.networks, 0));
        prop_assert_eq!(host.with(&part, &Scope::Host), part);
    }

    /// Another declaration of a network is another sandbox of each pod on it, and of no other.
    #[test]
    fn a_network_that_changes_changes_its_pods(part in any_part(), which in 0u8..3, kind in 0u8..3) {
        let before = config_of(1, &part);
        let changed = name(1, &format!("n{which}"));
        let mut after = before.clone();
        let Some(network_now) = after.networks.get_mut(&changed) else { return Ok(()) };
        prop_assume!(*network_now != network(kind));
        *network_now = network(kind);
        let (old, new) = (build(&before), build(&after));
        prop_assert_ne!(old.root(), new.root());
        for (pod, spec) in &before.pods {
            let hash = |graph: &Graph| graph.sandbox(pod).expect("a sandbox").1;
            prop_assert_eq!(hash(&old) != hash(&new), spec.networks.contains_key(&changed));
        }
        let changes = tank_model::diff::diff(&old, &new);
        let keys: Vec<Key> = changes.into_iter().map(|change| change.key).collect();
        prop_assert_eq!(keys, [Key::Network(changed)]);
    }
}

/// The default network is no node, and a pod that says it is on it is another one than one that says
/// nothing.
#[test]
fn the_default_network_is_declared_by_nobody() {
    let host = |on: Value| -> Config {
        let web = json!({ "containers": { "app": { "image": "x" } }, "networks": on });
        serde_json::from_value(json!({ "pods": { "web": web } })).expect("a configuration")
    };
    let (nothing, default) = (
        build(&host(json!({}))),
        build(&host(json!({ "default": {} }))),
    );
    assert_eq!(default.networks().count(), 0);
    let web = Name::new("web").expect("a name");
    assert_eq!(default.needs(&Key::Sandbox(web)), Vec::<&_>::new());
    assert_ne!(nothing.root(), default.root());
}

/// What a pod is on says nothing more where it is `{}`, and differs all the same.
#[test]
fn a_difference_of_networks_is_said() {
    let host = |on: Value| -> Graph {
        let web = json!({ "containers": { "app": { "image": "x" } }, "networks": on });
        let host = json!({ "networks": { "back": {}, "front": {} }, "pods": { "web": web } });
        build(&serde_json::from_value(host).expect("a configuration"))
    };
    let fields = |before: Value, after: Value| -> Vec<String> {
        let changes = tank_model::diff::diff(&host(before), &host(after));
        let [change] = changes.as_slice() else {
            panic!("{changes:?}");
        };
        assert_eq!(change.key.to_string(), "sandbox web");
        let tank_model::diff::What::Modified { fields } = &change.what else {
            panic!("{change:?}");
        };
        fields.iter().map(|change| change.field.clone()).collect()
    };
    let of = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    for (before, after, expected) in [
        ("{}", r#"{"back":{}}"#, vec!["networks.back"]),
        (
            r#"{"back":{}}"#,
            r#"{"front":{}}"#,
            vec!["networks.back", "networks.front"],
        ),
        (
            r#"{"back":{}}"#,
            r#"{"back":{"aliases":{"db":{}}}}"#,
            vec!["networks.back.aliases.db"],
        ),
        (
            r#"{"back":{"addresses":["10.0.0.2"]}}"#,
            r#"{"back":{}}"#,
            vec!["networks.back.addresses"],
        ),
    ] {
        assert_eq!(fields(of(before), of(after)), expected, "{before} {after}");
    }
}

#[test]
fn lines_of_networks_are_kept_as_networks_are() {
    let lines = |file: &str, fields: &[&str]| Provenance {
        files: vec![file.to_owned()],
        fields: fields
            .iter()
            .map(|field| {
                let line = Line { file: 0, line: 1 };
                let origin = Origin {
                    line,
                    via: None,
                    overrode: Vec::new(),
                    also: Vec::new(),
                };
                ((*field).to_owned(), origin)
            })
            .collect(),
        ..Provenance::default()
    };
    let old = || {
        lines(
            "old",
            &[
                "networks.back.internal",
                "networks.\"blog:back\".internal",
                "networks.x.internal",
                "pods.web.restart",
            ],
        )
    };
    let newer = || {
        lines(
            "new",
            &["networks.back.internal", "networks.\"blog:back\".subnets"],
        )
    };
    let known = |scope: &Scope| -> Vec<String> {
        let both = old().with(newer(), scope);
        let line =
            |(field, origin): (&String, &Origin)| format!("{} {field}", both.words(origin.line));
        both.fields.iter().map(line).collect()
    };
    assert_eq!(
        known(&scope_of(1)),
        [
            "new:1 networks.\"blog:back\".subnets",
            "old:1 networks.back.internal",
            "old:1 networks.x.internal",
            "old:1 pods.web.restart"
        ]
    );
    assert_eq!(
        known(&scope_of(0)),
        [
            "old:1 networks.\"blog:back\".internal",
            "new:1 networks.back.internal"
        ]
    );
    assert_eq!(
        known(&Scope::Pods(BTreeSet::new())),
        [
            "new:1 networks.\"blog:back\".subnets",
            "new:1 networks.back.internal",
            "old:1 networks.x.internal",
            "old:1 pods.web.restart"
        ]
    );
    assert_eq!(
        known(&Scope::Host),
        [
            "new:1 networks.\"blog:back\".subnets",
            "new:1 networks.back.internal"
        ]
    );
}
