//! Why a value is what it is: kept with each generation, asked by `tank why`.

use crate::{
    api::views,
    generations::{Engine, internal, store_error},
};
use serde_json::Value;
use std::{collections::BTreeMap, sync::Arc};
use tank_model::{
    Config, Digest, Graph, Key, Name, canonical,
    provenance::{PodSource, Provenance, field, parse_field},
};
use tank_proto::varlink::{Error, Overridden, WhyReply};

/// The most generations that are looked back through.
const MAX_BACK: usize = 1_000;

impl Engine {
    /// Keeps what a client says of its lines, for the generation that is about to be committed.
    /// With `merge`, beside what is known of the pods it does not name. `pods` are those it names,
    /// each with its source.
    ///
    /// # Errors
    /// When it is no provenance, or the store refuses.
    pub fn keep_provenance(
        &self,
        text: Option<&str>,
        current: Option<u64>,
        merge: bool,
        pods: BTreeMap<String, PodSource>,
    ) -> Result<Option<Digest>, Error> {
        let text = text.unwrap_or(r#"{"files":[],"fields":{}}"#);
        let invalid = |why: String| Error::Invalid {
            problems: vec![format!("provenance: {why}")],
        };
        if text.len() > canonical::MAX_BYTES {
            return Err(invalid("too many bytes".to_owned()));
        }
        let mut provenance: Provenance =
            serde_json::from_str(text).map_err(|e| invalid(e.to_string()))?;
        // Where a pod came from is what this daemon saw, whatever a client says.
        provenance.pods = pods;
        if merge
            && let Some(known) = self
                .provenance_of(current)
                .and_then(|digest| self.provenance(&digest))
        {
            provenance = known.with(provenance);
        }
        let bytes =
            serde_json::to_vec(&provenance).map_err(|e| internal("write the provenance", e))?;
        let bytes = zstd::encode_all(bytes.as_slice(), 3)
            .map_err(|e| internal("pack the provenance", e))?;
        let digest = Digest::of(&bytes);
        self.host
            .store
            .put_nodes(&[(digest, bytes)])
            .map_err(store_error)?;
        Ok(Some(digest))
    }

    /// What is kept for a generation.
    pub fn provenance_of(&self, number: Option<u64>) -> Option<Digest> {
        self.host
            .store
            .generation(number?)
            .ok()
            .flatten()?
            .provenance
    }

    /// Where each pod of a generation came from, as far as that is known.
    pub fn pod_sources(&self, number: Option<u64>) -> BTreeMap<String, PodSource> {
        let known = self
            .provenance_of(number)
            .and_then(|digest| self.provenance(&digest));
        known.map(|known| known.pods).unwrap_or_default()
    }

    fn provenance(&self, digest: &Digest) -> Option<Provenance> {
        use std::io::Read;
        let bytes = self.host.store.node(digest).ok().flatten()?;
        let mut text = Vec::new();
        let most = 4 * canonical::MAX_BYTES as u64;
        zstd::Decoder::new(bytes.as_slice())
            .ok()?
            .take(most)
            .read_to_end(&mut text)
            .ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Where a value of the current generation comes from.
    ///
    /// # Errors
    /// When the path names no pod that is declared.
    pub fn why(&self, asked: &str) -> Result<WhyReply, Error> {
        let (current, graph) = self.current()?;
        let path = self.full_path(&graph, asked)?;
        let value = value_at(&graph.config(), &path);
        let known = self
            .provenance_of(current)
            .and_then(|digest| self.provenance(&digest));
        let origin = known
            .as_ref()
            .and_then(|known| known.fields.get(&field(&path)));
        let words = |line| known.as_ref().map(|known| known.words(line));
        let overrode = origin
            .into_iter()
            .flat_map(|origin| &origin.overrode)
            .map(|over| Overridden {
                place: words(over.line).unwrap_or_default(),
                text: over.text.clone(),
                priority: Some(over.priority.clone()).filter(|priority| !priority.is_empty()),
            });
        Ok(WhyReply {
            field: field(&path),
            value: value.as_ref().map(Value::to_string),
            place: origin.and_then(|origin| words(origin.line)),
            via: origin.and_then(|origin| words(origin.via?)),
            overrode: overrode.collect(),
            since: match (current, &value) {
                (Some(current), Some(value)) => self.since(current, &path, &graph, value)?,
                _ => None,
            },
        })
    }

    /// `web.app.env.LOG` in full: a pod's field first, then a container's name.
    fn full_path(&self, graph: &Graph, asked: &str) -> Result<Vec<String>, Error> {
        let mut path = parse_field(asked);
        if path.first().is_some_and(|first| first == "pods") {
            path.remove(0);
        }
        let pod = path.first().cloned().unwrap_or_default();
        let name = self.declared(graph, &pod)?;
        if let Some(second) = path.get(1)
            && graph
                .containers(&name)
                .any(|(container, _, _)| container.as_str() == second)
        {
            path.insert(1, "containers".to_owned());
        }
        path.insert(0, "pods".to_owned());
        Ok(path)
    }

    /// The oldest generation from which on the value has been what it is.
    fn since(
        &self,
        current: u64,
        path: &[String],
        graph: &Arc<Graph>,
        value: &Value,
    ) -> Result<Option<tank_proto::varlink::Generation>, Error> {
        let store = &self.host.store;
        let pod = path.get(1).and_then(|pod| Name::new(pod.clone()).ok());
        let hash = |graph: &Graph| graph.get(&Key::Pod(pod.clone()?)).map(|entry| entry.hash);
        let now = hash(graph);
        let mut since = store.generation(current).map_err(store_error)?;
        for _ in 0..MAX_BACK {
            let parent = since.as_ref().and_then(|generation| generation.parent);
            let Some(parent) = parent else { break };
            let Some(before) = self.host.generation_graph(parent).map_err(store_error)? else {
                break;
            };
            // The same pod has the same values; another one is looked into.
            if hash(&before) != now && value_at(&before.config(), path).as_ref() != Some(value) {
                break;
            }
            since = store.generation(parent).map_err(store_error)?;
        }
        let Some(since) = since else { return Ok(None) };
        let outcome = store.outcome(since.number).map_err(store_error)?;
        Ok(Some(views::generation(&since, outcome, Some(current))))
    }
}

fn value_at(config: &Config, path: &[String]) -> Option<Value> {
    let value = serde_json::to_value(config).ok()?;
    path.iter()
        .try_fold(&value, |value, part| value.get(part))
        .cloned()
}
