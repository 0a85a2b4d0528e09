//! What a plan is made from, read from this host: leases, images' configurations, resolver files.

use super::Error;
use crate::{
    actuate::volumes::Volumes,
    pods::runs::RunsByHand,
    settings::Settings,
    store::{
        Store,
        leases::{Proposal, Wanted},
    },
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    sync::{Arc, Mutex, PoisonError},
};
use tank_image::Images;
use tank_model::{Digest, Graph, Name, Scope};
use tank_plan::{
    Overrides, Runs, Target,
    target::{
        HostConfig, ImageConfig, NetworkLease, Pooled, Projects, Resolver, files::RESOLV_CONF,
        pools::Demand, resolver::UPSTREAM,
    },
};

/// The most bytes that are read of a resolver file (64 KiB): resolvers look at a few lines.
const MAX_RESOLVER_FILE: u64 = 64 << 10;

/// Images' configurations, by their digests.
type Configs = BTreeMap<Digest, ImageConfig>;

/// Reads what plans are made from.
pub struct TargetReader {
    host: HostConfig,
    store: Arc<dyn Store>,
    images: Arc<Images>,
    volumes: Arc<Volumes>,
    runs: Arc<RunsByHand>,
    /// The configurations of the graph that was planned last: an image never changes.
    configs: Mutex<Arc<Configs>>,
}

/// What a [`Target`] borrows, beside graphs.
pub struct HostInputs {
    host: HostConfig,
    leases: BTreeMap<Name, u32>,
    pooled: Pooled,
    networks: BTreeMap<Name, NetworkLease>,
    projects: Projects,
    images: Arc<Configs>,
    resolver: Resolver,
    overrides: Overrides,
    pub(super) runs: Runs,
}

impl TargetReader {
    pub fn new(
        settings: &Settings,
        store: Arc<dyn Store>,
        (images, volumes, runs): (Arc<Images>, Arc<Volumes>, Arc<RunsByHand>),
    ) -> Self {
        Self {
            host: settings.host_config(),
            store,
            images,
            volumes,
            runs,
            configs: Mutex::default(),
        }
    }

    /// Reads what a plan is made from for a graph that wants these leases and has these images, where
    /// the graph `before` wanted those. Takes no lease. Blocking.
    ///
    /// # Errors
    /// When the store can't be read, or has no lease left.
    pub fn read(
        &self,
        wanted: &Wanted,
        before: &Wanted,
        demand: &Demand,
        images: &BTreeSet<Digest>,
    ) -> Result<HostInputs, Error> {
        let proposal = Proposal::of(
            self.store.as_ref(),
            wanted,
            (&self.host.pools, &self.runs.leases()),
        )?;
        let proposal = proposal.with_pools(demand);
        let others = || self.volumes.projects_in_use();
        let proposal = proposal.with_projects(&wanted.volumes, others)?;
        let lease = |pod: &Name| Ok::<_, Error>((pod.clone(), proposal.get(pod)?));
        let mut leases: BTreeMap<Name, u32> =
            wanted.pods.iter().map(lease).collect::<Result<_, _>>()?;
        let network = |network| proposal.network(network);
        let mut networks = BTreeMap::<Name, NetworkLease>::new();
        // Whoever is on the way out has what it had, until it is gone.
        for pod in &before.pods {
            if let Ok(lease) = proposal.get(pod) {
                leases.insert(pod.clone(), lease);
            }
        }
        for wanted in before.networks.iter().chain(&wanted.networks) {
            if let Some(NetworkLease { number, pods }) = network(wanted) {
                let known = networks.entry(wanted.name.clone()).or_default();
                known.number = number;
                known.pods.extend(pods);
            }
        }
        Ok(HostInputs {
            host: self.host.clone(),
            leases,
            networks,
            pooled: proposal.pooled().clone(),
            projects: proposal.projects(),
            images: self.configs_of(images),
            resolver: read_resolver(),
            overrides: self.store.overrides()?,
            runs: self.runs.planned(),
        })
    }

    /// The configurations of these images, as far as they are on this host.
    fn configs_of(&self, wanted: &BTreeSet<Digest>) -> Arc<Configs> {
        let known = Arc::clone(&self.configs.lock().unwrap_or_else(PoisonError::into_inner));
        if wanted.iter().all(|digest| known.contains_key(digest)) {
            return known;
        }
        let mut configs = Configs::new();
        for digest in wanted {
            match known.get(digest) {
                Some(config) => drop(configs.insert(*digest, config.clone())),
                // What can't be read is not there: the plan says so of whoever needs it.
                None => match self.images.config(digest) {
                    Ok(config) => drop(configs.insert(*digest, to_plan(&config))),
                    Err(error) => tracing::warn!(%digest, error = error.message(), "no such image"),
                },
            }
        }
        let configs = Arc::new(configs);
        *self.configs.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&configs);
        configs
    }
}

impl HostInputs {
    /// Has the overrides be those with which the generation `number` would begin.
    pub(super) fn begin(&mut self, number: u64, scope: &Scope, graph: &Graph) {
        self.overrides = self.overrides.after_change(number, scope, graph);
    }

    /// What the host should be by `graph`.
    pub fn target<'a>(&'a self, graph: &'a Graph, previous: Option<&'a Graph>) -> Target<'a> {
        Target {
            graph,
            previous,
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

fn to_plan(config: &tank_image::ImageConfig) -> ImageConfig {
    let tank_image::ImageConfig {
        entrypoint,
        cmd,
        env,
        user,
        working_dir,
        stop_signal,
        passwd,
        group,
    } = config.clone();
    ImageConfig {
        entrypoint,
        cmd,
        env,
        user,
        working_dir,
        stop_signal,
        passwd,
        group,
    }
}

fn read_resolver() -> Resolver {
    let host = read(RESOLV_CONF);
    let upstream = if Resolver::needs_upstream(&host) {
        read(UPSTREAM)
    } else {
        String::new()
    };
    Resolver { host, upstream }
}

/// A file that may not be there: then it says nothing.
fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    let file = fs::File::open(path);
    match file.and_then(|file| file.take(MAX_RESOLVER_FILE).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}
