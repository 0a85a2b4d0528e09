//! A graph as the store keeps it: a blob for each node, under the node's hash.

use super::{Entry, Graph, Key, Node, node::node_hash};
use crate::{
    canonical::{self, CanonicalError},
    digest::Digest,
    name::Name,
};
use petgraph::graph::DiGraph;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most nodes a stored graph may have.
pub(super) const MAX_NODES: usize = 200_000;

/// A node as the store keeps it, under its hash.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Stored {
    pub key: Key,
    pub node: Node,
    pub needs: Vec<Digest>,
}

impl Stored {
    /// Reads a node and hashes it again.
    pub fn read<E: From<LoadError>>(
        hash: Digest,
        read: &mut impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let bytes = read(&hash)?.ok_or(LoadError::Missing(hash))?;
        let unreadable = |e| LoadError::Unreadable(hash, e);
        let node: Self = canonical::decode(&bytes).map_err(unreadable)?;
        let actual = node_hash(&node.key, &node.node, &node.needs).map_err(unreadable)?;
        if actual != hash {
            return Err(LoadError::Corrupt(hash).into());
        }
        Ok(node)
    }
}

/// Why stored nodes make no graph.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The store has no node of this hash.
    #[error("node {0} is missing")]
    Missing(Digest),
    /// The bytes under this hash have another one.
    #[error("node {0} does not hash to its name")]
    Corrupt(Digest),
    /// The bytes under this hash are not the canonical bytes of a node.
    #[error("node {0} can't be read")]
    Unreadable(Digest, #[source] CanonicalError),
    /// More nodes than are read.
    #[error("the graph has more than {MAX_NODES} nodes")]
    TooLarge,
    /// The nodes do not fit together.
    #[error(
        "the graph holds `{0}` twice, needs something missing, or holds a node of the wrong kind"
    )]
    Malformed(Key),
}

impl Graph {
    /// Every node as the store keeps it: its hash, and the bytes [`Graph::load`] reads.
    ///
    /// # Errors
    /// As [`Graph::build`].
    pub fn stored(&self) -> Result<Vec<(Digest, Vec<u8>)>, CanonicalError> {
        self.entries().map(|entry| self.store(entry)).collect()
    }

    /// As [`Graph::stored`], without the nodes that `known` has too.
    ///
    /// # Errors
    /// As [`Graph::build`].
    pub fn stored_beside(&self, known: &Self) -> Result<Vec<(Digest, Vec<u8>)>, CanonicalError> {
        let is_new = |entry: &&Entry| {
            known
                .get(&entry.key)
                .is_none_or(|same| same.hash != entry.hash)
        };
        self.entries()
            .filter(is_new)
            .map(|entry| self.store(entry))
            .collect()
    }

    fn store(&self, entry: &Entry) -> Result<(Digest, Vec<u8>), CanonicalError> {
        let needs = self
            .needs(&entry.key)
            .into_iter()
            .map(|need| need.hash)
            .collect();
        let stored = Stored {
            key: entry.key.clone(),
            node: entry.node.clone(),
            needs,
        };
        Ok((entry.hash, canonical::encode(&stored)?))
    }

    /// The pods of the graph whose root is `root`, without the rest of it. What is `known` of its
    /// pods by their hashes is not read again, and grows: graphs of one host have most of them in
    /// common.
    ///
    /// # Errors
    /// [`LoadError`], or what `read` returns.
    pub fn load_pods<E: From<LoadError>>(
        root: Digest,
        known: &mut BTreeMap<Digest, Name>,
        mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let mut stored = |hash: Digest| -> Result<Stored, E> {
            let bytes = read(&hash)?.ok_or(LoadError::Missing(hash))?;
            Ok(canonical::decode(&bytes).map_err(|e| LoadError::Unreadable(hash, e))?)
        };
        for hash in stored(root)?.needs {
            if known.contains_key(&hash) {
                continue;
            }
            match stored(hash)?.key {
                Key::Pod(name) => drop(known.insert(hash, name)),
                Key::Network(_) | Key::SharedVolume(_) | Key::SharedVolumeSize(_) => {}
                other => return Err(LoadError::Malformed(other).into()),
            }
        }
        Ok(())
    }

    /// Reads the graph whose root is `root`. Every node is hashed again, so a graph that loads is
    /// the one committed.
    ///
    /// # Errors
    /// [`LoadError`], or what `read` returns.
    pub fn load<E: From<LoadError>>(
        root: Digest,
        mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Self, E> {
        let mut stored: BTreeMap<Digest, Stored> = BTreeMap::new();
        let mut order = Vec::new();
        let mut stack = vec![(root, false)];
        while let Some((hash, needs_are_loaded)) = stack.pop() {
            if needs_are_loaded {
                order.push(hash);
                continue;
            }
            if stored.contains_key(&hash) {
                continue;
            }
            if stored.len() >= MAX_NODES {
                return Err(LoadError::TooLarge.into());
            }
            let node = Stored::read(hash, &mut read)?;
            stack.push((hash, true));
            stack.extend(node.needs.iter().map(|need| (*need, false)));
            stored.insert(hash, node);
        }
        let mut graph = Self {
            dag: DiGraph::new(),
            index: BTreeMap::new(),
        };
        let mut keys: BTreeMap<Digest, Key> = BTreeMap::new();
        for hash in order {
            let Some(node) = stored.remove(&hash) else {
                continue;
            };
            let needs: Vec<Key> = node
                .needs
                .iter()
                .filter_map(|need| keys.get(need).cloned())
                .collect();
            let is_complete = needs.len() == node.needs.len();
            if !is_complete || graph.index.contains_key(&node.key) || !node.node.fits(&node.key) {
                return Err(LoadError::Malformed(node.key).into());
            }
            keys.insert(hash, node.key.clone());
            graph
                .add(node.key, node.node, &needs)
                .map_err(|e| LoadError::Unreadable(hash, e))?;
        }
        if !graph.index.contains_key(&Key::Root) || graph.root() != root {
            return Err(LoadError::Malformed(Key::Root).into());
        }
        Ok(graph)
    }
}
