//! All that a plan is made from, to be written down and planned from again, on any machine.

use crate::{
    observed::Observed,
    overrides::Overrides,
    planner,
    report::Report,
    runs::Runs,
    step::Plan,
    target::{HostConfig, ImageConfig, NetworkLease, Pooled, Projects, Resolver, Target},
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tank_model::{Config, Digest, Graph, Name, canonical::CanonicalError, reference::Reference};

/// What a [`Target`] borrows.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "Stored", into = "Stored")]
pub struct Inputs {
    /// What is declared.
    pub graph: Graph,
    /// The graph before. None: this is the first.
    pub previous: Option<Graph>,
    /// What the operator has settled.
    pub host: HostConfig,
    /// The lease of every pod, by the pod's name.
    pub leases: BTreeMap<Name, u32>,
    /// The addresses that interfaces have of their pools.
    pub pooled: Pooled,
    /// What every network has leased.
    pub networks: BTreeMap<Name, NetworkLease>,
    /// The project ids of volumes.
    pub projects: Projects,
    /// By the digests that references were resolved to.
    pub images: BTreeMap<Digest, ImageConfig>,
    /// What the host's resolver files say.
    pub resolver: Resolver,
    /// What somebody has asked for by hand.
    pub overrides: Overrides,
    /// What somebody runs by hand.
    pub runs: Runs,
}

/// The inputs of one plan. It holds what the configuration does, texts of files among it, and no
/// secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Dump {
    /// The host as the planner saw it.
    pub observed: Observed,
    /// What the target was made from.
    pub inputs: Inputs,
}

impl Inputs {
    /// Copies what a target borrows.
    pub fn of(target: &Target<'_>) -> Self {
        Self {
            graph: target.graph.clone(),
            previous: target.previous.cloned(),
            host: target.host.clone(),
            leases: target.leases.clone(),
            pooled: target.pooled.clone(),
            networks: target.networks.clone(),
            projects: target.projects.clone(),
            images: target.images.clone(),
            resolver: target.resolver.clone(),
            overrides: target.overrides.clone(),
            runs: target.runs.clone(),
        }
    }

    /// The target again, borrowed from here.
    pub fn target(&self) -> Target<'_> {
        Target {
            graph: &self.graph,
            previous: self.previous.as_ref(),
            host: &self.host,
            leases: &self.leases,
            pooled: &self.pooled,
            networks: &self.networks,
            projects: &self.projects,
            images: &self.images,
            resolver: &self.resolver,
            overrides: &self.overrides,
            runs: &self.runs,
        }
    }
}

impl Dump {
    /// Copies what a plan is about to be made from.
    pub fn of(target: &Target<'_>, observed: &Observed) -> Self {
        Self {
            observed: observed.clone(),
            inputs: Inputs::of(target),
        }
    }

    /// Plans again what was planned.
    pub fn plan(&self) -> (Plan, Report) {
        planner::plan(&self.inputs.target(), &self.observed)
    }
}

/// A graph as its configuration and the digests of its images.
#[derive(Serialize, Deserialize)]
struct StoredGraph {
    config: Config,
    digests: BTreeMap<Reference, Digest>,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    graph: StoredGraph,
    #[serde(default)]
    previous: Option<StoredGraph>,
    host: HostConfig,
    leases: BTreeMap<Name, u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pooled: Pooled,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    networks: BTreeMap<Name, NetworkLease>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    projects: Projects,
    images: BTreeMap<Digest, ImageConfig>,
    resolver: Resolver,
    #[serde(default, skip_serializing_if = "Overrides::is_empty")]
    overrides: Overrides,
    #[serde(default, skip_serializing_if = "Runs::is_empty")]
    runs: Runs,
}

impl From<&Graph> for StoredGraph {
    fn from(graph: &Graph) -> Self {
        Self {
            config: graph.config(),
            digests: graph.images(),
        }
    }
}

impl TryFrom<StoredGraph> for Graph {
    type Error = CanonicalError;

    fn try_from(stored: StoredGraph) -> Result<Self, CanonicalError> {
        Graph::build(&stored.config, |image| stored.digests.get(image).copied())
    }
}

impl From<Inputs> for Stored {
    fn from(inputs: Inputs) -> Self {
        Self {
            graph: (&inputs.graph).into(),
            previous: inputs.previous.as_ref().map(StoredGraph::from),
            host: inputs.host,
            leases: inputs.leases,
            pooled: inputs.pooled,
            networks: inputs.networks,
            projects: inputs.projects,
            images: inputs.images,
            resolver: inputs.resolver,
            overrides: inputs.overrides,
            runs: inputs.runs,
        }
    }
}

impl TryFrom<Stored> for Inputs {
    type Error = CanonicalError;

    fn try_from(stored: Stored) -> Result<Self, CanonicalError> {
        Ok(Self {
            graph: stored.graph.try_into()?,
            previous: stored.previous.map(Graph::try_from).transpose()?,
            host: stored.host,
            leases: stored.leases,
            pooled: stored.pooled,
            networks: stored.networks,
            projects: stored.projects,
            images: stored.images,
            resolver: stored.resolver,
            overrides: stored.overrides,
            runs: stored.runs,
        })
    }
}
