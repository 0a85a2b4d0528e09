//! Files under a running container: those that say something else than they should are written anew.

use crate::{
    observed,
    planner::Planner,
    step::{Class, FileWrite, Step},
    target::{
        files::{HOSTS, RESOLV_CONF},
        signal,
    },
    why::{Changed, Why},
};
use std::collections::BTreeMap;
use tank_model::{Digest, Key, Name};

impl Planner<'_> {
    pub(crate) fn files(&mut self, pod: &Name, name: &Name, found: &observed::Run) {
        let Some(there) = &found.files else { return };
        let wanted = self.target.files(pod, name).into_iter();
        let wrong = wanted
            .filter(|(path, file)| there.get(path) != Some(&Digest::of(file.text.as_bytes())));
        let files: BTreeMap<String, FileWrite> = wrong
            .map(|(path, file)| {
                let signal = file.reload.as_deref().and_then(signal::number);
                let text = file.text;
                (path, FileWrite { text, signal })
            })
            .collect();
        if files.is_empty() {
            return;
        }
        let change = self.files_change(pod, name, files.keys());
        // What points to the name server is written when that answers.
        let asks = files.contains_key(RESOLV_CONF) && self.target.is_bridged(pod);
        let after = self.names.filter(|_| asks);
        let drift = change.is_none();
        let step = Step::WriteFiles {
            pod: pod.clone(),
            container: name.clone(),
            files,
        };
        let why = change.unwrap_or(Why::FilesDiffer);
        self.add(step, Class::InPlace, why, drift, after.as_slice());
    }

    /// What the declaration changed of a container's files at `paths`, those among them that Tank
    /// derives from what its pod declares.
    fn files_change<'a>(
        &self,
        pod: &Name,
        name: &Name,
        mut paths: impl Iterator<Item = &'a String>,
    ) -> Option<Why> {
        let live = self.change(&Key::LiveFiles(pod.clone(), name.clone()));
        let derived = paths.any(|path| path == HOSTS || path == RESOLV_CONF);
        let of_pod = self.change(&Key::Pod(pod.clone())).filter(|_| derived);
        let of_pod = of_pod.and_then(|change| change.below(&["dns", "extra_hosts"]));
        let changes: Vec<Changed> = live.into_iter().chain(of_pod).collect();
        (!changes.is_empty()).then_some(Why::Changed(changes))
    }
}
