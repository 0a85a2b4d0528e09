//! Image references: which bytes a container runs.
//!
//! Transports, named as skopeo names them:
//!
//! | written | what it is |
//! |---|---|
//! | `nginx:1.27`, `ghcr.io/a/b@sha256:…` | an image of a registry: the default |
//! | `oci:PATH[:TAG]` | an OCI image layout: a folder |
//! | `oci-archive:PATH[:TAG]` | the same in a tar archive |
//! | `docker-archive:PATH[:NAME]` | what `docker save` writes |
//! | `dir:PATH` | a folder that is the root directory (skopeo's `dir:` is another format) |
//! | `nix:/nix/store/HASH-NAME` | a store path of Nix, with all that it refers to |
//!
//! Each but the first may be pinned with `@sha256:…` behind it. Defaults are the ones container users know: the registry
//! `docker.io`, its `library/` for one-word names, the tag `latest`.

use crate::digest::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Docker's own registry, as its users name it.
pub const DOCKER_HUB: &str = "docker.io";

/// The one name of a registry: in lower case, without a dot at its end. Docker's own has four.
pub fn canonical_registry(host: &str) -> String {
    let lower = host.to_ascii_lowercase();
    let (name, port) = lower
        .split_once(':')
        .map_or((lower.as_str(), None), |(name, port)| (name, Some(port)));
    let name = name.strip_suffix('.').unwrap_or(name);
    match (name, port) {
        (
            "index.docker.io" | "registry-1.docker.io" | "registry.hub.docker.com" | DOCKER_HUB,
            None | Some("443"),
        ) => DOCKER_HUB.to_owned(),
        (name, None) => name.to_owned(),
        (name, Some(port)) => format!("{name}:{port}"),
    }
}

/// A checked image reference. Its canonical bytes are the text the user wrote.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Reference {
    text: String,
    source: ImageSource,
    digest: Option<Digest>,
}

/// Where an image comes from.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ImageSource {
    /// An image of a registry.
    Registry {
        /// Host and optional port.
        registry: String,
        /// The path within the registry, `library/nginx`.
        repository: String,
        /// After the `:`.
        tag: Option<String>,
        /// After the `@`; it wins over the tag.
        digest: Option<Digest>,
    },
    /// An OCI image layout. The path is as written; one that is relative counts from the
    /// configuration's folder.
    Layout {
        /// The folder of the layout.
        path: String,
        /// The `org.opencontainers.image.ref.name` of an entry of its index.
        tag: String,
    },
    /// A tar archive with images. The path is as that of a layout.
    Archive {
        /// The file.
        path: String,
        /// What is in it.
        format: ArchiveFormat,
        /// Which image of it is meant: in an OCI layout a tag, in what Docker saved a name with its
        /// tag. Without one, there is one image in it.
        name: Option<String>,
    },
    /// A folder that is the root directory. The path is as that of a layout.
    Folder {
        /// The folder.
        path: String,
    },
    /// A store path of Nix, with all that it refers to.
    Closure {
        /// `/nix/store/HASH-NAME`.
        path: String,
    },
}

impl ImageSource {
    /// Where on this host the image is, if it comes from there.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Registry { .. } => None,
            Self::Layout { path, .. }
            | Self::Archive { path, .. }
            | Self::Folder { path }
            | Self::Closure { path } => Some(path),
        }
    }
}

/// What is in an archive with images.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ArchiveFormat {
    /// An OCI image layout.
    Oci,
    /// What `docker save` writes.
    Docker,
}

/// What is written in place of a path alone.
const A_PATH: &str = "an archive is written `docker-archive:PATH` or `oci-archive:PATH`, a folder with an OCI image layout `oci:PATH`, and one that is the root directory `dir:PATH`";

/// Texts before a `:` that mean something elsewhere, and what to write here.
const ELSEWHERE: [(&str, &str); 7] = [
    ("file:", A_PATH),
    ("tarball:", A_PATH),
    (
        "docker://",
        "an image of a registry is written without `docker://`",
    ),
    (
        "docker-daemon:",
        "Tank does not ask Docker: `docker save -o app.tar IMAGE`, and `docker-archive:app.tar`",
    ),
    (
        "containers-storage:",
        "Tank does not ask Podman: `podman save -o app.tar IMAGE`, and `docker-archive:app.tar`",
    ),
    (
        "https://",
        "an image of a registry is written without `https://`",
    ),
    (
        "http://",
        "an image of a registry is written without `http://`; `registries` in tank.toml says which have no TLS",
    ),
];

