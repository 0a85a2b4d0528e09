//! What a configuration may say and this version does not do yet: the one list of it.
//!
//! The contracts, the types and the graph hold these features, so that what is written for them is
//! checked and keeps its hash; no daemon of this version carries them out. [`crate::check`] refuses
//! them at the line, for the command and for the daemon, and `tank doc` says so of the fields (a
//! test holds the docs against this list).

use crate::{
    check::Problem,
    spec::{Config, Pod, Update},
};

/// One feature.
pub struct Feature {
    /// The code of the problem that refuses it.
    pub code: &'static str,
    /// The field, as `tank doc` takes it.
    pub field: &'static str,
    /// What it would be.
    pub message: &'static str,
    /// What to do instead.
    pub help: &'static str,
    /// Where a pod says it, each below the pod.
    uses: fn(&Pod) -> Vec<Vec<String>>,
}

/// All of them.
pub const FEATURES: [Feature; 1] = [Feature {
    code: "tank::unsupported::start_first",
    field: "update",
    message: "`'start_first` is not in this version",
    help: "use `update = 'recreate`, the default: the old pod ends, then the new one starts",
    uses: |pod| match pod.update {
        Update::StartFirst => vec![vec!["update".to_owned()]],
        _ => Vec::new(),
    },
}];

/// Everything in `config` that is not done yet.
pub(crate) fn problems(config: &Config) -> Vec<Problem> {
    let all = config.pods.iter().flat_map(|(name, pod)| {
        FEATURES.iter().flat_map(move |feature| {
            (feature.uses)(pod).into_iter().map(move |path| Problem {
                code: feature.code,
                path: ["pods", name.as_str()]
                    .map(str::to_owned)
                    .into_iter()
                    .chain(path)
                    .collect(),
                message: feature.message.to_owned(),
                help: feature.help.to_owned(),
                related: None,
            })
        })
    });
    all.collect()
}
