//! A store in memory: the plain implementation, and the other half of the conformance suite.

use super::{
    Store, StoreError,
    leases::{LeaseChange, Leases},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_model::{Digest, Gate, Generation, Outcome};

#[derive(Default)]
pub struct MemoryStore(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<Digest, Vec<u8>>,
    generations: BTreeMap<u64, Generation>,
    outcomes: BTreeMap<u64, Outcome>,
    gates: BTreeMap<u64, Gate>,
    leases: Arc<Leases>,
    current: Option<u64>,
}

impl MemoryStore {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn put_nodes(&self, nodes: &[(Digest, Vec<u8>)]) -> Result<(), StoreError> {
        self.inner().nodes.extend(nodes.iter().cloned());
        Ok(())
    }

    fn node(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.inner().nodes.get(hash).cloned())
    }

    fn commit_with(
        &self,
        generation: &Generation,
        gate: Option<&Gate>,
        leases: &LeaseChange,
    ) -> Result<(), StoreError> {
        let mut inner = self.inner();
        if inner.current != generation.parent {
            return Err(StoreError::StaleParent {
                expected: generation.parent,
                actual: inner.current,
            });
        }
        inner
            .generations
            .insert(generation.number, generation.clone());
        inner
            .gates
            .extend(gate.map(|gate| (generation.number, *gate)));
        inner.current = Some(generation.number);
        leases.apply(Arc::make_mut(&mut inner.leases));
        Ok(())
    }

    fn gate(&self, number: u64) -> Result<Option<Gate>, StoreError> {
        Ok(self.inner().gates.get(&number).copied())
    }

    fn current(&self) -> Result<Option<u64>, StoreError> {
        Ok(self.inner().current)
    }

    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        Ok(self.inner().generations.get(&number).cloned())
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        Ok(self.inner().generations.values().cloned().collect())
    }

    fn set_outcome(&self, number: u64, outcome: Outcome) -> Result<(), StoreError> {
        self.inner().outcomes.insert(number, outcome);
        Ok(())
    }

    fn outcome(&self, number: u64) -> Result<Outcome, StoreError> {
        Ok(self
            .inner()
            .outcomes
            .get(&number)
            .copied()
            .unwrap_or(Outcome::Pending))
    }

    fn leases(&self) -> Arc<Leases> {
        Arc::clone(&self.inner().leases)
    }

    fn take_leases(&self, change: &LeaseChange) -> Result<(), StoreError> {
        change.apply(Arc::make_mut(&mut self.inner().leases));
        Ok(())
    }
}
