//! The pods that are there, and the folders that others have left.

use super::{
    Error,
    collector::{Collected, Collector, Found, PASS_WAIT},
    error::Context,
};
use crate::{actuate::volumes::measure, faults, figures::Figures, trash};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tank_image::Tally;
use tank_model::{Digest, Name, graph::Survey};
use tank_plan::Observed;
use tokio::{task::spawn_blocking, time::timeout};

/// How the folder of a pod is called while it is removed. No pod is called so.
const GONE: &str = ".gone-";

/// The longest that all of them are measured.
const MEASURING: Duration = Duration::from_secs(5);

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

/// Renames the folders of pods that are none of these, so that nobody uses them any more: what is to be removed. What a collection
/// before this one has renamed is among it. With `dry` none is renamed. It takes no longer for folders that have much in them.
pub fn rename_gone(dir: &Path, pods: &BTreeSet<Name>, dry: bool) -> Vec<PathBuf> {
    let mut gone = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        let path = entry.path();
        let is_renamed = name.starts_with(GONE);
        let is_gone = Name::of_pod(name.as_str()).is_ok_and(|pod| !pods.contains(&pod));
        // A link, or a file, is not Tank's.
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_folder || !(is_renamed || is_gone) {
            continue;
        }
        if dry || is_renamed {
            gone.push(path);
            continue;
        }
        let to = dir.join(format!("{GONE}{name}"));
        let moved = trash::put(&to).and_then(|_| fs::rename(&path, &to));
        gone.extend(moved.ok().map(|()| to));
    }
    gone
}

/// How much they are, and, unless `dry`, has them be removed in the background: what could not be, a sentence each. Blocking.
pub fn remove_all(gone: &[PathBuf], dry: bool) -> (Tally, Vec<String>) {
    let (mut tally, mut failed) = (Tally::default(), Vec::new());
    let deadline = Instant::now() + MEASURING;
    for path in gone {
        faults::boundary("before a pod's folder is removed");
        if let Ok(size) = measure(path, &|| Instant::now() > deadline) {
            tally.add(size.bytes);
        }
        if !dry && let Err(error) = trash::put(path) {
            failed.push(format!("{}: {error}", path.display()));
        }
    }
    (tally, failed)
}

impl Collector {
    /// Removes logs, scratch folders and figures of pods that no generation names and that are not there.
    pub(super) async fn sweep_folders(
        self: &Arc<Self>,
        mut found: Found,
        there: Option<&There>,
        dry: bool,
        collected: &mut Collected,
    ) -> Result<(), Error> {
        let left =
            |why: &str| format!("logs, scratch folders and figures of pods that are gone: {why}");
        let Some(there) = there.cloned() else {
            collected
                .left
                .push(left("it is not known which pods are there"));
            return Ok(());
        };
        // Nothing is started meanwhile, and nothing new is declared.
        let Ok(_pass) = timeout(PASS_WAIT, self.reconciler.lock()).await else {
            collected.left.push(left("a change is under way"));
            return Ok(());
        };
        let history = Arc::clone(&self.history).lock_owned().await;
        let collector = Arc::clone(self);
        let sweep = move || {
            collector.survey(&mut found, collector.history()?)?;
            let mut pods = found.survey.pods;
            pods.extend(there.pods.into_keys());
            let state = &collector.settings.state_dir;
            let logs = rename_gone(&state.join("logs"), &pods, dry);
            let scratch = rename_gone(&state.join("scratch"), &pods, dry);
            let figures = rename_gone(&Figures::folder(state), &pods, dry);
            drop(history);
            Ok::<_, Error>([logs, scratch, figures])
        };
        let gone = spawn_blocking(sweep).await.doing("look for folders")??;
        drop(_pass);
        let remove = move || gone.map(|gone| remove_all(&gone, dry));
        let [logs, scratch, figures] = spawn_blocking(remove).await.doing("remove folders")?;
        (collected.logs, collected.scratch, collected.figures) = (logs.0, scratch.0, figures.0);
        collected
            .left
            .extend([logs.1, scratch.1, figures.1].into_iter().flatten());
        Ok(())
    }
}
