//! A container's root: its image's layers under an upper layer of its own.

use super::Error;
use crate::{settings::Settings, trash};
use std::{
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};
use tank_image::{Image, Layer, Mounts};
use tank_model::Name;
use tank_sys::mount;

/// Makes the layer below every image: the places on which Tank mounts something in every container.
/// An image that lacks one (few have an `/etc/hosts`) would have it made in each container anew,
/// which takes an upper layer a directory, a file and a renaming each. What an image has covers it.
pub fn make_skeleton(dir: &Path) -> std::io::Result<()> {
    for name in ["dev", "etc", "proc", "sys"] {
        fs::create_dir_all(dir.join(name))?;
        fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o755))?;
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    for name in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        let file = fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(dir.join(name))?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
    }
    Ok(())
}

/// An overlay of the image's layers, each mapped to the pod's ids, with a fresh upper directory.
pub fn root_mount(
    settings: &Settings,
    (mounts, image): (&Mounts, &Image),
    pod: &Name,
    container: &Name,
    (user_namespace, id_base): (BorrowedFd<'_>, u32),
) -> Result<OwnedFd, Error> {
    let scratch = settings.scratch_dir(pod.as_str());
    let scratch = scratch.join(container.as_str());
    // What the run before wrote can be much, and its successor need not wait until it is removed.
    trash::put(&scratch).map_err(|source| Error::EmptyDir {
        path: scratch.clone(),
        source,
    })?;
    let (upper, work) = (scratch.join("upper"), scratch.join("work"));
    for path in [&upper, &work].map(PathBuf::as_path) {
        fs::create_dir_all(path).map_err(|source| Error::MakeDir {
            path: path.to_owned(),
            source,
        })?;
    }
    chown(&upper, Some(id_base), Some(id_base)).map_err(Error::OwnUpper)?;
    fs::set_permissions(&upper, fs::Permissions::from_mode(0o755)).map_err(Error::OpenUpper)?;
    let mut layers = Vec::new();
    let skeleton = Layer::Folder(settings.skeleton_dir());
    for layer in [&skeleton].into_iter().chain(&image.layers) {
        let fd = mounts.open(layer).map_err(Error::Layer)?;
        mount::idmap(fd.as_fd(), user_namespace)?;
        layers.push(fd);
    }
    let places = scratch.join("layers");
    Ok(mount::overlay(&layers, &upper, &work, &places)?)
}

/// Has what a daemon that ended on the way has left half done be removed, in the background. Before anything is started.
pub fn remove_stale(settings: &Settings) {
    let entries = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten();
    // Versions before this one kept the layer of a run that was over beside its successor's.
    for pod in entries(&settings.state_dir.join("scratch"))
        .filter(|pod| Name::of_pod(pod.file_name().to_string_lossy()).is_ok())
    {
        for entry in entries(&pod.path())
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
        {
            if let Err(error) = trash::put(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "what is to be removed stays");
            }
        }
    }
    super::volumes::sweep(settings);
}
