//! One at a time: what several want is fetched once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
};
use tank_model::Digest;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

/// A blob, and whose it is.
type Wanted = (Digest, String);

/// Whose turn it is to fetch a blob: what several want of the same registry is fetched once.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Mutex<HashMap<Wanted, Weak<AsyncMutex<()>>>>>);

impl Turns {
    /// Waits until nobody else fetches this blob of the same one.
    pub async fn take(&self, wanted: Wanted) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            let known = turns.get(&wanted).and_then(Weak::upgrade);
            let turn = known.unwrap_or_default();
            turns.insert(wanted, Arc::downgrade(&turn));
            turn
        };
        turn.lock_owned().await
    }
}
