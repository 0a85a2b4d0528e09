//! The interface `io.tank.Executor`. The file `io.tank.Executor.varlink` is the contract and is
//! served as it stands; these are its shapes in Rust, and a test compares the two, field by field.
//!
//! This file has the methods and what they take, `replies` what they answer, `words` the enums,
//! `error` what is answered instead.

mod bundles;
mod by_hand;
mod copies;
mod error;
mod forward;
mod images;
mod logs;
mod methods;
mod outcomes;
mod replies;
mod run;
mod stats;
#[cfg(test)]
mod tests;
mod upkeep;
mod volumes;
mod words;

pub use bundles::{Bundle, ExportGenerationReply, ImportGenerationCall, ImportGenerationReply};
pub use by_hand::{ExplainReply, OperateCall, OperateReply, Operated, Reason};
pub use copies::{CopyInCall, CopyOutCall, CopyReply, DiskPart, DiskUsageReply};
pub use error::{Error, used_by};
pub use forward::ForwardReply;
pub use images::{
    Image, ImageLayer, ImagesReply, InspectImageReply, KeptImage, LoadImagesReply, PullImageReply,
    RemoveImagesReply,
};
pub use logs::{LogLine, LogName, LogsCall, LogsReply};
pub use methods::{METHODS, RENAMED};
pub use outcomes::{Outcome, SwitchReply};
pub use replies::{
    AttachReply, Change, ChangesReply, ContainerStatus, DiffReply, Event, EventsReply, ExecReply,
    Generation, GenerationReply, GenerationsReply, GetReply, Layer, ListReply, LoginReply,
    LogoutReply, Network, NetworkPod, NetworksReply, Overridden, Pod, PodInterface, PodStatus,
    Problem, Progress, ResolveReply, Resolved, StatusReply, Step, WhyReply,
};
pub use run::{RunCall, RunReply};
pub use stats::{
    ContainerHistory, ContainerUsage, EventsCall, PodHistory, PodUsage, StatsReply, Traffic, Usage,
    UsageHistoryReply, UsagePoint,
};
pub use upkeep::{
    BroughtBack, CheckStoreReply, CollectReply, Collected, Damage, DeleteGenerationsReply,
    DiffRollbackReply, Leftover, PinGenerationReply, StoreReport, SweptSnapshot,
};
pub use volumes::{
    Archive, BackUpVolumeReply, Backup, BackupArchivesReply, BackupsReply, FormerBackup,
    ImportVolumeReply, RestoreVolumeCall, RestoreVolumeReply, TransferReply, Volume, VolumesReply,
};
pub use words::{ChangeKind, GenerationOutcome, Operation, PullPolicy, Stage, State, StepClass};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The interface's name.
pub const INTERFACE: &str = "io.tank.Executor";

/// The interface as it is introspected.
pub const DESCRIPTION: &str = include_str!("../../io.tank.Executor.varlink");

/// The default socket.
pub const SOCKET: &str = "/run/tank/tank.sock";

