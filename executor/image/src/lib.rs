//! Images: from a reference to layers on disk.
//!
//! Under the store's folder: `blobs/sha256/HEX` holds manifests, indexes and configurations as they
//! came, `layers/HEX.erofs` each layer as one file with an EROFS image, under the digest of the layer's uncompressed
//! bytes, or, where it has something of the layers below it, under the digest of them all (its chain id:
//! OCI image specification, "layer ChainID"). A folder `layers/HEX` is one that a version before this
//! one unpacked; it is used as it is. Everything is verified before it is named: a document against its
//! digest before a byte of it is parsed, a layer against its digest and the image configuration while it is
//! converted. What is half done has a temporary name, and goes when it fails, when whoever asked for
//! it has left, or at the start.
//!
//! An image is hostile, from the first byte of an answer to the last entry of a layer: everything
//! is counted while it is read, and layers are read by a process that owns nothing (`tank-layer`).
//!
//! | module | what it has |
//! |---|---|
//! | `store` | [`Images`]: pulling, keeping and finding |
//! | `document` | manifests, indexes and configurations |
//! | `registry` | the distribution protocol, over `http` |
//! | `layout` | OCI image layouts on disk |
//! | `intake` | a blob on its way: counted and hashed |
//! | `converter` | the process that makes an image of a layer |
//! | `mounts` | [`Mounts`]: layers, mounted once for all |
//! | `turns` | what several want is fetched once |
//! | `config` | [`ImageConfig`]: how an image says it is run, with its users |
//! | `contents`, `copy` | what an image has at a path, as files of the host |
//! | `export` | a tree that somebody writes to, as an archive |
//! | `error` | [`Error`] |
//!
//! It imports Tank's model, what converts layers (`tank-layer`) and the kernel (`tank-sys`), and knows
//! no pods and no generations. [`Images`] may be used from any number of threads; a layer that several
//! pulls want is fetched once.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod config;
mod contents;
mod converter;
mod copy;
mod document;
mod error;
mod export;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod intake;
mod layout;
mod mounts;
mod registry;
mod store;
mod turns;

pub use config::ImageConfig;
pub use converter::Converter;
pub use error::Error;
pub use export::{Tally, export};
pub use mounts::{Layer, Mounts};
pub use registry::{BlobError, HttpError};
pub use store::{Image, Images};
pub use tank_layer::{
    EntryError, LayerError,
    budget::{Budget, Refusal, Share},
};

/// The most bytes of a manifest, an index or a configuration.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most bytes of a compressed layer: 16 GiB.
pub const MAX_LAYER: u64 = 16 << 30;

/// The most layers of an image. Overlay takes 500 (`OVL_MAX_STACK`), of which Tank adds one.
pub const MAX_LAYERS: usize = 256;
