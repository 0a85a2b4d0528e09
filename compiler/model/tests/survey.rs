//! What many stored graphs need, together: as much as each of them by itself, and nothing else.

use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{
    Config, Digest, Graph, Key, Name,
    graph::{LoadError, Survey},
};

/// A host with some pods, each on a network or not, of images that several share.
fn host(pods: &BTreeMap<u8, (u8, bool)>) -> Graph {
    let pod = |(number, (image, on)): (&u8, &(u8, bool))| {
        let image = json!({ "image": format!("registry.example/i{image}"), "limits": { "pids": 10 + number } });
        let mut spec =
            json!({ "containers": { "app": image.clone() }, "init": { "first": image } });
        if *on {
            spec["networks"] = json!({ "back": {} });
        }
        (format!("p{number}"), spec)
    };
    let pods: serde_json::Map<_, _> = pods.iter().map(pod).collect();
    let config = json!({ "networks": { "back": {} }, "pods": pods });
    let config: Config = serde_json::from_value(config).expect("a configuration");
    let digest = |reference: &_| Some(Digest::of(format!("{reference}").as_bytes()));
    Graph::build(&config, digest).expect("a graph")
}

/// What a store says.
#[derive(Debug)]
struct Refused(Box<LoadError>);

impl From<LoadError> for Refused {
    fn from(error: LoadError) -> Self {
        Self(Box::new(error))
    }
}

type Blobs = BTreeMap<Digest, Vec<u8>>;

fn read(blobs: &Blobs) -> impl FnMut(&Digest) -> Result<Option<Vec<u8>>, Refused> {
    |hash| Ok(blobs.get(hash).cloned())
}

proptest! {
    #[test]
    fn a_survey_is_the_union_of_what_each_graph_says(
        hosts in prop::collection::vec(prop::collection::btree_map(0u8..6, (0u8..4, any::<bool>()), 0..6), 1..6),
    ) {
        let graphs: Vec<Graph> = hosts.iter().map(host).collect();
        let blobs: Blobs = graphs.iter().flat_map(|graph| graph.stored().expect("encodes")).collect();
        let mut survey = Survey::default();
        for graph in &graphs {
            let named = survey.add(graph.root(), read(&blobs)).expect("reads");
            let images: BTreeSet<Digest> = graph.images().into_values().collect();
            prop_assert_eq!(named.images.keys().copied().collect::<BTreeSet<_>>(), images);
            for (image, pods) in &named.images {
                let users: BTreeSet<&Name> = graph
                    .pods()
                    .filter(|pod| {
                        let mut all = graph.containers(pod);
                        all.any(|(_, node, _)| graph.image(&node.image) == Some(*image))
                    })
                    .collect();
                prop_assert_eq!(pods.iter().collect::<BTreeSet<_>>(), users);
            }
        }
        let nodes: BTreeSet<Digest> = graphs.iter().flat_map(Graph::entries).map(|entry| entry.hash).collect();
        prop_assert_eq!(&survey.nodes, &nodes);
        let pods: BTreeSet<Name> = graphs.iter().flat_map(Graph::pods).cloned().collect();
        prop_assert_eq!(&survey.pods, &pods);
        for graph in &graphs {
            for entry in graph.entries() {
                let image = match &entry.key {
                    Key::Container(pod, name) | Key::Init(pod, name) => {
                        let (node, _) = graph.process(pod, name).expect("a process");
                        graph.image(&node.image)
                    }
                    _ => None,
                };
                prop_assert_eq!(survey.containers.get(&entry.hash).copied(), image);
            }
        }
    }
}

#[test]
fn what_is_missing_or_changed_is_named() {
    let graph = host(&BTreeMap::from([(1, (1, true)), (2, (2, false))]));
    let blobs: Blobs = graph.stored().expect("encodes").into_iter().collect();
    for hash in blobs.keys() {
        let mut lacking = blobs.clone();
        lacking.remove(hash);
        let missing = Survey::default().add(graph.root(), read(&lacking));
        assert!(
            matches!(&missing, Err(Refused(error)) if matches!(**error, LoadError::Missing(found) if found == *hash))
        );
        // Another node's bytes in its place.
        let other = blobs.iter().find(|(other, _)| *other != hash).expect("one");
        let mut changed = blobs.clone();
        changed.insert(*hash, other.1.clone());
        let corrupt = Survey::default().add(graph.root(), read(&changed));
        assert!(
            matches!(&corrupt, Err(Refused(error)) if matches!(**error, LoadError::Corrupt(found) if found == *hash))
        );
    }
}
