//! A store that is never waited for on a worker of the runtime: a disk that stalls costs whoever
//! asks, and no other task.

#![expect(
    clippy::disallowed_methods,
    reason = "the one place where what blocks is called from async code"
)]

use super::{
    Removal, Store, StoreError,
    leases::{LeaseChange, Leases},
};
use std::{collections::BTreeSet, sync::Arc};
use tank_model::{Digest, Gate, Generation, Outcome};
use tank_plan::Overrides;
use tokio::task::block_in_place;

/// Another store, each read and write of which the calling worker gives its tasks away for. To be
/// used on a multi-threaded runtime, or outside of any.
pub struct OffWorker<S>(pub S);

impl<S: Store> Store for OffWorker<S> {
    fn put_nodes(&self, nodes: &[(Digest, Vec<u8>)]) -> Result<(), StoreError> {
        block_in_place(|| self.0.put_nodes(nodes))
    }

    fn node(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
        block_in_place(|| self.0.node(hash))
    }

    fn commit_with(
        &self,
        generation: &Generation,
        gate: Option<&Gate>,
        leases: &LeaseChange,
        overrides: Option<&Overrides>,
    ) -> Result<(), StoreError> {
        block_in_place(|| self.0.commit_with(generation, gate, leases, overrides))
    }

    fn gate(&self, number: u64) -> Result<Option<Gate>, StoreError> {
        block_in_place(|| self.0.gate(number))
    }

    fn current(&self) -> Result<Option<u64>, StoreError> {
        block_in_place(|| self.0.current())
    }

    fn generation(&self, number: u64) -> Result<Option<Generation>, StoreError> {
        block_in_place(|| self.0.generation(number))
    }

    fn generations(&self) -> Result<Vec<Generation>, StoreError> {
        block_in_place(|| self.0.generations())
    }

    fn set_outcome(&self, number: u64, outcome: Outcome) -> Result<(), StoreError> {
        block_in_place(|| self.0.set_outcome(number, outcome))
    }

    fn outcome(&self, number: u64) -> Result<Outcome, StoreError> {
        block_in_place(|| self.0.outcome(number))
    }

    fn overrides(&self) -> Result<Overrides, StoreError> {
        block_in_place(|| self.0.overrides())
    }

    fn set_overrides(&self, overrides: &Overrides) -> Result<(), StoreError> {
        block_in_place(|| self.0.set_overrides(overrides))
    }

    // They are in memory.
    fn leases(&self) -> Arc<Leases> {
        self.0.leases()
    }

    fn take_leases(&self, change: &LeaseChange) -> Result<(), StoreError> {
        block_in_place(|| self.0.take_leases(change))
    }

    fn pins(&self) -> Result<BTreeSet<u64>, StoreError> {
        block_in_place(|| self.0.pins())
    }

    fn set_pin(&self, number: u64, pinned: bool) -> Result<(), StoreError> {
        block_in_place(|| self.0.set_pin(number, pinned))
    }

    fn node_hashes(
        &self,
        after: Option<&Digest>,
        most: usize,
    ) -> Result<Vec<(Digest, u64)>, StoreError> {
        block_in_place(|| self.0.node_hashes(after, most))
    }

    fn verify(&self) -> Result<(), StoreError> {
        block_in_place(|| self.0.verify())
    }

    fn remove(&self, removal: &Removal, current: Option<u64>) -> Result<(), StoreError> {
        block_in_place(|| self.0.remove(removal, current))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::memory::MemoryStore, *};
    use std::time::Duration;

    /// A store that waits for ever, unless somebody else gets to run.
    struct Waits(std::sync::Mutex<std::sync::mpsc::Receiver<()>>);

    impl Store for Waits {
        fn put_nodes(&self, _: &[(Digest, Vec<u8>)]) -> Result<(), StoreError> {
            let receiver = self.0.lock().expect("a receiver");
            receiver
                .recv_timeout(Duration::from_secs(10))
                .expect("another task runs");
            Ok(())
        }

        fn node(&self, hash: &Digest) -> Result<Option<Vec<u8>>, StoreError> {
            MemoryStore::default().node(hash)
        }

        fn commit_with(
            &self,
            _: &Generation,
            _: Option<&Gate>,
            _: &LeaseChange,
            _: Option<&Overrides>,
        ) -> Result<(), StoreError> {
            Ok(())
        }

        fn gate(&self, _: u64) -> Result<Option<Gate>, StoreError> {
            Ok(None)
        }

        fn current(&self) -> Result<Option<u64>, StoreError> {
            Ok(None)
        }

        fn generation(&self, _: u64) -> Result<Option<Generation>, StoreError> {
            Ok(None)
        }

        fn generations(&self) -> Result<Vec<Generation>, StoreError> {
            Ok(Vec::new())
        }

        fn set_outcome(&self, _: u64, _: Outcome) -> Result<(), StoreError> {
            Ok(())
        }

        fn outcome(&self, _: u64) -> Result<Outcome, StoreError> {
            Ok(Outcome::Pending)
        }

        fn overrides(&self) -> Result<Overrides, StoreError> {
            Ok(Overrides::default())
        }

        fn set_overrides(&self, _: &Overrides) -> Result<(), StoreError> {
            Ok(())
        }

        fn leases(&self) -> Arc<Leases> {
            Arc::default()
        }

        fn take_leases(&self, _: &LeaseChange) -> Result<(), StoreError> {
            Ok(())
        }

        fn pins(&self) -> Result<BTreeSet<u64>, StoreError> {
            Ok(BTreeSet::new())
        }

        fn set_pin(&self, _: u64, _: bool) -> Result<(), StoreError> {
            Ok(())
        }

        fn node_hashes(
            &self,
            _: Option<&Digest>,
            _: usize,
        ) -> Result<Vec<(Digest, u64)>, StoreError> {
            Ok(Vec::new())
        }

        fn verify(&self) -> Result<(), StoreError> {
            Ok(())
        }

        fn remove(&self, _: &Removal, _: Option<u64>) -> Result<(), StoreError> {
            Ok(())
        }
    }

    /// With one worker, a store that is waited for on it would keep the other task from running.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_store_that_waits_keeps_no_other_task_waiting() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let store = OffWorker(Waits(std::sync::Mutex::new(receiver)));
        let waiting = tokio::spawn(async move { store.put_nodes(&[]) });
        tokio::spawn(async move { sender.send(()) })
            .await
            .expect("runs")
            .expect("sends");
        waiting.await.expect("runs").expect("is written");
    }
}
