//! Wakes whoever follows a log when it is written: one instance of inotify(7) for all, and a watch on
//! a pod's folder of logs for as long as anybody follows one of them.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tank_sys::watch::{WatchId, WriteEvents, Writes};
use tokio::sync::{Semaphore, watch};

/// The most logs that are read at once, by all clients together: each may have two files open, and a block
/// of it in memory.
pub const MAX_READ: usize = 1_024;

/// The folders that are followed.
pub struct LogWatch {
    /// None: the kernel has no instance of inotify(7) left, and followers look by the clock.
    writes: Option<Writes>,
    folders: Mutex<BTreeMap<WatchId, watch::Sender<()>>>,
    /// A permit for each log that is read.
    readers: Arc<Semaphore>,
}

/// A folder that somebody follows.
pub struct Followed {
    watch: Arc<LogWatch>,
    id: WatchId,
    written: watch::Receiver<()>,
}

impl LogWatch {
    /// Needs a tokio runtime.
    pub fn new() -> Self {
        let writes = Writes::new();
        let writes =
            writes.inspect_err(|error| tracing::warn!(%error, "logs are followed by the clock"));
        Self {
            writes: writes.ok(),
            folders: Mutex::default(),
            readers: Arc::new(Semaphore::new(MAX_READ)),
        }
    }

    /// What a reader takes a permit of for each log.
    pub fn readers(&self) -> &Arc<Semaphore> {
        &self.readers
    }

    fn folders(&self) -> MutexGuard<'_, BTreeMap<WatchId, watch::Sender<()>>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows what is written in a folder from now on. None: it can't be watched, or is not there.
    pub fn follow(self: &Arc<Self>, folder: &Path) -> Option<Followed> {
        let mut folders = self.folders();
        let id = self.writes.as_ref()?.add(folder).ok()?;
        let sender = folders.entry(id).or_insert_with(|| watch::Sender::new(()));
        let written = sender.subscribe();
        Some(Followed {
            watch: Arc::clone(self),
            id,
            written,
        })
    }

    /// Wakes followers for as long as the kernel notifies.
    pub async fn run(&self) {
        let Some(writes) = &self.writes else { return };
        while writes.ready().await.is_ok() {
            // A descriptor that fails notifies of nothing: then all may have been written.
            let lost = WriteEvents {
                lost: true,
                ..WriteEvents::default()
            };
            let events = writes.drain().unwrap_or(lost);
            let mut folders = self.folders();
            for (id, sender) in folders.iter() {
                if events.lost || events.written.contains(id) {
                    sender.send_replace(());
                }
            }
            // Their followers look by the clock.
            folders.retain(|id, _| !events.gone.contains(id));
        }
    }
}

impl Followed {
    /// What was written until now is known: [`Followed::changed`] is about what comes.
    pub fn mark_seen(&mut self) {
        self.written.mark_unchanged();
    }

    /// Whether something was written since. None: the folder is gone, and nothing will be.
    pub fn has_changed(&self) -> Option<bool> {
        self.written.has_changed().ok()
    }

    /// Returns when something was written. False: the folder is gone, and nothing will be.
    pub async fn changed(&mut self) -> bool {
        self.written.changed().await.is_ok()
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        let mut folders = self.watch.folders();
        let is_last = |sender: &watch::Sender<()>| sender.receiver_count() <= 1;
        if folders.get(&self.id).is_some_and(is_last) {
            folders.remove(&self.id);
            if let Some(writes) = &self.watch.writes {
                writes.remove(self.id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs, time::Duration};
    use tokio::time::timeout;

    #[tokio::test]
    async fn followers_are_woken_by_what_is_written_and_leave_nothing() {
        let folder = std::env::temp_dir().join(format!("tank-log-watch-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("makes");
        let watch = Arc::new(LogWatch::new());
        let running = tokio::spawn({
            let watch = Arc::clone(&watch);
            async move { watch.run().await }
        });
        let mut one = watch.follow(&folder).expect("watches");
        let other = watch.follow(&folder).expect("watches");
        fs::write(folder.join("app.log"), "line").expect("writes");
        assert!(
            timeout(Duration::from_secs(10), one.changed())
                .await
                .expect("is woken")
        );
        one.mark_seen();
        drop(other);
        fs::write(folder.join("app.log"), "again").expect("writes");
        assert!(
            timeout(Duration::from_secs(10), one.changed())
                .await
                .expect("is woken")
        );
        fs::remove_dir_all(&folder).expect("removes");
        let gone = async { while one.changed().await {} };
        timeout(Duration::from_secs(10), gone)
            .await
            .expect("its folder is gone");
        drop(one);
        assert!(watch.folders().is_empty());
        running.abort();
    }
}
