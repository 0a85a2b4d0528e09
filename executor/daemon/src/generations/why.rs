//! Why a value is what it is.

use super::{Entry, Error, Generations, deleted::declared_volume};
use serde_json::Value;
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{
    Config, Graph, Key, Name, VolumeId,
    name::nearest,
    provenance::{field, parse_field},
};

/// The most generations that are looked back through.
const MAX_BACK: usize = 1_000;

/// Where a value of the current generation comes from.
pub struct Reason {
    /// The field, in full.
    pub field: String,
    /// As JSON. None: the field has no value.
    pub value: Option<String>,
    /// The line that set it, if that is known.
    pub place: Option<String>,
    /// The line through which that came.
    pub via: Option<String>,
    pub overrode: Vec<Overridden>,
    /// The other lines that a record was written on.
    pub also: Vec<String>,
    /// The oldest generation from which on the value has been what it is.
    pub since: Option<Entry>,
}

/// A definition that another one took the place of.
pub struct Overridden {
    pub place: String,
    pub text: String,
    pub priority: Option<String>,
}

impl Generations {
    /// Where a value of the current generation comes from.
    ///
    /// # Errors
    /// When the path names no pod, no network and no shared volume that is declared.
    pub fn why(&self, asked: &str) -> Result<Reason, Error> {
        let (current, graph) = self.current()?;
        let path = self.full_path(&graph, asked)?;
        let value = value_at(&graph.config(), &path);
        let known = self.known_provenance(current);
        let origin = known.as_ref().and_then(|known| known.origin(&path));
        let origin = origin.as_ref();
        let words = |line| known.as_ref().map(|known| known.words(line));
        let overrode = origin
            .into_iter()
            .flat_map(|origin| &origin.overrode)
            .map(|over| Overridden {
                place: words(over.line).unwrap_or_default(),
                text: over.text.clone(),
                priority: Some(over.priority.clone()).filter(|priority| !priority.is_empty()),
            });
        Ok(Reason {
            field: field(&path),
            value: value.as_ref().map(Value::to_string),
            place: origin.and_then(|origin| words(origin.line)),
            via: origin.and_then(|origin| words(origin.via?)),
            overrode: overrode.collect(),
            also: origin
                .into_iter()
                .flat_map(|origin| &origin.also)
                .filter_map(|line| words(*line))
                .collect(),
            since: match (current, &value) {
                (Some(current), Some(value)) => self.since(current, &path, &graph, value)?,
                _ => None,
            },
        })
    }

    /// That a network is declared, or an error with the nearest one.
    fn declared_network(&self, graph: &Graph, network: &str) -> Result<(), Error> {
        let known = || graph.networks().map(|(name, _)| name);
        if known().any(|name| name.as_str() == network) {
            return Ok(());
        }
        // One that is named without its stack is that stack's, if only one has it.
        let of_stack = known().find(|name| name.local() == network);
        let near = || {
            let near = nearest(
                network,
                known().flat_map(|name| [name.as_str(), name.local()]),
            )?;
            known().find(|name| name.as_str() == near || name.local() == near)
        };
        Err(Error::NoSuchNetwork {
            network: network.to_owned(),
            nearest: of_stack.or_else(near).map(Name::to_string),
        })
    }

    /// `web.app.env.LOG` in full: a pod's field first, then a container's name.
    fn full_path(&self, graph: &Graph, asked: &str) -> Result<Vec<String>, Error> {
        let mut path = parse_field(asked);
        if let [first, name, ..] = path.as_slice()
            && first == "networks"
            && !graph.pods().any(|pod| pod.as_str() == first)
        {
            self.declared_network(graph, name)?;
            return Ok(path);
        }
        if let [first, name, ..] = path.as_slice()
            && first == "volumes"
            && !graph.pods().any(|pod| pod.as_str() == first)
        {
            declared_volume(graph, name)?;
            return Ok(path);
        }
        if path.first().is_some_and(|first| first == "pods") {
            path.remove(0);
        }
        let pod = path.first().cloned().unwrap_or_default();
        let name = self.declared(graph, &pod)?;
        if let Some(first) = path.first_mut() {
            *first = name.to_string();
        }
        if let Some(second) = path.get(1)
            && graph
                .containers(&name)
                .any(|(container, _, _)| container.as_str() == second)
        {
            path.insert(1, "containers".to_owned());
        }
        path.insert(0, "pods".to_owned());
        if let Some(of_stack) = of_own_stack(graph, &name, &path) {
            path[3] = of_stack;
        }
        Ok(path)
    }

    /// The oldest generation from which on the value has been what it is.
    fn since(
        &self,
        current: u64,
        path: &[String],
        graph: &Arc<Graph>,
        value: &Value,
    ) -> Result<Option<Entry>, Error> {
        let store = &self.store;
        let name = path.get(1).and_then(|name| Name::of_pod(name.clone()).ok());
        let key = name.map(|name| match path.first().map(String::as_str) {
            Some("networks") => Key::Network(name),
            Some("volumes") => Key::SharedVolume(name),
            _ => Key::Pod(name),
        });
        let hash = |graph: &Graph| {
            let key = key.as_ref()?;
            let size = match key {
                Key::SharedVolume(name) => graph.size(&VolumeId::Shared(name.clone())),
                _ => None,
            };
            graph.get(key).map(|entry| (entry.hash, size))
        };
        let now = hash(graph);
        let mut since = store.generation(current)?;
        for _ in 0..MAX_BACK {
            let parent = since.as_ref().and_then(|generation| generation.parent);
            let Some(parent) = parent else { break };
            let Some(before) = self.graphs.of_generation(parent)? else {
                break;
            };
            // The same node has the same values; another one is looked into.
            if hash(&before) != now && value_at(&before.config(), path).as_ref() != Some(value) {
                break;
            }
            since = store.generation(parent)?;
        }
        let Some(since) = since else { return Ok(None) };
        let pinned = store.pins()?.contains(&since.number);
        Ok(Some(self.entry(since, Some(current), pinned)?))
    }
}

/// What a pod names of its own stack, a network or another pod, is named without the stack: its whole name.
/// None: it is named so, or is not there.
fn of_own_stack(graph: &Graph, pod: &Name, path: &[String]) -> Option<String> {
    let [_, _, group, said, ..] = path else {
        return None;
    };
    let config = graph.config();
    let spec = config.pods.get(pod)?;
    let named: BTreeSet<&str> = match group.as_str() {
        "networks" => spec.networks.keys().map(Name::as_str).collect(),
        "depends_on" => spec.depends_on.keys().map(Name::as_str).collect(),
        _ => return None,
    };
    let own = format!("{}:{said}", pod.stack()?);
    (!named.contains(said.as_str()) && named.contains(own.as_str())).then_some(own)
}

fn value_at(config: &Config, path: &[String]) -> Option<Value> {
    let value = serde_json::to_value(config).ok()?;
    path.iter()
        .try_fold(&value, |value, part| value.get(part))
        .cloned()
}
