//! Files into and out of containers, and what takes the disk.

use serde::{Deserialize, Serialize};

/// What [`super::Method::CopyOut`] takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct CopyOutCall {
    /// The pod's name.
    pub pod: String,
    /// The container's name; none if the pod has only one.
    pub container: Option<String>,
    /// From the container's `/`.
    pub path: String,
    /// What it is called in the stream; `.`: only what is in the folder.
    pub name: String,
    /// A link is what it leads to.
    pub follow: Option<bool>,
}

/// What [`super::Method::CopyIn`] takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct CopyInCall {
    /// The pod's name.
    pub pod: String,
    /// The container's name; none if the pod has only one.
    pub container: Option<String>,
    /// From the container's `/`.
    pub path: String,
    /// It is anybody's archive, and goes into a folder that is there.
    pub archive: Option<bool>,
    /// Files belong to whom the stream says, and not to root.
    pub ids: Option<bool>,
}

/// The answer to [`super::Method::CopyOut`] and [`super::Method::CopyIn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct CopyReply {
    /// The container that it is.
    pub container: String,
}

/// Something that takes the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::CustomType))]
pub struct DiskPart {
    /// `layers`, `documents`, `logs`, `scratch`, `figures`, `generations`, `volumes`, `snapshots`, `replaced`: an open set of words.
    pub kind: String,
    /// How many.
    pub count: u64,
    /// Bytes of the disk; none where others share them.
    pub bytes: Option<u64>,
    /// There is too much of it to be measured: it is that at least.
    pub at_least: bool,
    /// The bytes that a collection would free now.
    pub freed: u64,
}

/// The answer to [`super::Method::DiskUsage`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(zlink::introspect::Type))]
pub struct DiskUsageReply {
    /// By what it is.
    pub parts: Vec<DiskPart>,
    /// Bytes of the file system with the state folder.
    pub total: u64,
    /// Those of them that are free.
    pub free: u64,
    /// What would free some of it, a sentence each.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<Vec<String>>,
}
