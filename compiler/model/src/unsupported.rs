//! What a configuration may say and this version does not do yet: the one list of it.
//!
//! The contracts, the types and the graph hold these features, so that what is written for them is
//! checked and keeps its hash; no daemon of this version carries them out. [`crate::check`] refuses
//! them at the line, for the command and for the daemon, and `tank doc` says so of the fields (a
//! test holds the docs against this list).

use crate::{
    check::Problem,
    name::Name,
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
    /// Where a pod says it, each below the pod.
    uses: fn(&Pod) -> Vec<Vec<String>>,
}

/// All of them.
pub const FEATURES: [Feature; 2] = [
    Feature {
        code: "tank::unsupported::nic_pool",
        field: "network.nics.eth0.pool",
        message: "addresses from a pool are not in this version",
        help: "give the interface an `address` of its own",
        uses: nics_with_pools,
    },
    Feature {
        code: "tank::unsupported::start_first",
        field: "update",
        message: "`'start_first` is not in this version",
        help: "use `update = 'recreate`, the default: the old pod ends, then the new one starts",
        uses: |pod| match pod.update {
            Update::StartFirst => vec![vec!["update".to_owned()]],
            _ => Vec::new(),
        },
    },
];

fn nics_with_pools(pod: &Pod) -> Vec<Vec<String>> {
    let Network::Nics(nics) = &pod.network else {
        return Vec::new();
    };
    let pools = nics.iter().filter(|(_, nic)| nic.pool.is_some());
    let path = |(name, _): (&_, _)| {
        let parts = ["network", "nics", Name::as_str(name), "pool"];
        parts.map(str::to_owned).to_vec()
    };
    pools.map(path).collect()
}

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
