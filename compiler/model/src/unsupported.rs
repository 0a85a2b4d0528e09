//! What a configuration may say and this version does not do yet: the one list of it.
//!
//! The contracts, the types and the graph hold these features, so that what is written for them is
//! checked and keeps its hash; no daemon of this version carries them out. [`crate::check`] refuses
//! them at the line, for the command and for the daemon, and `tank doc` says so of the fields (a
//! test holds the docs against this list).

use crate::{
    check::Problem,
    spec::{Config, Network, Pod, Update},
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
    /// Where a pod that uses it says so.
    path: &'static [&'static str],
    uses: fn(&Pod) -> bool,
}

/// All of them.
pub const FEATURES: [Feature; 2] = [
    Feature {
        code: "tank::unsupported::nics",
        field: "network.nics",
        message: "network interfaces of a pod's own are not in this version",
        help: "use `network = 'bridge` with `publish`, or `network = 'host`",
        path: &["network", "nics"],
        uses: |pod| matches!(pod.network, Network::Nics(_)),
    },
    Feature {
        code: "tank::unsupported::start_first",
        field: "update",
        message: "`'start_first` is not in this version",
        help: "use `update = 'recreate`, the default: the old pod ends, then the new one starts",
        path: &["update"],
        uses: |pod| pod.update == Update::StartFirst,
    },
];

/// Everything in `config` that is not done yet.
pub(crate) fn problems(config: &Config) -> Vec<Problem> {
    let all = config.pods.iter().flat_map(|(name, pod)| {
        FEATURES
            .iter()
            .filter(|feature| (feature.uses)(pod))
            .map(move |feature| Problem {
                code: feature.code,
                path: ["pods", name.as_str()]
                    .iter()
                    .chain(feature.path)
                    .map(|part| (*part).to_owned())
                    .collect(),
                message: feature.message.to_owned(),
                help: feature.help.to_owned(),
                related: None,
            })
    });
    all.collect()
}
