//! Image references: which bytes a container runs.
//!
//! Two transports, named as skopeo names them: a registry (`nginx:1.27`, `ghcr.io/a/b@sha256:…`,
//! the default) and an OCI image layout on disk (`oci:PATH[:TAG][@sha256:…]`). Defaults are the
//! ones container users know: the registry `docker.io`, its `library/` for one-word names, the tag
//! `latest`.

use crate::digest::Digest;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

/// Docker's own registry, as its users name it.
pub const DOCKER_HUB: &str = "docker.io";

/// The name of a registry that has several: Docker's own has three.
pub fn canonical_registry(host: &str) -> &str {
    match host {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
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
}

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

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let parsed = match text.strip_prefix("oci:") {
            _ if text.len() > 512 => Err("more than 512 characters"),
            Some(layout) => parse_layout(layout),
            None => parse_registry(text).map(|source| match source {
                ImageSource::Registry { digest, .. } => (source, digest),
                ImageSource::Layout { .. } => (source, None),
            }),
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

fn parse_layout(rest: &str) -> Result<(ImageSource, Option<Digest>), &'static str> {
    // A path may hold an `@`; only what is a whole digest pins.
    let pinned = rest
        .rsplit_once('@')
        .and_then(|(rest, digest)| Some((rest, digest.parse::<Digest>().ok()?)));
    let (rest, digest) = pinned.map_or((rest, None), |(rest, digest)| (rest, Some(digest)));
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

fn parse_registry(text: &str) -> Result<ImageSource, &'static str> {
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
        Some((host, path)) if host == "localhost" || host.contains(['.', ':']) => {
            (canonical_registry(host).to_owned(), path.to_owned())
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
    Ok(ImageSource::Registry {
        registry,
        repository,
        tag,
        digest,
    })
}

fn check_registry(registry: &str) -> Result<(), &'static str> {
    let (host, port) = registry
        .split_once(':')
        .map_or((registry, None), |(host, port)| (host, Some(port)));
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'.';
    if host.is_empty() || !host.bytes().all(legal) {
        return Err("the registry is no host name");
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
mod tests {
    use super::*;

    fn registry(text: &str) -> (String, String, Option<String>) {
        match text.parse::<Reference>().expect(text).source {
            ImageSource::Registry {
                registry,
                repository,
                tag,
                ..
            } => (registry, repository, tag),
            ImageSource::Layout { .. } => panic!("{text} is a layout"),
        }
    }

    #[test]
    fn defaults_are_the_ones_users_know() {
        let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), Some(c.to_owned()));
        assert_eq!(
            registry("nginx"),
            own("docker.io", "library/nginx", "latest")
        );
        assert_eq!(
            registry("nginx:1.27"),
            own("docker.io", "library/nginx", "1.27")
        );
        assert_eq!(registry("a/b"), own("docker.io", "a/b", "latest"));
        for host in ["docker.io", "index.docker.io", "registry-1.docker.io"] {
            let nginx = own("docker.io", "library/nginx", "1.27");
            assert_eq!(registry(&format!("{host}/nginx:1.27")), nginx);
            assert_eq!(registry(&format!("{host}/library/nginx:1.27")), nginx);
        }
        assert_eq!(registry("quay.io/nginx"), own("quay.io", "nginx", "latest"));
        assert_eq!(
            registry("localhost:5000/a/b:c"),
            own("localhost:5000", "a/b", "c")
        );
        let pinned = format!("ghcr.io/a/b@{}", Digest::of(b""));
        assert_eq!(registry(&pinned).2, None);
        assert_eq!(
            pinned.parse::<Reference>().expect("parses").digest(),
            Some(Digest::of(b""))
        );
    }

    #[test]
    fn layouts_have_a_path_and_a_tag() {
        for (text, path, tag) in [
            ("oci:./image", "./image", "latest"),
            ("oci:/a/b:v1", "/a/b", "v1"),
        ] {
            let expected = ImageSource::Layout {
                path: path.to_owned(),
                tag: tag.to_owned(),
            };
            assert_eq!(text.parse::<Reference>().expect(text).source, expected);
        }
    }

    #[test]
    fn what_was_resolved_can_be_pinned_again_and_again() {
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        for text in [
            "nginx",
            "nginx:1.27",
            "localhost:5000/a/b:c",
            "oci:./image",
            "oci:./im@ge:v1",
        ] {
            let reference: Reference = text.parse().expect(text);
            let pinned = reference.pinned(one).expect("pins");
            assert_eq!(pinned.as_str(), format!("{text}@{one}"));
            assert_eq!((reference.digest(), pinned.digest()), (None, Some(one)));
            assert_eq!(
                pinned.pinned(two).expect("pins").as_str(),
                format!("{text}@{two}")
            );
            if let ImageSource::Layout { .. } = reference.source() {
                assert_eq!(pinned.source(), reference.source());
            }
        }
    }

    #[test]
    fn the_rest_is_refused() {
        let long = "a".repeat(600);
        for bad in [
            "",
            "NGINX",
            "a b",
            "nginx:",
            "nginx:a/b:",
            "a//b",
            "x@sha256:12",
            "-",
            "h.io:99999/a",
            "oci:",
            &long,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }
}
