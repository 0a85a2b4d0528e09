//! inotify(7) on the host's resolver files: another server there is another one for the pods.

use std::path::{Path, PathBuf};
use tank_plan::target::{files::RESOLV_CONF, resolver::UPSTREAM};
use tank_sys::watch::Entries;

/// Watches the host's own resolver file, what it is a link to, and that of systemd-resolved.
pub struct ResolverWatch(Option<Entries>);

impl ResolverWatch {
    pub fn new() -> Self {
        let entries = Entries::new();
        let entries = entries
            .inspect_err(|error| tracing::warn!(%error, "changes of resolvers are noticed late"));
        let watch = Self(entries.ok());
        watch.add();
        watch
    }

    /// Watches what there is. Again is no harm: a file that was replaced is watched anew.
    fn add(&self) {
        let Some(entries) = &self.0 else { return };
        for path in [RESOLV_CONF, UPSTREAM].map(Path::new) {
            let target = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
            let paths: [PathBuf; 2] = [path.to_owned(), target];
            for path in paths {
                // What is not there yet is noticed by the folder it comes into, if that is there.
                let _ = entries.add(&path);
            }
        }
    }

    /// Returns when one of the files has changed, or may have.
    ///
    /// # Errors
    /// When the descriptor fails.
    pub async fn changed(&self) -> Result<(), tank_sys::Error> {
        let Some(entries) = &self.0 else {
            return std::future::pending().await;
        };
        loop {
            entries.ready().await?;
            if entries.drain()? {
                self.add();
                return Ok(());
            }
        }
    }
}
