//! Images: from a reference to layers on disk.
//!
//! Under the store's folder: `blobs/sha256/HEX` holds manifests, indexes and configurations as they
//! came, `layers/HEX.erofs` each layer as one file with an EROFS image, under the digest of the layer's uncompressed
//! bytes (with the digest of that file in `layers/HEX.sum`), or, where it has something of the layers below it, under the digest of them all (its chain id:
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
//! | `store/pins` | what pulls hold, so that no collection takes it from them |
//! | `store/gc` | collecting what no image needs that is named |
//! | `store/sums` | the digest of each layer's file |
//! | `store/recipes` | what else it takes to write a layer's tar again |
//! | `store/carry` | images that leave this host or come to it as a whole |
//! | `store/fsck` | checking all of it, and fetching again what is damaged |
//! | `store/by_hand` | images that are kept until somebody lets them go |
//! | `store/describe` | what an image is, and what it takes |
//! | `document` | manifests, indexes and configurations |
//! | `platform` | for which machines an image is |
//! | `registries` | [`Registries`]: which hosts are asked, and how |
//! | `credentials` | as whom they are asked |
//! | `registry` | the distribution protocol, over `http` |
//! | `guard` | where a registry may lead |
//! | `local` | images on this host, by `layout` and `saved`: OCI image layouts, and what `docker save` writes |
//! | `trees` | folders of this host, and closures of Nix, as images |
//! | `load` | archives that somebody sends |
//! | `files` | their files: of a folder, or members of an archive |
//! | `intake` | a blob on its way: counted and hashed |
//! | `progress` | [`LayerProgress`]: how far it is |
//! | `converter` | the process that makes an image of a layer |
//! | `mounts` | [`Mounts`]: layers, mounted once for all |
//! | `turns` | what several want is fetched once |
//! | `config` | [`ImageConfig`]: how an image says it is run, with its users |
//! | `contents`, `copy` | what an image has at a path, as files of the host |
//! | `clone` | a volume's tree whose files share their bytes with it; `pairs`: two trees that are gone down together |
//! | `attributes` | extended attributes of files |
//! | `save` | [`Save`]: images as others load them |
//! | `packed` | [`Packer`], [`Unpacker`]: archives of Tank's own |
//! | `export` | a tree that somebody writes to, as an archive |
//! | `error` | [`Error`] |
//!
//! It imports Tank's model, what converts layers (`tank-layer`) and the kernel (`tank-sys`), and knows
//! no pods and no generations. [`Images`] may be used from any number of threads; a layer that several
//! pulls want is fetched once.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod attributes;
mod clone;
mod config;
mod contents;
mod converter;
mod copy;
mod credentials;
mod document;
mod error;
mod export;
mod files;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod guard;
mod http;
mod intake;
mod layout;
mod load;
mod local;
mod mounts;
mod pace;
mod packed;
mod pairs;
mod platform;
mod progress;
mod registries;
mod registry;
mod save;
mod saved;
mod store;
mod trees;
mod turns;

pub use clone::clone_tree;
pub use config::ImageConfig;
pub use converter::Converter;
pub use credentials::CredentialError;
pub use error::Error;
pub use export::{Exported, export};
pub use load::{Loaded, registry_name};
pub use mounts::{Layer, Mounts};
pub use pace::Pace;
pub use packed::{Packer, Unpacker};
pub use platform::Platform;
pub use progress::{LayerProgress, Watch};
pub use registries::{LoggedIn, LoggedOut, Mirror, Proxy, Registries, Rules};
pub use registry::{BlobError, HttpError};
pub use save::Save;
pub use store::{
    ByHand, Carried, Collection, Contents, Described, DescribedLayer, Image, Images, Part, Sweep,
    Swept, Taken, Tally, Verdict, folder_bytes,
};
pub use tank_layer::{
    EntryError, LayerError,
    budget::{Budget, Refusal, Share},
};
pub use trees::{NixError, TreeError};

/// The most bytes of a manifest, an index or a configuration.
pub const MAX_DOCUMENT: u64 = 4 << 20;

/// The most bytes of a compressed layer: 16 GiB.
pub const MAX_LAYER: u64 = 16 << 30;

/// The most layers of an image. Overlay takes 500 (`OVL_MAX_STACK`), of which Tank adds one.
pub const MAX_LAYERS: usize = 256;
