//! Why a volume can't be had.

use std::io;
use tank_model::units::Bytes;

/// Why a volume can't be had.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Kernel(#[from] tank_sys::Error),
    #[error(transparent)]
    Content(#[from] tank_image::Error),
    #[error(transparent)]
    SubPath(#[from] SubPathError),
    /// Of an image, for a size in bytes.
    #[error("what the image has there takes more than its `size` of {}, or the disk is full", Bytes(*.0))]
    TooLarge(u64),
    #[error(
        "its file system is not mounted with project quotas, which hold it to its `size` (`tank doctor`)"
    )]
    NoQuotas,
    #[error("nothing was replaced of it, or what was is removed")]
    NothingReplaced,
    #[error("it is being imported by somebody else, or what an import left is being removed")]
    Importing,
    #[error("no snapshot of it is kept with generation {0}")]
    NoSnapshot(u64),
}

/// Why a directory inside of a volume can't be had.
#[derive(Debug, thiserror::Error)]
pub enum SubPathError {
    #[error("its `{0}` is a link, and none is followed")]
    Link(String),
    #[error("its `{0}` is no directory")]
    NoDirectory(String),
    #[error("it has no `{0}`")]
    Missing(String),
    #[error("its `{0}` is another file system")]
    Elsewhere(String),
    #[error("open its `{path}`")]
    Open { path: String, source: io::Error },
}