/// A call of the interface. What each is for, the interface file says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "method", content = "parameters")]
pub enum Method {
    /// What is known of the daemon and its host.
    #[serde(rename = "io.tank.Executor.Status")]
    Status {},
    /// Compares a configuration with the host.
    #[serde(rename = "io.tank.Executor.Diff")]
    Diff(DiffCall),
    /// Makes the host what a configuration says.
    #[serde(rename = "io.tank.Executor.Switch")]
    Switch(SwitchCall),
    /// Removes pods, a stack, a network, or a shared volume.
    #[serde(rename = "io.tank.Executor.Delete")]
    Delete {
        /// The pod's name.
        pod: Option<String>,
        /// The stack of which all that is declared is removed.
        stack: Option<String>,
        /// The network's name on the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        network: Option<String>,
        /// The shared volume's name on the host.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        volume: Option<String>,
        /// More pods, which go in the same change: those that use each other go together.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        others: Option<Vec<String>>,
    },
    /// Stops, starts or restarts by hand.
    #[serde(rename = "io.tank.Executor.Operate")]
    Operate(OperateCall),
    /// Why a pod is in the state it is in.
    #[serde(rename = "io.tank.Executor.Explain")]
    Explain {
        /// The pod's name.
        pod: String,
    },
    /// Goes back to an earlier generation.
    #[serde(rename = "io.tank.Executor.Rollback")]
    Rollback {
        /// Its number; none for the newest good one that differs.
        to: Option<u64>,
        /// Only the pods of this stack go back.
        stack: Option<String>,
        /// Whether volumes become what they were, as far as there are snapshots.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        with_data: Option<bool>,
    },
    /// The history.
    #[serde(rename = "io.tank.Executor.Generations")]
    Generations {},
    /// One generation and its configuration.
    #[serde(rename = "io.tank.Executor.GetGeneration")]
    GetGeneration {
        /// Its number; none for the current one.
        number: Option<u64>,
    },
    /// How two generations differ.
    #[serde(rename = "io.tank.Executor.GenerationDiff")]
    GenerationDiff {
        /// The number of the one.
        from: u64,
        /// The number of the other.
        to: u64,
    },
    /// Every pod.
    #[serde(rename = "io.tank.Executor.List")]
    List {},
    /// Every network, and who is on it.
    #[serde(rename = "io.tank.Executor.Networks")]
    Networks {},
    /// Every volume that is kept.
    #[serde(rename = "io.tank.Executor.Volumes")]
    Volumes {},
    /// Removes volumes.
    #[serde(rename = "io.tank.Executor.RemoveVolumes")]
    RemoveVolumes(RemoveVolumesCall),
    /// A volume as an archive.
    #[serde(rename = "io.tank.Executor.ExportVolume")]
    ExportVolume {
        /// Its name, `pod/volume`.
        volume: String,
    },
    /// An archive as a volume.
    #[serde(rename = "io.tank.Executor.ImportVolume")]
    ImportVolume {
        /// Its name, `pod/volume`.
        volume: String,
        /// Whether what is in it makes way.
        replace: Option<bool>,
    },
    /// A backup as a volume.
    #[serde(rename = "io.tank.Executor.RestoreVolume")]
    RestoreVolume(RestoreVolumeCall),
    /// The archives of a volume.
    #[serde(rename = "io.tank.Executor.BackupArchives")]
    BackupArchives {
        /// Its name, `pod/volume`.
        volume: String,
    },
    /// One pod and its configuration.
    #[serde(rename = "io.tank.Executor.Get")]
    Get {
        /// Its name.
        pod: String,
    },
    /// Runs a command in a container.
    #[serde(rename = "io.tank.Executor.Exec")]
    Exec(ExecCall),
    /// The terminal of a container's main process.
    #[serde(rename = "io.tank.Executor.Attach")]
    Attach {
        /// The pod's name.
        pod: String,
        /// The container's name; none if the pod has only one.
        container: Option<String>,
    },
    /// Runs a command in a container of its own.
    #[serde(rename = "io.tank.Executor.Run")]
    Run(RunCall),
    /// A connection to a port of a pod.
    #[serde(rename = "io.tank.Executor.Forward")]
    Forward {
        /// The pod's name.
        pod: String,
        /// The port inside of the pod; none: whether the pod runs is all that is asked.
        port: Option<u16>,
    },
    /// Files out of a container.
    #[serde(rename = "io.tank.Executor.CopyOut")]
    CopyOut(CopyOutCall),
    /// Files into a container.
    #[serde(rename = "io.tank.Executor.CopyIn")]
    CopyIn(CopyInCall),
    /// What takes the disk.
    #[serde(rename = "io.tank.Executor.DiskUsage")]
    DiskUsage {
        /// Only what would free some of it.
        advice: Option<bool>,
    },
    /// Lines of the logs.
    #[serde(rename = "io.tank.Executor.Logs")]
    Logs(LogsCall),
    /// What happened.
    #[serde(rename = "io.tank.Executor.Events")]
    Events(EventsCall),
    /// What pods use.
    #[serde(rename = "io.tank.Executor.Stats")]
    Stats {
        /// Their names; none for all.
        pods: Option<Vec<String>>,
        /// Those of this stack.
        stack: Option<String>,
    },
    /// What pods have used over time.
    #[serde(rename = "io.tank.Executor.UsageHistory")]
    UsageHistory {
        /// Their names; none for all.
        pods: Option<Vec<String>>,
        /// Those of this stack.
        stack: Option<String>,
        /// Not before this time, in milliseconds since the epoch; a week at most.
        since: u64,
    },
    /// Where a value comes from.
    #[serde(rename = "io.tank.Executor.Why")]
    Why {
        /// Its path, whole or short.
        field: String,
    },
    /// What tags stand for now.
    #[serde(rename = "io.tank.Executor.Resolve")]
    Resolve {
        /// The references.
        images: Vec<String>,
        /// `linux/ARCHITECTURE[/VARIANT]`: their manifests for that; none for what the tags stand for.
        platform: Option<String>,
    },
    /// Keeps a password for a registry that takes it.
    #[serde(rename = "io.tank.Executor.Login")]
    Login {
        /// `HOST` or `HOST:PORT`.
        registry: String,
        /// Who it is.
        user: String,
        /// What the registry knows the user by.
        password: Password,
    },
    /// Forgets what is kept for a registry.
    #[serde(rename = "io.tank.Executor.Logout")]
    Logout {
        /// `HOST` or `HOST:PORT`.
        registry: String,
    },
    /// Deletes generations.
    #[serde(rename = "io.tank.Executor.DeleteGenerations")]
    DeleteGenerations {
        /// Their numbers.
        numbers: Vec<u64>,
    },
    /// Keeps a generation from being deleted.
    #[serde(rename = "io.tank.Executor.PinGeneration")]
    PinGeneration {
        /// Its number.
        number: u64,
        /// False: that is taken back.
        pinned: bool,
    },
    /// Collects what no generation needs.
    #[serde(rename = "io.tank.Executor.Collect")]
    Collect {
        /// Say what would go, and do nothing.
        dry_run: Option<bool>,
        /// So many of the newest generations stay.
        keep: Option<u64>,
        /// Only generations that are older than this go, in milliseconds.
        older_than: Option<u64>,
    },
    /// Checks all that is kept.
    #[serde(rename = "io.tank.Executor.CheckStore")]
    CheckStore {
        /// Fetch again what of images is damaged.
        repair: Option<bool>,
    },
    /// A generation with its images as an archive.
    #[serde(rename = "io.tank.Executor.ExportGeneration")]
    ExportGeneration {
        /// Its number; none for the current one.
        number: Option<u64>,
    },
    /// Such an archive as the next generation.
    #[serde(rename = "io.tank.Executor.ImportGeneration")]
    ImportGeneration(ImportGenerationCall),
    /// Images as an archive that others load.
    #[serde(rename = "io.tank.Executor.SaveImages")]
    SaveImages {
        /// Their references.
        images: Vec<String>,
    },
    /// Every image of this host that something needs.
    #[serde(rename = "io.tank.Executor.Images")]
    Images {},
    /// One image.
    #[serde(rename = "io.tank.Executor.InspectImage")]
    InspectImage {
        /// A reference, or a digest or its begin.
        image: String,
    },
    /// Fetches an image, and keeps it.
    #[serde(rename = "io.tank.Executor.PullImage")]
    PullImage {
        /// A reference.
        image: String,
        /// `linux/ARCHITECTURE[/VARIANT]`; none for the host's own.
        platform: Option<String>,
    },
    /// Takes in the images of an archive, and keeps them.
    #[serde(rename = "io.tank.Executor.LoadImages")]
    LoadImages {
        /// What the one image is called; none as the archive says.
        name: Option<String>,
    },
    /// What a rollback would do.
    #[serde(rename = "io.tank.Executor.DiffRollback")]
    DiffRollback {
        /// As of a rollback.
        to: Option<u64>,
        /// As of a rollback.
        stack: Option<String>,
        /// As of a rollback.
        with_data: Option<bool>,
    },
    /// Keeps images no longer.
    #[serde(rename = "io.tank.Executor.RemoveImages")]
    RemoveImages {
        /// References, or digests or their begins.
        images: Vec<String>,
    },
    /// Makes a backup of a volume.
    #[serde(rename = "io.tank.Executor.BackUpVolume")]
    BackUpVolume {
        /// Its name, `pod/volume`.
        volume: String,
    },
    /// The backups that are declared.
    #[serde(rename = "io.tank.Executor.Backups")]
    Backups {
        /// And those that are there of volumes of which none is declared any more: their folders are read.
        former: Option<bool>,
    },
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Password(pub String);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// What [`Method::Diff`] takes: the configuration and, as [`SwitchCall`] has them, what the switch
/// would be made with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct DiffCall {
    /// Canonical configuration bytes; none for the current generation.
    pub config: Option<String>,
    /// The absolute folder that relative paths of the configuration are below.
    pub base_dir: Option<String>,
    /// As of [`SwitchCall`].
    pub source: Option<String>,
    /// As of [`SwitchCall`].
    pub merge: Option<bool>,
    /// As of [`SwitchCall`].
    pub files: Option<Vec<String>>,
    /// As of [`SwitchCall`].
    pub replace: Option<bool>,
    /// Reply with what the plan was made from, too.
    pub dump: Option<bool>,
    /// As of [`SwitchCall`].
    pub provenance: Option<String>,
    /// As of [`SwitchCall`].
    pub stacks: Option<Vec<StackSource>>,
    /// Reply with how far each layer is that is fetched, before the last reply.
    pub layers: Option<bool>,
}

