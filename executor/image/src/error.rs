//! Why an image can't be had. [`Display`](std::fmt::Display) of an [`Error`] says what was attempted and not why: that is
//! its source's to say. [`Error::message`] joins them for people, [`Error::help`] says what to do about it.

use crate::{CredentialError, MAX_LAYERS, registry};
use std::{io, path::PathBuf};
use tank_layer::{LayerError, budget};
use tank_model::{Digest, digest::DigestError};

/// Why an image can't be had. Code matches on the variants; only people read the texts.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call of the kernel failed: what was attempted, and the errno.
    #[error("can't {0}")]
    Io(String, #[source] io::Error),
    /// A document is no JSON of its kind (OCI image specification, "Image Manifest", "Image Index",
    /// "Image Configuration", "Image Layout").
    #[error("can't {0}")]
    Document(String, #[source] serde_json::Error),
    /// A text that stands where a digest does is none of SHA-256.
    #[error("can't use the digest {0}")]
    Digest(String, #[source] DigestError),
    /// A folder is named without the file it is relative to.
    #[error("`{}` is relative to nothing", .0.display())]
    Relative(PathBuf),
    /// A layout's tag was pinned to `pinned`, and names `found` now.
    #[error("it is {found} by now and not {pinned}")]
    Repinned {
        /// What the reference says.
        pinned: Digest,
        /// What the layout says.
        found: Digest,
    },
    /// The reference names no registry.
    #[error("only images of a registry have a tag to resolve")]
    NoRegistry,
    /// An index names an index, which would go on for ever.
    #[error("the index names another index")]
    NestedIndex,
    /// An index has no manifest for a platform; those it has, as `os/architecture/variant`.
    #[error("it has nothing for {0}, only for {known}", known = some_of(.1))]
    NoPlatform(String, Vec<String>),
    /// An image is for machines of another kind.
    #[error("it is for {platform}, and this host is {}", crate::Platform::host())]
    Foreign {
        /// What it is for: `os/architecture`.
        platform: String,
    },
    /// A manifest and its configuration have not the same layers, or too many.
    #[error("the manifest has {layers} layers, its configuration {ids} (1 to {MAX_LAYERS})")]
    LayerCount {
        /// Layers of the manifest.
        layers: usize,
        /// Digests of the configuration (`rootfs.diff_ids`).
        ids: usize,
    },
    /// The layer with this digest can't be used.
    #[error("layer {0}")]
    Layer(Digest, #[source] Box<Error>),
    /// A layer of an image is not on this host; the digest of its uncompressed bytes.
    #[error("layer {0} is not on this host")]
    NoLayer(Digest),
    /// No generation names it, or it is not here any more.
    #[error("it is not on this host")]
    Unsaved,
    /// A layer that a version before this one made; the digest of its uncompressed bytes.
    #[error("layer {0} was made by a version of Tank that kept no recipe of its archive")]
    NoRecipe(Digest),
    /// The archive of a layer can't be written again as it was.
    #[error("layer {0} is damaged")]
    Damaged(Digest, #[source] Box<Error>),
    /// Bytes are no archive that Tank writes; what of it is wrong.
    #[error("it is no archive as Tank writes it, or damaged: {0}")]
    Packed(String),
    /// They are compressed; with what.
    #[error("it is compressed with {0}")]
    PackedWith(&'static str),
    /// A file of such an archive can't be used.
    #[error("`{0}`")]
    Member(String, #[source] Box<Error>),
    /// A blob is said to have more bytes than Tank takes.
    #[error("blob {digest} has {size} bytes, the limit is {limit}")]
    TooLarge {
        /// The blob.
        digest: Digest,
        /// The bytes its descriptor says.
        size: u64,
        /// The most bytes of its kind.
        limit: u64,
    },
    /// A blob is not what its digest says.
    #[error("blob {expected} has the digest {actual}")]
    Mismatch {
        /// The digest it was asked for by.
        expected: Digest,
        /// The digest of its bytes.
        actual: Digest,
    },
    /// What the image may take of this host is taken.
    #[error(transparent)]
    Budget(#[from] budget::Refusal),
    /// A registry can't be asked.
    #[error("can't speak to {0}")]
    Client(String, #[source] reqwest::Error),
    /// A registry has no such image.
    #[error("{registry} has no {kind} `{wanted}` of `{repository}`")]
    NoManifest {
        /// The registry's name, with its port.
        registry: String,
        /// `tag` or `digest`.
        kind: &'static str,
        /// The tag or the digest.
        wanted: String,
        /// The repository's name.
        repository: String,
    },
    /// The image is not here after so many hours.
    #[error("it is not here after {0} hours")]
    LatePull(u64),
    /// The registry is not to be asked, and the image is not here.
    #[error("it is not on this host, and `pull = 'never`")]
    NotHere,
    /// A registry lets only users it knows have an image.
    #[error("{registry} does not let {} pull `{repository}`", user.as_ref().map_or("anonymous users".to_owned(), |user| format!("`{user}`")))]
    Denied {
        /// The registry's name, with its port.
        registry: String,
        /// The repository's name.
        repository: String,
        /// As whom it was asked, if not as nobody.
        user: Option<String>,
    },
    /// A registry does not take who wants to log in.
    #[error("{registry} does not know `{user}` with this password")]
    NoLogin {
        /// The registry's name, with its port.
        registry: String,
        /// Who it was.
        user: String,
    },
    /// A text is no registry's name.
    #[error("`{0}` is no registry")]
    NoSuchRegistry(String),
    /// The host is set up to pull nothing of this registry.
    #[error("{0} is blocked in tank.toml")]
    Blocked(String),
    /// Credentials can't be had, or kept.
    #[error(transparent)]
    Credentials(#[from] CredentialError),
    /// Nobody answers as the registry, or not in time.
    #[error("can't reach {0}")]
    Unreachable(String, #[source] registry::HttpError),
    /// Nobody answers as the registry, which is asked by a proxy.
    #[error("can't reach {registry} by the proxy {proxy}")]
    NoProxy {
        /// The registry's name, with its port.
        registry: String,
        /// The proxy, without a password.
        proxy: String,
        /// Why.
        #[source]
        source: registry::HttpError,
    },
    /// Neither a registry nor its mirrors give an image.
    #[error("{registry}; its mirrors: {}", mirrors.join("; "))]
    Nowhere {
        /// What the registry itself says.
        registry: Box<Error>,
        /// What each mirror says.
        mirrors: Vec<String>,
    },
    /// A registry answers with something else than what was asked for.
    #[error("{0}")]
    Registry(String, #[source] registry::HttpError),
    /// A registry sends a blob badly.
    #[error(transparent)]
    Blob(#[from] registry::BlobError),
    /// A folder is no OCI image layout.
    #[error("{} is no OCI image layout", .0.display())]
    NoLayout(PathBuf),
    /// A layout has no such tag; those it has are `known`.
    #[error("{} has no tag `{tag}`", dir.display())]
    NoTag {
        /// The layout's folder.
        dir: PathBuf,
        /// The tag that was asked for.
        tag: String,
        /// The tags there are.
        known: Vec<String>,
    },
    /// An archive is no image that Docker or Podman saved.
    #[error("{} has no manifest.json: it is no image that `docker save` wrote", .0.display())]
    NotSaved(PathBuf),
    /// An archive has no such image; those it has are `known`.
    #[error("{} has {}", path.display(), name.as_ref().map_or("not one image alone".to_owned(), |name| format!("no image `{name}`")))]
    NoSuchName {
        /// The archive.
        path: PathBuf,
        /// The image that was asked for.
        name: Option<String>,
        /// The names there are.
        known: Vec<String>,
    },
    /// An archive lacks a file that its documents name.
    #[error("{} has no file `{name}`", path.display())]
    NoMember {
        /// The archive.
        path: PathBuf,
        /// The file.
        name: String,
    },
    /// An archive is compressed: no file of it can be read at its place.
    #[error("{} is compressed", .0.display())]
    CompressedArchive(PathBuf),
    /// A manifest can't be made.
    #[error("can't make the image's manifest")]
    Made(#[source] oci_spec::OciSpecError),
    /// A folder, a FIFO or a device stands where a file has to.
    #[error("{} is no file", .0.display())]
    NoFile(PathBuf),
    /// A file of a layout is longer than a document may be.
    #[error("{} has more than {most} bytes", path.display())]
    LongDocument {
        /// The file.
        path: PathBuf,
        /// The most bytes of it.
        most: u64,
    },
    /// Nobody takes what comes of a blob.
    #[error("can't pass a blob on")]
    Intake(#[source] io::Error),
    /// What is in a layer.
    #[error(transparent)]
    Content(#[from] LayerError),
    /// The process that converts layers can't be had.
    #[error("can't convert a layer")]
    Convert(#[source] tank_sys::Error),
    /// The process that converts layers has ended, or was killed, without an answer.
    #[error("the process that converts layers has ended without an answer")]
    Converter,
    /// Too many images are kept by hand.
    #[error("{0} images are kept by hand, and no more can be")]
    ManyByHand(usize),
    /// An archive has no image, or too many.
    #[error("the archive has {count} images, and 1 to {most} can be loaded")]
    ImageCount {
        /// How many it has.
        count: usize,
        /// The most that are taken.
        most: usize,
    },
    /// An archive is neither what Docker saves nor an OCI image layout.
    #[error("{} has neither manifest.json nor oci-layout: it is no archive of images", .0.display())]
    NoImages(PathBuf),
    /// What an archive calls an image can't be a name of one.
    #[error("can't name the image: {0}")]
    Name(String),
    /// A folder is no image, or changed while it was read.
    #[error("can't take {} as an image", crate::http::shown(.0))]
    Tree(String, #[source] crate::TreeError),
    /// A closure of Nix can't be had.
    #[error("can't take {0} with what it refers to")]
    Nix(String, #[source] crate::NixError),
    /// An image's layers can't be mounted to be read.
    #[error("can't look into the image")]
    Mount(#[source] tank_sys::Error),
}

impl Error {
    /// What to do about it, where that is known: a line for people.
    // long: it has an arm for each error
    pub fn help(&self) -> Option<String> {
        let help = match self {
            Self::Relative(_) => "use an absolute path, or switch from a file",
            Self::Mismatch { .. } => {
                "it was changed on the way or in the registry; nothing of it was used"
            }
            Self::NoManifest { .. } => {
                "look at the name and the tag: is it spelt right, and has it been pushed?"
            }
            Self::Unreachable(registry, error) | Self::Registry(registry, error)
                if error.is_no_tls() =>
            {
                return Some(format!(
                    "if it speaks no TLS: `registries.\"{registry}\".insecure = true` in tank.toml"
                ));
            }
            Self::Registry(..) => return None,
            Self::Unreachable(registry, _) => {
                return Some(format!(
                    "is a registry running at `{registry}`, and can this host reach it?"
                ));
            }
            Self::NoProxy { .. } => {
                "does the proxy answer, and does it let this host reach the registry?"
            }
            Self::Nowhere { registry, .. } => return registry.help(),
            Self::NoRecipe(_) | Self::Damaged(..) => "`tank fsck --repair` fetches it again",
            Self::PackedWith(program) => {
                return Some(format!(
                    "unpack it on the way: `{program} -dc FILE | tank generations import -`"
                ));
            }
            Self::Unsaved => "`tank image list` shows the images that are here",
            Self::NotHere => {
                "`tank image pull` fetches it, and `tank image load` takes it from an archive; `pull = 'missing` fetches it once"
            }
            Self::Denied {
                registry,
                user: Some(_),
                ..
            } => {
                return Some(format!(
                    "if that user may have it, the password is no longer right: `tank login {registry}`"
                ));
            }
            Self::Denied { registry, .. } => {
                return Some(format!(
                    "is the name right? if the image is private: `tank login {registry}`"
                ));
            }
            Self::NoSuchRegistry(_) => "write HOST or HOST:PORT, as images of it begin",
            Self::Blocked(_) => {
                "use an image of a registry that is not, or change `registries` in tank.toml"
            }
            Self::Blob(error) => return error.help().map(str::to_owned),
            Self::Foreign { .. } => {
                "use a tag that has this host's platform; programs of another one run where an emulator is registered with the flag F (Debian: `qemu-user-static`)"
            }
            Self::ManyByHand(_) => "`tank image remove` lets them go",
            Self::NoImages(_) => {
                "`docker save`, `podman save` and `skopeo copy … oci-archive:FILE` write one; of a root directory's own archive, unpack it and use `dir:`"
            }
            Self::Tree(_, error) => return error.help().map(str::to_owned),
            Self::Nix(_, error) => return error.help().map(str::to_owned),
            Self::NoLayout(_) => {
                "`oci:` is a folder that `skopeo copy … oci:PATH:TAG` or `umoci` make, and `oci-archive:` a tar archive of one; what `docker save` writes is `docker-archive:`"
            }
            Self::NoFile(_) => {
                "an archive is a file; an OCI image layout in a folder is `oci:PATH`"
            }
            Self::NotSaved(_) => {
                "`docker save -o FILE IMAGE` writes one; of an OCI image layout in an archive: `oci-archive:FILE`"
            }
            Self::CompressedArchive(_) => {
                "decompress it first: `gunzip`, `unxz`, `unzstd` or `bunzip2`"
            }
            Self::NoSuchName { known, .. } if known.is_empty() => {
                "its images have no names: save one image alone, and name none"
            }
            Self::NoSuchName { known, .. } => {
                return Some(format!(
                    "it has {}: write one behind the path, `docker-archive:PATH:NAME`",
                    some_of(known)
                ));
            }
            Self::NoTag { known, .. } if known.is_empty() => "it has none",
            Self::NoTag { known, .. } => return Some(format!("it has {}", some_of(known))),
            _ => return None,
        };
        Some(help.to_owned())
    }

    /// The same, of an archive that somebody sends: no path and no configuration is behind it.
    pub fn help_of_sent(&self) -> Option<String> {
        let help = match self {
            Self::CompressedArchive(_) => {
                "decompress it on the way: `zstd -dc FILE | tank image load`, or `gunzip -c`, `xz -dc`, `bzip2 -dc`"
            }
            Self::NoImages(_) => {
                "`docker save`, `podman save` and `skopeo copy … oci-archive:FILE` write one; of a folder with an OCI image layout: `tar -C FOLDER -c . | tank image load`"
            }
            _ => return self.help(),
        };
        Some(help.to_owned())
    }

    /// Whether the registry is why, and asking none would do: it can't be reached.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Unreachable(..) | Self::NoProxy { .. } => true,
            Self::Nowhere { registry, .. } => registry.is_unreachable(),
            _ => false,
        }
    }

    /// Whether the disk is why: there is no space for it, or none that is not kept for the store.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Layer(_, source) | Self::Member(_, source) => source.is_no_space(),
            Self::Budget(refusal) => refusal.is_no_space(),
            Self::Io(_, error) | Self::Intake(error) => error.kind() == io::ErrorKind::StorageFull,
            Self::Content(error) => error.is_no_space(),
            _ => false,
        }
    }

    /// What was attempted and why it failed, as one line for people: this error and its sources,
    /// joined with `: `.
    pub fn message(&self) -> String {
        let sources =
            std::iter::successors(std::error::Error::source(self), |error| error.source());
        let mut message = self.to_string();
        for source in sources {
            message.push_str(": ");
            message.push_str(&source.to_string());
        }
        // It may quote a document of megabytes.
        if let Some((end, _)) = message.char_indices().nth(MAX_MESSAGE) {
            message.truncate(end);
            message.push('…');
        }
        message
    }
}

/// The longest message, in characters.
const MAX_MESSAGE: usize = 2_000;

/// Names that an image has, as many as a line can have.
fn some_of(names: &[String]) -> String {
    let shown = names.iter().take(10).map(|name| crate::http::shown(name));
    let mut shown: Vec<String> = shown.collect();
    if names.len() > shown.len() {
        shown.push(format!("and {} more", names.len() - shown.len()));
    }
    shown.join(", ")
}

/// Says what was attempted, lazily, since nearly nothing fails.
pub(crate) trait Attempt<T> {
    /// # Errors
    /// The same, with what was attempted.
    fn attempt(self, doing: impl FnOnce() -> String) -> Result<T, Error>;
}

impl<T, E: Into<io::Error>> Attempt<T> for Result<T, E> {
    fn attempt(self, doing: impl FnOnce() -> String) -> Result<T, Error> {
        self.map_err(|error| Error::Io(doing(), error.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tank_layer::EntryError;

    #[test]
    fn a_message_has_every_source_once() {
        let digest = Digest::of(b"layer");
        let no_target = EntryError::NoTarget("sh".into());
        let entry = Error::from(LayerError::Entry("bin/sh2".into(), no_target));
        let message = Error::Layer(digest, Box::new(entry)).message();
        let expected =
            format!("layer {digest}: can't unpack `bin/sh2`: its image has no `sh` to link to");
        assert_eq!(message, expected);
        let missing = Error::Io("read x".into(), io::ErrorKind::NotFound.into());
        assert_eq!(missing.message(), "can't read x: entity not found");
        let refusal = Error::from(budget::Refusal::Cancelled);
        assert_eq!(refusal.message(), "nobody waits for it any more");
    }

    #[test]
    fn an_io_error_that_carries_a_type_says_its_text_once() {
        let carried = io::Error::from(budget::Refusal::Entries);
        let top = Error::from(LayerError::Entry(
            "".into(),
            io::Error::from(budget::Refusal::Entries).into(),
        ));
        assert_eq!(
            top.message(),
            "can't unpack its top directory: it has more than 1000000 entries"
        );
        let entry = Error::from(LayerError::Entry("f".into(), carried.into()));
        let expected = "can't unpack `f`: it has more than 1000000 entries";
        assert_eq!(entry.message(), expected);
    }
}
