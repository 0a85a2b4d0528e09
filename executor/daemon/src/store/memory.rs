//! A store in memory: the plain implementation, and the other half of the conformance suite.

use super::{
    Removal, Store, StoreError,
    leases::{LeaseChange, Leases},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_model::{Digest, Gate, Generation, Outcome};
use tank_plan::Overrides;

#[derive(Default)]
pub struct MemoryStore(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    nodes: BTreeMap<Digest, Vec<u8>>,
    generations: BTreeMap<u64, Generation>,
    outcomes: BTreeMap<u64, Outcome>,
    gates: BTreeMap<u64, Gate>,
    leases: Arc<Leases>,
    pins: BTreeSet<u64>,
    overrides: Overrides,
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
        overrides: Option<&Overrides>,
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
        if let Some(overrides) = overrides {
            inner.overrides.clone_from(overrides);
        }
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

    fn overrides(&self) -> Result<Overrides, StoreError> {
        Ok(self.inner().overrides.clone())
    }

    fn set_overrides(&self, overrides: &Overrides) -> Result<(), StoreError> {
        self.inner().overrides.clone_from(overrides);
        Ok(())
    }

    fn leases(&self) -> Arc<Leases> {
        Arc::clone(&self.inner().leases)
    }

    fn take_leases(&self, change: &LeaseChange) -> Result<(), StoreError> {
        change.apply(Arc::make_mut(&mut self.inner().leases));
        Ok(())
    }

    fn pins(&self) -> Result<BTreeSet<u64>, StoreError> {
        Ok(self.inner().pins.clone())
    }

    fn set_pin(&self, number: u64, pinned: bool) -> Result<(), StoreError> {
        let mut inner = self.inner();
        if !inner.generations.contains_key(&number) {
            return Err(StoreError::Gone(number));
        }
        match pinned {
            true => inner.pins.insert(number),
            false => inner.pins.remove(&number),
        };
        Ok(())
    }

    fn node_hashes(
        &self,
        after: Option<&Digest>,
        most: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        let inner = self.inner();
        let nodes = inner.nodes.iter();
        let nodes = nodes.filter(|(hash, _)| after.is_none_or(|after| *hash > after));
        let nodes = nodes.map(|(hash, bytes)| (*hash, bytes.len() as u64));
        Ok(nodes.take(most).collect())
    }

    fn verify(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn remove(&self, removal: &Removal, current: Option<u64>) -> Result<(), StoreError> {
        let mut inner = self.inner();
        super::check_removal(removal, current, inner.current)?;
        for number in &removal.generations {
            inner.generations.remove(number);
            inner.outcomes.remove(number);
            inner.gates.remove(number);
            inner.pins.remove(number);
        }
        inner.nodes.retain(|hash, _| !removal.nodes.contains(hash));
        let leases = Arc::make_mut(&mut inner.leases);
        leases.retain(|name, _| !removal.leases.contains(name));
        Ok(())
    }
}