/// What [`Method::Switch`] takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct SwitchCall {
    /// Canonical configuration bytes.
    pub config: String,
    /// The absolute folder that relative paths of the configuration are below.
    pub base_dir: Option<String>,
    /// What it was made from, for people.
    pub source: String,
    /// Replace only the pods that it names.
    pub merge: Option<bool>,
    /// Go back to the parent when the generation is not reached. It is so unless this is false.
    pub rollback: Option<bool>,
    /// How long to wait for health, in milliseconds.
    pub wait: Option<u64>,
    /// Carry out exactly the plan of this name, or nothing.
    pub plan: Option<String>,
    /// Which line set each field, as JSON.
    pub provenance: Option<String>,
    /// Say where the time went.
    pub timings: Option<bool>,
    /// The absolute paths of the files that were named: the source of the pods.
    pub files: Option<Vec<String>>,
    /// With `merge`: take pods that came from another source.
    pub replace: Option<bool>,
    /// The generation it was planned against: where another one is the current one by now, it is
    /// superseded. None: the one that is current when it begins.
    pub parent: Option<u64>,
    /// It is the whole host, and this is where the pods of each stack come from.
    pub stacks: Option<Vec<StackSource>>,
    /// The progress says how far each layer is that is fetched.
    pub layers: Option<bool>,
}

/// Where the pods of one stack come from.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct StackSource {
    /// None: those that belong to no stack.
    pub stack: Option<String>,
    /// The absolute folder that relative paths of their configuration are below.
    pub base_dir: String,
    /// The absolute paths of the files that were named.
    pub files: Vec<String>,
}

/// What [`Method::RemoveVolumes`] takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct RemoveVolumesCall {
    /// Their names, `pod/volume`.
    pub volumes: Option<Vec<String>>,
    /// All that no generation declares.
    pub orphans: Option<bool>,
    /// Remove nothing.
    pub dry_run: Option<bool>,
    /// Nothing but what they were before the last import.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced: Option<bool>,
}

/// What [`Method::Exec`] takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct ExecCall {
    /// The pod's name.
    pub pod: String,
    /// The container's name; none if the pod has only one.
    pub container: Option<String>,
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Added to the main process's environment.
    pub env: BTreeMap<String, String>,
    /// An absolute working directory; none for the main process's own.
    pub cwd: Option<String>,
    /// `user[:group]`, names of the image or numbers; none for the main process's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The terminal's height; none for no terminal.
    pub rows: Option<u16>,
    /// The terminal's width.
    pub columns: Option<u16>,
}
