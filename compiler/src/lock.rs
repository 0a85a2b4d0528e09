//! `tank.lock`: which digest each image tag stands for, beside the configuration that names them.
//!
//! With a lock, the same source is the same graph on every machine and at every time. The file is
//! TOML, sorted, and meant to be committed; `tank lock` writes it.

use crate::CompileError;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Read,
    path::{Path, PathBuf},
};
use tank_model::{Digest, Platform, Reference, reference::ImageSource};

/// The file's name.
pub const FILE: &str = "tank.lock";

/// The most bytes of a lock file.
const MAX_LOCK: u64 = 4 << 20;

/// The one layout there is.
const VERSION: u32 = 1;

/// The content of a lock file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// Of the file's layout: 1.
    pub version: u32,
    /// Digests by the reference as the configuration has it.
    #[serde(default)]
    pub images: BTreeMap<String, Digest>,
    /// The same of containers with a `platform`, by that: of an image for several the digest of the manifest for this one.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub platforms: BTreeMap<Platform, BTreeMap<String, Digest>>,
}

impl Default for Lock {
    fn default() -> Self {
        Self {
            version: VERSION,
            images: BTreeMap::new(),
            platforms: BTreeMap::new(),
        }
    }
}

impl Lock {
    /// Where the lock of a folder is.
    pub fn path(base_dir: &Path) -> PathBuf {
        base_dir.join(FILE)
    }

    /// The lock of a folder with its text; none when there is no file.
    ///
    /// # Errors
    /// When the file is there and can't be read or understood.
    pub fn read(base_dir: &Path) -> Result<Option<(Self, String)>, CompileError> {
        let path = Self::path(base_dir);
        let file = match std::fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(CompileError::Read(path, error.to_string())),
        };
        let unreadable = |why: String| CompileError::Read(path.clone(), why);
        let mut text = String::new();
        file.take(MAX_LOCK + 1)
            .read_to_string(&mut text)
            .map_err(|e| unreadable(e.to_string()))?;
        if text.len() as u64 > MAX_LOCK {
            return Err(unreadable(format!("it has more than {MAX_LOCK} bytes")));
        }
        let lock: Self = toml::from_str(&text).map_err(|e| unreadable(e.to_string()))?;
        if lock.version != VERSION {
            return Err(unreadable(format!(
                "it is of version {}, this tank reads {VERSION}",
                lock.version
            )));
        }
        Ok(Some((lock, text)))
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let body = toml::to_string(self).unwrap_or_default();
        format!(
            "# Written by `tank lock`: the digests that the tags of this configuration stand for.\n{body}"
        )
    }

    /// The digest of a tag for a platform; none: for whichever host.
    pub fn digest(&self, image: &str, platform: Option<&Platform>) -> Option<Digest> {
        let images = match platform {
            Some(platform) => self.platforms.get(platform)?,
            None => &self.images,
        };
        images.get(image).copied()
    }

    /// Adds the digest of a tag for a platform; none: for whichever host.
    pub fn add(&mut self, image: String, platform: Option<Platform>, digest: Digest) {
        let images = match platform {
            Some(platform) => self.platforms.entry(platform).or_default(),
            None => &mut self.images,
        };
        images.insert(image, digest);
    }

    /// Every tag it has, with the platform it is for.
    pub fn tags(&self) -> impl Iterator<Item = (&String, Option<&Platform>, Digest)> {
        let all = self.images.iter();
        let all = all.map(|(image, digest)| (image, None, *digest));
        all.chain(self.platforms.iter().flat_map(|(platform, images)| {
            let images = images.iter();
            images.map(move |(image, digest)| (image, Some(platform), *digest))
        }))
    }

    /// A tag's reference with the digest the lock has for it and that platform. None for what is pinned already, is a
    /// layout on disk, or is not in the lock.
    pub fn pin(&self, image: &Reference, platform: Option<&Platform>) -> Option<String> {
        lockable(image)
            .then(|| self.digest(image.as_str(), platform))?
            .map(|digest| format!("{image}@{digest}"))
    }
}

/// Whether an image's bytes can change under its name: a tag of a registry.
pub fn lockable(image: &Reference) -> bool {
    matches!(image.source(), ImageSource::Registry { digest: None, .. })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_has_a_digest_for_each_platform() {
        let (own, arm) = (Digest::of(b"own"), Digest::of(b"arm"));
        let platform: Platform = "linux/aarch64".parse().expect("a platform");
        let other: Platform = "linux/386".parse().expect("a platform");
        let image: Reference = "nginx:1".parse().expect("a reference");
        let mut lock = Lock::default();
        lock.add(image.to_string(), None, own);
        // What older versions wrote is written still.
        let plain = lock.text();
        assert!(!plain.contains("platforms"), "{plain}");
        lock.add(image.to_string(), Some(platform.clone()), arm);
        let read: Lock = toml::from_str(&lock.text()).expect("a lock");
        assert_eq!(read, lock);
        assert!(
            lock.text().contains("[platforms.\"linux/arm64\"]"),
            "{}",
            lock.text()
        );
        assert_eq!(lock.pin(&image, None), Some(format!("nginx:1@{own}")));
        assert_eq!(
            lock.pin(&image, Some(&platform)),
            Some(format!("nginx:1@{arm}"))
        );
        assert_eq!(lock.pin(&image, Some(&other)), None);
        let tags: Vec<_> = lock.tags().collect();
        let name = image.to_string();
        assert_eq!(tags, [(&name, None, own), (&name, Some(&platform), arm)]);
        assert!(toml::from_str::<Lock>("version = 1\n[platforms.arm64]\n").is_err());
    }
}
