//! Pods that write files of the host.
//!
//! A container's ids are mapped back where it writes into a host volume: its root is the host's own
//! there. A file it leaves with the set-user-id bit, or with capabilities, would make root of
//! whoever runs it on the host. So every process of such a pod runs under a filter that refuses
//! those bits, and without the capabilities below. It is the whole pod, since its containers have
//! one user namespace, and one can hand an open file to another: that a pod writes files of the
//! host is part of its sandbox, and a change of that replaces all of it.

use crate::{
    graph::Graph,
    name::Name,
    spec::{Mount, Pod, Volume},
};

/// What no container of such a pod has: with the first a file is given capabilities, with the
/// second a set-group-id bit is kept, with the third an overlay is mounted that copies a file of
/// the image, bits and all, into a directory.
pub const WITHHELD: [&str; 3] = ["CAP_SETFCAP", "CAP_FSETID", "CAP_SYS_ADMIN"];

fn writes<'a>(
    mounts: impl IntoIterator<Item = &'a Mount>,
    volume: impl Fn(&Name) -> Option<&'a Volume>,
) -> bool {
    let mut writable = mounts.into_iter().filter(|mount| !mount.read_only);
    writable.any(|mount| volume(&mount.volume).is_some_and(|volume| volume.host.is_some()))
}

impl Pod {
    /// Whether a container of it may write files of the host.
    pub fn writes_host(&self) -> bool {
        let mounts = self
            .processes()
            .flat_map(|(_, _, container)| container.mounts.values());
        writes(mounts, |volume| self.volumes.get(volume))
    }
}

impl Graph {
    /// As [`Pod::writes_host`].
    pub fn writes_host(&self, pod: &Name) -> bool {
        let containers = self
            .containers(pod)
            .flat_map(|(_, node, _)| node.mounts.values());
        let inits = self.init(pod).flat_map(|(_, spec, _)| spec.mounts.values());
        writes(containers.chain(inits), |volume| self.volume(pod, volume))
    }
}
