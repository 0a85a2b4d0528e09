//! The files Tank writes into a container: names and resolvers, those that were declared, secrets.
//!
//! They are in a memory file system of the container's own, each under the digest of its path, and
//! mounted read-only one by one. The shim keeps that file system open, so that what the files say can
//! be read, and put right or changed under the running container. Secrets are written at its start
//! and not read again.

use super::{Error, error::NoFiles, sources::Sources, start::Start};
use crate::pods::{Shim, files::name_of};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::{AsFd, OwnedFd},
};
use tank_model::Name;
use tank_plan::step::FileWrite;
use tank_proto::shim::Request;
use tank_sys::mount::{self, attr};

/// The memory file system of a container that is about to start, and which file of it goes where.
///
/// # Errors
/// What the kernel gives, and why a secret can't be read.
pub fn mount(sources: &Sources, start: &Start) -> Result<(OwnedFd, Vec<(String, String)>), Error> {
    let options = [("mode", "0755"), ("size", "64m")];
    let mount_fd = mount::filesystem("tmpfs", &options, attr::NOSUID | attr::NODEV);
    let mount_fd = mount_fd?;
    let dir = mount::open_root(&mount_fd)?;
    let base = start.spec.id_base;
    let mut entries = Vec::new();
    let mut add = |path: &str, content: &[u8], mode: u32, (uid, gid)| -> Result<(), Error> {
        let name = name_of(path);
        let owner = (base + uid, base + gid);
        let written = mount::write_file(dir.as_fd(), &name, content, mode, owner);
        written?;
        entries.push((name, path.to_owned()));
        Ok(())
    };
    for (path, file) in &start.spec.files {
        add(path, file.text.as_bytes(), file.mode.0, (0, 0))?;
    }
    for (name, secret) in &start.spec.secrets {
        let content = sources.read_secret(&secret.file, || start.writable());
        let content = content.map_err(|source| Error::Secret {
            secret: name.clone(),
            source,
        })?;
        let owner = start.spec.secret_owners.get(name).copied();
        add(
            &secret.path,
            &content,
            secret.mode.0,
            owner.unwrap_or_default(),
        )?;
    }
    Ok((mount_fd, entries))
}

/// Writes files anew under the running container, then sends the signals that make it read them.
///
/// # Errors
/// When the shim can't show them, or the kernel refuses.
pub async fn write(
    shim: &Shim,
    container: &Name,
    files: &BTreeMap<String, FileWrite>,
) -> Result<(), Error> {
    let state = shim.state().await?;
    let runs = |found: &&tank_proto::shim::ContainerState| {
        found.name == container.as_str() && found.exited.is_none()
    };
    // One that has ended meanwhile starts with the right files.
    let Some(running) = state.containers.iter().find(runs) else {
        return Ok(());
    };
    let dir = shim.files(container.as_str(), running.started).await?;
    let dir = dir.ok_or(Error::WriteFiles(NoFiles::CantShow))?;
    let mut signals = BTreeSet::new();
    for (path, file) in files {
        let written = mount::rewrite_file(dir.as_fd(), &name_of(path), file.text.as_bytes());
        written?;
        signals.extend(file.signal);
    }
    for signal in signals {
        let request = Request::Signal {
            container: container.to_string(),
            signal,
        };
        shim.request(&request, &[]).await?;
    }
    Ok(())
}
