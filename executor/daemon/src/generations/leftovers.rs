//! The pods that are there, and the folders that others have left.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};
use tank_image::{Tally, folder_bytes};
use tank_model::{Digest, Name, graph::Survey};
use tank_plan::Observed;

/// How the folder of a pod is called while it is removed. No pod is called so.
const TRASH: &str = ".gone-";

/// The pods that are there, declared or not.
#[derive(Clone, Debug, Default)]
pub struct There {
    /// With the hash of the node that the pod's namespaces were made from.
    pub pods: BTreeMap<Name, Option<Digest>>,
    /// The hashes of the nodes that containers were started from.
    pub runs: BTreeSet<Digest>,
}

impl There {
    /// Those that are none of what these graphs declare: what they have is known by the leases alone.
    pub fn strangers(&self, survey: &Survey) -> BTreeSet<Name> {
        let is_stranger = |(pod, sandbox): &(&Name, &Option<Digest>)| match sandbox {
            Some(hash) => !survey.nodes.contains(hash),
            None => !survey.pods.contains(*pod),
        };
        let strangers = self.pods.iter().filter(is_stranger);
        strangers.map(|(pod, _)| pod.clone()).collect()
    }

    /// None: of some pod it is not known what runs in it.
    pub fn of(observed: &Observed) -> Option<Self> {
        let mut pods = observed.pods.values();
        let known = pods.all(|pod| pod.unresponsive.is_none());
        let runs = observed
            .pods
            .values()
            .flat_map(|pod| pod.containers.values());
        known.then(|| Self {
            pods: observed
                .pods
                .iter()
                .map(|(name, pod)| (name.clone(), pod.sandbox.as_ref().map(|own| own.hash)))
                .collect(),
            runs: runs.map(|run| run.hash).collect(),
        })
    }
}

/// Removes a folder that may be gone.
pub fn remove_folder(path: &Path) -> std::io::Result<()> {
    match tank_sys::remove::tree(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Renames the folders of pods that are none of these, so that nobody uses them any more: how many there are, and
/// what is to be removed. What a collection before this one has renamed is among it.
pub fn set_aside(dir: &Path, pods: &BTreeSet<Name>, dry: bool) -> (Tally, Vec<PathBuf>) {
    let (mut tally, mut gone) = (Tally::default(), Vec::new());
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        let is_trash = name.starts_with(TRASH);
        let is_gone = Name::of_pod(name.as_str()).is_ok_and(|pod| !pods.contains(&pod));
        if !is_trash && !is_gone {
            continue;
        }
        // A link, or a file, is not Tank's.
        let Some(bytes) = folder_bytes(&path) else {
            continue;
        };
        let to = dir.join(format!("{TRASH}{name}"));
        let moved = if dry || is_trash {
            Some(path)
        } else {
            let free = remove_folder(&to);
            free.and_then(|()| fs::rename(&path, &to)).ok().map(|()| to)
        };
        if let Some(moved) = moved {
            tally.add(bytes);
            gone.extend((!dry).then_some(moved));
        }
    }
    (tally, gone)
}