/// Why a text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no image reference: {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl Reference {
    /// Where its bytes come from.
    pub fn source(&self) -> &ImageSource {
        &self.source
    }

    /// The digest the user pinned, if any.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same image, pinned to what it was resolved to.
    ///
    /// # Errors
    /// When the reference gets too long.
    pub fn pinned(&self, digest: Digest) -> Result<Self, ReferenceError> {
        let name = if self.digest.is_some() {
            self.text.rsplit_once('@').map(|(name, _)| name)
        } else {
            None
        };
        format!("{}@{digest}", name.unwrap_or(&self.text)).parse()
    }

    /// The same without the digest that pins it. None: it has nothing else.
    pub fn unpinned(&self) -> Option<Self> {
        match self.digest {
            None => Some(self.clone()),
            Some(_) => self.text.rsplit_once('@')?.0.parse().ok(),
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Where an image comes from, and the digest that it is pinned to.
type Parsed = (ImageSource, Option<Digest>);

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let elsewhere = ELSEWHERE.iter().find(|(start, _)| text.starts_with(start));
        let parsed = match text.split_once(':') {
            _ if text.len() > 512 => Err("more than 512 characters"),
            _ if let Some((_, why)) = elsewhere => Err(*why),
            Some(("oci", rest)) => parse_layout(rest),
            Some(("oci-archive", rest)) => parse_archive(rest, ArchiveFormat::Oci),
            Some(("docker-archive", rest)) => parse_archive(rest, ArchiveFormat::Docker),
            Some(("dir", rest)) => parse_folder(rest),
            Some(("nix", rest)) => parse_closure(rest),
            _ => parse_registry(text),
        };
        match parsed {
            Ok((source, digest)) => Ok(Self {
                text: text.to_owned(),
                source,
                digest,
            }),
            Err(why) => Err(ReferenceError {
                text: text.chars().take(80).collect(),
                why,
            }),
        }
    }
}

/// What is before the digest that pins it, and that. A path may hold an `@`; only what is a whole
/// digest pins.
fn split_digest(text: &str) -> (&str, Option<Digest>) {
    let pinned = text
        .rsplit_once('@')
        .and_then(|(rest, digest)| Some((rest, digest.parse::<Digest>().ok()?)));
    pinned.map_or((text, None), |(rest, digest)| (rest, Some(digest)))
}

/// As skopeo reads it: the path ends at the first `:`.
fn parse_archive(text: &str, format: ArchiveFormat) -> Result<Parsed, &'static str> {
    let (rest, digest) = split_digest(text);
    let (path, name) = rest
        .split_once(':')
        .map_or((rest, None), |(path, name)| (path, Some(name)));
    if path.is_empty() || path.contains('\0') {
        return Err("the path of the archive is missing");
    }
    match (format, name) {
        (_, None) => {}
        (ArchiveFormat::Oci, Some(tag)) => check_tag(tag)?,
        (ArchiveFormat::Docker, Some(name)) => drop(parse_registry(name)?),
    }
    let source = ImageSource::Archive {
        path: path.to_owned(),
        format,
        name: name.map(str::to_owned),
    };
    Ok((source, digest))
}

fn parse_layout(text: &str) -> Result<Parsed, &'static str> {
    let (rest, digest) = split_digest(text);
    let (path, tag) = match rest.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => (path, tag),
        _ => (rest, "latest"),
    };
    if path.is_empty() || path.contains('\0') {
        return Err("the path of the OCI layout is missing");
    }
    check_tag(tag)?;
    Ok((
        ImageSource::Layout {
            path: path.to_owned(),
            tag: tag.to_owned(),
        },
        digest,
    ))
}

fn parse_folder(text: &str) -> Result<Parsed, &'static str> {
    let (path, digest) = split_digest(text);
    if path.is_empty() || path.contains('\0') {
        return Err("the path of the folder is missing");
    }
    let path = path.to_owned();
    Ok((ImageSource::Folder { path }, digest))
}

