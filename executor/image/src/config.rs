//! How an image says it is run (OCI image specification, "Image Configuration"), and the users it
//! has, as data: what a plan needs of an image.

use crate::{Error, Image, Mounts};
use rustix::fs::OFlags;
use std::{
    collections::VecDeque,
    fs::{self, File},
    io::Read,
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use tank_model::Digest;
use tank_sys::mount::{self, attr};

/// The most bytes of an image's `/etc/passwd` or `/etc/group` that are read: 1 MiB each.
pub const MAX_USERS_FILE: u64 = 1 << 20;

/// The most configurations that are kept.
const CACHED_CONFIGS: usize = 128;

/// The most bytes of text of all configurations that are kept: 16 MiB.
const CACHED_BYTES: usize = 16 << 20;

/// How an image says it is run. What it does not say is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// The program and its first arguments (`Entrypoint`).
    pub entrypoint: Vec<String>,
    /// The arguments that follow, or the program where there is no entrypoint (`Cmd`).
    pub cmd: Vec<String>,
    /// `NAME=VALUE` (`Env`).
    pub env: Vec<String>,
    /// `USER`, `UID`, `USER:GROUP`, … (`User`).
    pub user: Option<String>,
    /// As the image has it: it need not be absolute, nor be there (`WorkingDir`).
    pub working_dir: Option<String>,
    /// A name with or without `SIG`, or a number (`StopSignal`).
    pub stop_signal: Option<String>,
    /// The image's `/etc/passwd` (passwd(5)), as a container of it sees it before it writes. Empty
    /// where it has none, or something else than a file; the first MiB of a longer one. What is not
    /// UTF-8 is replaced.
    pub passwd: String,
    /// The same for its `/etc/group` (group(5)).
    pub group: String,
}

impl ImageConfig {
    /// Blocks and mounts: see [`crate::Images::config`]. `scratch` is a folder that is not there yet;
    /// the caller removes it.
    pub(crate) fn read(mounts: &Mounts, image: &Image, scratch: &Path) -> Result<Self, Error> {
        let root = mount_layers(mounts, image, scratch)?;
        let config = image.config.config().clone().unwrap_or_default();
        let list = |list: &Option<Vec<String>>| list.clone().unwrap_or_default();
        Ok(Self {
            entrypoint: list(config.entrypoint()),
            cmd: list(config.cmd()),
            env: list(config.env()),
            user: config.user().clone(),
            working_dir: config.working_dir().clone(),
            stop_signal: config.stop_signal().clone(),
            passwd: read_in_root(&root, "etc/passwd"),
            group: read_in_root(&root, "etc/group"),
        })
    }

    /// The bytes of its texts.
    fn weight(&self) -> usize {
        let lists = [&self.entrypoint, &self.cmd, &self.env];
        let texts = [&self.user, &self.working_dir, &self.stop_signal];
        let lists: usize = lists.into_iter().flatten().map(String::len).sum();
        let texts: usize = texts.into_iter().flatten().map(String::len).sum();
        lists + texts + self.passwd.len() + self.group.len()
    }
}

/// The root of an image as a detached mount: it goes with its last descriptor. It is mounted as a
/// container's is, so that it works on every kernel on which containers start; `scratch` is a folder
/// that is not there yet, for what nobody writes.
pub(crate) fn mount_layers(
    mounts: &Mounts,
    image: &Image,
    scratch: &Path,
) -> Result<OwnedFd, Error> {
    if let [only] = image.layers.as_slice() {
        // One layer alone is what an overlay of it would show: its whiteouts hide nothing, and none
        // of them is a file.
        let root = mounts.open(only)?;
        let restricted = attr::RDONLY | attr::NOSUID | attr::NODEV | attr::NOEXEC;
        mount::restrict(root.as_fd(), restricted, false).map_err(Error::Mount)?;
        return Ok(root);
    }
    let layers = image.layers.iter().map(|layer| mounts.open(layer));
    let layers: Result<Vec<OwnedFd>, _> = layers.collect();
    let [upper, work, places] = ["upper", "work", "layers"].map(|name| scratch.join(name));
    for dir in [&upper, &work] {
        fs::create_dir_all(dir).map_err(|e| Error::Io(format!("make {}", dir.display()), e))?;
    }
    mount::overlay(&layers?, &upper, &work, &places).map_err(Error::Mount)
}

/// What a file of an image says, looked up as a process with this root directory would: no link
/// leads out of it. A FIFO, a device or a directory is no file.
fn read_in_root(root: &OwnedFd, path: &str) -> String {
    // Opening a FIFO would wait for whoever writes to it, a terminal would become this process's.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let Ok(file) = mount::open_in_root(root.as_fd(), path, flags).map(File::from) else {
        return String::new();
    };
    if !file.metadata().is_ok_and(|found| found.is_file()) {
        return String::new();
    }
    let mut bytes = Vec::new();
    // What was read before the disk failed is what a container would have read.
    let _ = file.take(MAX_USERS_FILE).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The configurations that were read last, the latest in front. Value: an image's configuration;
/// version: its digest; invalidated by nothing, since an image never changes.
#[derive(Debug, Default)]
pub(crate) struct Configs(Mutex<VecDeque<(Digest, Arc<ImageConfig>)>>);

impl Configs {
    pub fn get(&self, digest: &Digest) -> Option<Arc<ImageConfig>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = kept.iter().position(|(known, _)| known == digest)?;
        let found = kept.remove(at)?;
        let config = Arc::clone(&found.1);
        kept.push_front(found);
        Some(config)
    }

    pub fn insert(&self, digest: Digest, config: &Arc<ImageConfig>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.retain(|(known, _)| *known != digest);
        kept.push_front((digest, Arc::clone(config)));
        let mut bytes = 0;
        let fitting = kept.iter().take(CACHED_CONFIGS).take_while(|(_, config)| {
            bytes += config.weight();
            bytes <= CACHED_BYTES
        });
        let fitting = fitting.count();
        kept.truncate(fitting);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(bytes: usize) -> Arc<ImageConfig> {
        Arc::new(ImageConfig {
            passwd: "x".repeat(bytes),
            ..ImageConfig::default()
        })
    }

    #[test]
    fn the_cache_keeps_what_was_used_last_and_no_more_than_its_bounds() {
        let configs = Configs::default();
        let digest = |number: usize| Digest::of(&number.to_be_bytes());
        for number in 0..CACHED_CONFIGS {
            configs.insert(digest(number), &of(1));
        }
        assert!(configs.get(&digest(0)).is_some());
        configs.insert(digest(CACHED_CONFIGS), &of(1));
        assert!(configs.get(&digest(0)).is_some(), "it was used last");
        assert!(configs.get(&digest(1)).is_none(), "it was not");
        // Large ones push out by their bytes, and one that is too large is not kept.
        configs.insert(digest(1_000), &of(CACHED_BYTES - 10));
        assert!(configs.get(&digest(1_000)).is_some());
        assert!(configs.get(&digest(2)).is_none());
        configs.insert(digest(1_001), &of(CACHED_BYTES + 1));
        assert!(configs.get(&digest(1_001)).is_none());
    }
}
