//! Images: from a reference to layers on disk.
//!
//! Under the store's folder: `blobs/sha256/HEX` holds manifests, indexes and configurations as they
//! came, `layers/HEX` each unpacked layer under the digest of its uncompressed bytes, or, where it
//! has something of the layers below it, under the digest of them all (its chain id: OCI image
//! specification, "layer ChainID"). Everything is verified before it is named: a blob against its
//! digest before a byte of it is parsed, a layer against the image configuration while it is
//! unpacked. What is half done has a temporary name, and goes when it fails, when whoever asked for
//! it has left, or at the start.
//!
//! An image is hostile, from the first byte of an answer to the last entry of a layer: everything
//! is counted while it is read.
//!
//! | module | what it has |
//! |---|---|
//! | `store` | [`Images`]: pulling, keeping and finding |
//! | `document` | manifests, indexes and configurations |
//! | `registry` | the distribution protocol, over `http` |
//! | `layout` | OCI image layouts on disk |
//! | `unpack` | layers, by `archive` (the tar), `tree` (the directory) and `links` |
//! | `config` | [`ImageConfig`]: how an image says it is run, with its users |
//! | `budget` | what one image may take of this host |
//! | `error` | [`Error`] |
//!
//! It imports Tank's model and the kernel (`tank-sys`), and knows no pods and no generations.
//! [`Images`] may be used from any number of threads; two pulls of one image do the work twice and
//! keep it once.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod archive;
mod budget;
mod config;
mod document;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod http;
mod layout;
mod links;
mod registry;
mod spool;
mod store;
mod tree;
mod unpack;

pub use budget::Refusal;
pub use config::ImageConfig;
pub use error::Error;
pub use registry::{BlobError, HttpError};
pub use store::{Image, Images};
pub use tree::EntryError;

/// The most bytes of a manifest, an index or a configuration.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most bytes of a compressed layer: 16 GiB.
pub const MAX_LAYER: u64 = 16 << 30;

/// The most layers of an image. Overlay takes 500 (`OVL_MAX_STACK`), of which Tank adds one.
pub const MAX_LAYERS: usize = 256;