fn parse_closure(text: &str) -> Result<Parsed, &'static str> {
    let (path, digest) = split_digest(text);
    let name = path.strip_prefix("/nix/store/");
    let name = name.ok_or("a store path is written `nix:/nix/store/HASH-NAME`; what a link such as `./result` leads to, `readlink -f` says")?;
    if name.contains('/') {
        return Err(
            "it is something in a store path: write the store path alone, `nix:/nix/store/HASH-NAME`, and the program in `command`",
        );
    }
    if !is_store_name(name) {
        return Err(
            "it is no store path: the name of one is a hash of 32 characters, `-`, and a name",
        );
    }
    let path = path.to_owned();
    Ok((ImageSource::Closure { path }, digest))
}

/// Whether a store path of Nix may be called so (the Nix manual, "store path"): a hash in base 32, which has no `e`, `o`, `u`
/// and `t`, and a name.
pub fn is_store_name(name: &str) -> bool {
    let Some((hash, rest)) = name.split_once('-') else {
        return false;
    };
    let in_hash = |b: u8| {
        b.is_ascii_digit() || (b.is_ascii_lowercase() && !matches!(b, b'e' | b'o' | b'u' | b't'))
    };
    let in_name = |b: u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(&b);
    let is_name = !rest.is_empty() && rest.len() <= 211 && rest.bytes().all(in_name);
    hash.len() == 32 && hash.bytes().all(in_hash) && is_name
}

fn parse_registry(text: &str) -> Result<Parsed, &'static str> {
    if text.starts_with(['.', '/', '~']) {
        return Err(A_PATH);
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (
            rest,
            Some(
                digest
                    .parse()
                    .map_err(|_| "the part after `@` is no `sha256:` digest")?,
            ),
        ),
        None => (text, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    // A first component is a host when it could not be one of a repository: it has a dot, a port,
    // or is `localhost`.
    let (registry, repository) = match name.split_once('/') {
        Some((host, path))
            if host.eq_ignore_ascii_case("localhost") || host.contains(['.', ':']) =>
        {
            (canonical_registry(host), path.to_owned())
        }
        _ => (DOCKER_HUB.to_owned(), name.to_owned()),
    };
    let repository = match registry == DOCKER_HUB && !repository.contains('/') {
        true => format!("library/{repository}"),
        false => repository,
    };
    check_registry(&registry)?;
    check_repository(&repository)?;
    let tag = match (tag, digest) {
        (Some(tag), _) => Some(tag.to_owned()),
        (None, Some(_)) => None,
        (None, None) => Some("latest".to_owned()),
    };
    let source = ImageSource::Registry {
        registry,
        repository,
        tag,
        digest,
    };
    Ok((source, digest))
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = registry
        .split_once(':')
        .map_or((registry, None), |(host, port)| (host, Some(port)));
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if host.is_empty() || !host.bytes().all(legal) {
        return Err("the registry is no host name");
    }
    // Other forms of an address are names to whom a rule for it would not apply.
    let last = host.rsplit('.').next().unwrap_or_default();
    let number = last.starts_with("0x") || last.bytes().all(|b| b.is_ascii_digit());
    if number && host.parse::<std::net::Ipv4Addr>().is_err() {
        return Err("the registry is no host name, nor an address with four parts");
    }
    match port.map(str::parse::<u16>) {
        Some(Err(_) | Ok(0)) => Err("the port of the registry is no port"),
        _ => Ok(()),
    }
}

/// A path component is `[a-z0-9]+([._-]+[a-z0-9]+)*` (distribution specification, "pulling
/// manifests").
fn check_repository(repository: &str) -> Result<(), &'static str> {
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let legal =
        |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-');
    for part in repository.split('/') {
        if part.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err("repository names are lower case");
        }
        if !part.bytes().all(legal) || !edge(part.bytes().next()) || !edge(part.bytes().last()) {
            return Err("the repository holds an empty part or a character it can't have");
        }
    }
    Ok(())
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if tag.is_empty() || tag.len() > 128 || !tag.bytes().all(legal) || tag.starts_with(['.', '-']) {
        return Err("the tag is empty or holds a character it can't have");
    }
    Ok(())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Serialize for Reference {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
