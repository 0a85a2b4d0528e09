//! Why a step was not carried out.

use super::{sources, volumes::VolumeError};
use crate::pods::{self, NoShim};
use std::{io, path::PathBuf};
use tank_model::{Name, VolumeId};
use tank_proto::shim::{FailureKind, MAX_BESIDE, MAX_DESCRIPTORS, Reply};
use tokio::task::JoinError;

/// Why a step was not carried out. The message says what was attempted, the source why; this is
/// where all of their texts are.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What the pod's shim, or the name server, could not do.
    #[error(transparent)]
    Pod(#[from] pods::Error),
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    /// The thread that did it has panicked, or the daemon ends.
    #[error("{what}")]
    Thread {
        what: &'static str,
        source: JoinError,
    },
    #[error("start a container")]
    Start(#[source] NoShim),
    #[error("connect a pod")]
    Connect(#[source] NoShim),
    #[error("write files")]
    WriteFiles(#[source] NoFiles),
    #[error("start a container")]
    Namespaces(#[source] UnknownNamespaces),
    #[error("make {}", path.display())]
    MakeDir { path: PathBuf, source: io::Error },
    #[error("empty {}", path.display())]
    EmptyDir { path: PathBuf, source: io::Error },
    #[error("remove {}", path.display())]
    RemoveDir { path: PathBuf, source: io::Error },
    #[error("own the upper directory")]
    OwnUpper(#[source] io::Error),
    #[error("open the upper directory")]
    OpenUpper(#[source] io::Error),
    #[error("open the shim's error log")]
    ShimLog(#[source] io::Error),
    #[error("use the volume `{volume}`")]
    ManagedVolume { volume: Name, source: VolumeError },
    #[error("limit the volume {volume}")]
    Limit {
        volume: VolumeId,
        source: VolumeError,
    },
    #[error("take a snapshot of the volume `{volume}` (`snapshots = 'never` goes on without)")]
    Snapshot { volume: Name, source: VolumeError },
    #[error("use the volume `{volume}`")]
    Volume {
        volume: Name,
        source: sources::Error,
    },
    #[error("read the secret `{secret}`")]
    Secret {
        secret: Name,
        source: sources::Error,
    },
    #[error("use the device `{device}`")]
    Device {
        device: String,
        source: sources::Error,
    },
    #[error("mount a layer")]
    Layer(#[source] tank_image::Error),
    #[error("use the image {image}")]
    Image {
        image: String,
        source: tank_image::Error,
    },
    #[error("filter system calls")]
    Filter(#[source] UnknownCall),
    #[error("write a specification")]
    Specification(#[source] serde_json::Error),
    #[error("hand {count} mounts and cgroups to the pod's shim")]
    HandOver { count: usize, source: TooMany },
    /// A setting of the host, as `sysctl` writes it.
    #[error("set {setting}")]
    SetSetting { setting: String, source: io::Error },
    #[error("give back the host's settings")]
    RestoreSettings(#[source] io::Error),
}

/// Why a running container's files can't be written.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum NoFiles {
    #[error("the pod's shim is gone")]
    Gone,
    /// It is of a version that does not know the request.
    #[error("the pod's shim can't show them")]
    CantShow,
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("nobody has asked for its pod's namespaces")]
pub struct UnknownNamespaces;

/// A system call that this machine's kernel does not have.
#[derive(Clone, Debug, thiserror::Error)]
#[error("`{0}` is none of this machine's")]
pub struct UnknownCall(pub String);

/// Why a start's descriptors can't be handed over.
#[derive(Clone, Copy, Debug, thiserror::Error)]
pub enum TooMany {
    #[error("{MAX_DESCRIPTORS} is the most; mount fewer volumes in one container")]
    Ever,
    #[error(
        "it is of an older Tank, for which {MAX_BESIDE} is the most; delete the pod and switch again"
    )]
    ForAnOlderShim,
}

impl Error {
    /// What is decided by.
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Pod(error) => error.kind(),
            _ => FailureKind::Other,
        }
    }
}

/// That a shim answered something else than it was asked for.
pub fn unexpected(reply: Reply) -> Error {
    pods::unexpected(reply).into()
}
