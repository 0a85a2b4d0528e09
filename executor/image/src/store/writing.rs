//! What is written and has no name yet.

use crate::Error;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tank_layer::budget::Budget;

/// How often the disk is looked at while layers are written.
const LOOK: Duration = Duration::from_millis(200);

/// A file or a directory with a temporary name: it goes with this.
pub(crate) struct Temporary(pub(crate) PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // What it can't remove now is swept at the next start.
        if fs::remove_file(&self.0).is_err() {
            let _ = tank_sys::remove::tree(&self.0);
        }
    }
}

/// Has what is written of a layer go to the disk while more of it comes, and ends when the disk is so
/// full that the store's reserve begins, whatever the process that converts looks at.
pub(crate) async fn look_after(output: &Arc<fs::File>, budget: &Budget) -> Error {
    loop {
        tokio::time::sleep(LOOK).await;
        if let Err(refusal) = budget.space() {
            return refusal.into();
        }
        let output = Arc::clone(output);
        let written = tokio::task::spawn_blocking(move || output.sync_data()).await;
        if let Err(error) = written.unwrap_or_else(|error| Err(error.into())) {
            return Error::Io("write a layer to the disk".to_owned(), error);
        }
    }
}

/// Writes the name of `path` to the disk: a generation that needs it may be committed next.
pub(super) fn sync_dir(path: &Path) -> std::io::Result<()> {
    fs::File::open(path.parent().unwrap_or(path))?.sync_all()
}
