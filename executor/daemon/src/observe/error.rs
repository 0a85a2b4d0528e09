//! Why the host, or one pod of it, can't be observed.

use crate::pods;
use std::{io, path::PathBuf};
use tank_model::digest::DigestError;
use tokio::task::JoinError;

/// Why something can't be read. The message says what was attempted, the source why.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Pod(#[from] pods::Error),
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    /// A shim's report names something by what is no hash.
    #[error("read a shim's state")]
    Report(#[source] DigestError),
    #[error("read what was changed of the host's settings, {}, which the next pass makes anew", .record.display())]
    Settings {
        record: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("look at the host")]
    Host(#[source] JoinError),
    #[error("look at the host's links")]
    Links(#[source] JoinError),
    #[error("look at the pods")]
    Pods(#[source] JoinError),
}
