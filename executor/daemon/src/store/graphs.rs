//! Graphs of the store, the last few of them kept in memory. A graph is named by its content: none
//! is ever outdated.

use super::{Store, StoreError};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_model::{Digest, Graph};

/// How many graphs are kept in memory.
const KEPT: usize = 4;

/// Reads graphs from a store.
pub struct Graphs {
    store: Arc<dyn Store>,
    /// With their roots, whichever was used last at the end.
    kept: Mutex<VecDeque<(Digest, Arc<Graph>)>>,
}

impl Graphs {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<(Digest, Arc<Graph>)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The graph of a root, from memory or the store.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn get(&self, root: Digest) -> Result<Arc<Graph>, StoreError> {
        let known = {
            let mut kept = self.kept();
            let place = kept.iter().position(|(known, _)| *known == root);
            place.and_then(|at| kept.remove(at))
        };
        // Nobody else waits while it is read; two who read the same have the same.
        let graph = match known {
            Some((_, graph)) => graph,
            None => Arc::new(Graph::load(root, |hash| self.store.node(hash))?),
        };
        self.put(Arc::clone(&graph));
        Ok(graph)
    }

    /// Keeps a graph that was just stored: nobody has to read it back.
    pub fn put(&self, graph: Arc<Graph>) {
        let mut kept = self.kept();
        kept.retain(|(known, _)| *known != graph.root());
        keep(&mut kept, graph);
    }

    /// The graph of a generation. None: there is no such generation.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn of_generation(&self, number: u64) -> Result<Option<Arc<Graph>>, StoreError> {
        let generation = self.store.generation(number)?;
        generation
            .map(|generation| self.get(generation.root))
            .transpose()
    }
}

fn keep(kept: &mut VecDeque<(Digest, Arc<Graph>)>, graph: Arc<Graph>) {
    while kept.len() >= KEPT {
        kept.pop_front();
    }
    kept.push_back((graph.root(), graph));
}
