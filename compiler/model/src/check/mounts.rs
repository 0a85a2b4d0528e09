//! What a container sees beside its image, and at which paths.

use super::{Pass, did_you_mean, is_absolute};
use crate::{
    name::Name,
    spec::{Container, Mount, Pod, is_sub_path},
};
use std::collections::BTreeMap;

/// The most mounts of one container. Each is a descriptor that the daemon hands to the pod's shim,
/// which takes 1,200 at a start; the root, the files and the cgroups (one a hierarchy) need fewer
/// than the 200 that this leaves.
pub const MAX_MOUNTS: usize = 1_000;

impl Pass<'_> {
    /// `shared`: the volumes that pods of its stack share.
    pub(super) fn mounts(&mut self, name: &Name, spec: &Container, (pod, shared): (&Pod, &[&str])) {
        if spec.mounts.len() > MAX_MOUNTS {
            let message = format!(
                "container `{name}` has {} mounts, more than the {MAX_MOUNTS} it can start with",
                spec.mounts.len()
            );
            let help = "mount one volume that holds the others' directories";
            self.report("tank::mount::too_many", &["mounts"], message, help);
        }
        let mut targets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (mount, at) in &spec.mounts {
            if !pod.volumes.contains_key(&at.volume) {
                let message = format!(
                    "mount `{mount}` names the volume `{}`, which its pod does not have",
                    at.volume
                );
                let help = match shared.contains(&at.volume.as_str()) {
                    true => format!(
                        "it is declared beside `pods`: say in the pod that it shares it, `volumes.{0}.shared = \"{0}\"`",
                        at.volume
                    ),
                    false => did_you_mean(
                        at.volume.as_str(),
                        pod.volumes.keys().map(Name::as_str),
                        &format!("declare it: `volumes.{} = {{}}`", at.volume),
                    ),
                };
                self.report(
                    "tank::mount::unknown_volume",
                    &["mounts", mount.as_str(), "volume"],
                    message,
                    help,
                );
            }
            self.target(&["mounts", mount.as_str(), "path"], &at.path, &mut targets);
            self.sub_path(mount, at, pod);
            self.propagation(mount, at, pod);
        }
        for file in spec.files.keys() {
            self.target(&["files", file], file, &mut targets);
        }
        for (secret, at) in &spec.secrets {
            self.target(
                &["secrets", secret.as_str(), "path"],
                &at.path,
                &mut targets,
            );
            if !is_absolute(&at.file) {
                self.relative(&["secrets", secret.as_str(), "file"], &at.file);
            }
        }
    }

    fn sub_path(&mut self, name: &Name, mount: &Mount, pod: &Pod) {
        let Some(path) = &mount.sub_path else { return };
        let in_memory = pod.volumes.get(&mount.volume);
        let in_memory = in_memory.is_some_and(|volume| volume.tmpfs.is_some());
        let (message, help) = if !is_sub_path(path) {
            let message = format!("`{path}` is no directory inside of a volume");
            (
                message,
                "write a relative path of names, without `.` and `..`",
            )
        } else if in_memory {
            let volume = &mount.volume;
            let message = format!("volume `{volume}` is in memory: it is empty at every start");
            (message, "leave `sub_path` out, or let Tank keep the volume")
        } else {
            return;
        };
        let field = ["mounts", name.as_str(), "sub_path"];
        self.report("tank::mount::sub_path", &field, message, help);
    }

    fn propagation(&mut self, name: &Name, mount: &Mount, pod: &Pod) {
        let Some(volume) = pod.volumes.get(&mount.volume) else {
            return;
        };
        if !mount.propagation.is_slave() {
            return;
        }
        let (message, help) = if volume.host.is_none() {
            (
                format!("volume `{}` is no directory of the host", mount.volume),
                "leave `propagation` out: nothing is mounted below what Tank keeps",
            )
        } else if mount.read_only {
            (
                "what is mounted on the host later could be written, though this is `read_only`"
                    .to_owned(),
                "leave one of the two out: the kernel makes read-only what is there when the container starts, and no more",
            )
        } else {
            return;
        };
        let field = ["mounts", name.as_str(), "propagation"];
        self.report("tank::mount::propagation", &field, message, help);
    }

    /// Checks a path inside the container at which something is mounted; `seen` holds those before
    /// it.
    fn target<'p>(
        &mut self,
        field: &[&'p str],
        target: &'p str,
        seen: &mut BTreeMap<&'p str, Vec<&'p str>>,
    ) {
        if !is_absolute(target) {
            self.relative(field, target);
            return;
        }
        let special = ["/", "/proc", "/sys", "/dev"];
        if special
            .iter()
            .any(|dir| target == *dir || (dir.len() > 1 && target.starts_with(&format!("{dir}/"))))
        {
            let message = format!("`{target}` is Tank's own to mount");
            self.report(
                "tank::mount::reserved",
                field,
                message,
                "choose a path outside /proc, /sys and /dev",
            );
        }
        if let Some(first) = seen.insert(target.trim_end_matches('/'), field.to_vec()) {
            let message = format!("two things are put at `{target}`");
            self.report(
                "tank::mount::same_path",
                field,
                message,
                format!("the other is `{}`", first.join(".")),
            );
        }
    }
}
