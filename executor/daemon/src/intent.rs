//! From what a client asks for to the graph that is meant: `switch`, `apply` and their `diff` go through here, so that
//! what is shown is what is done. Disturbs nothing.
//!
//! With `merge` only the named pods are touched: the images of all others keep the digests that the current graph has,
//! and their paths are not looked at. A reference has one digest in a graph; where a named pod's tag stands for another
//! one by now than a pod that stays has, the named pod's reference is pinned to it (`nginx:1.27@sha256:…`).

use crate::{
    engine::{Engine, ProgressSender, internal, notify},
    request,
};
use futures_util::stream::{self, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_model::{
    Config, Digest, Graph, Name, Reference, check,
    provenance::PodSource,
    spec::{Container, Pod},
};
use tank_proto::varlink::{DiffCall, Error, SwitchCall};

/// The most images fetched at once.
const FETCHES: usize = 4;

/// The most files that one call may name.
const MAX_FILES: usize = 1_000;

/// What a client asks for.
pub struct Request {
    config: String,
    base_dir: Option<PathBuf>,
    merge: bool,
    replace: bool,
    pub source: PodSource,
}

/// What is meant, and what it was planned against.
pub struct Intent {
    pub current: Option<u64>,
    pub before: Arc<Graph>,
    pub graph: Arc<Graph>,
    /// The pods the client named, each with its source.
    pub sources: BTreeMap<String, PodSource>,
}

impl Request {
    pub fn of_switch(call: &SwitchCall, uid: u32) -> Self {
        Self {
            config: call.config.clone(),
            base_dir: call.base_dir.as_deref().map(PathBuf::from),
            merge: call.merge == Some(true),
            replace: call.replace == Some(true),
            source: source(call.files.as_deref(), &call.source, uid),
        }
    }

    /// None: the call asks for the drift of the current generation.
    pub fn of_diff(call: &DiffCall, uid: u32) -> Option<Self> {
        Some(Self {
            config: call.config.clone()?,
            base_dir: call.base_dir.as_deref().map(PathBuf::from),
            merge: call.merge == Some(true),
            replace: call.replace == Some(true),
            source: source(call.files.as_deref(), call.source.as_deref().unwrap_or("diff"), uid),
        })
    }
}

fn source(files: Option<&[String]>, asked: &str, uid: u32) -> PodSource {
    let named = files.unwrap_or_default().iter().take(MAX_FILES).cloned();
    let files: BTreeSet<String> = named.collect();
    let asked = || BTreeSet::from([asked.chars().take(512).collect()]);
    PodSource { files: if files.is_empty() { asked() } else { files }, uid }
}

fn checked(config: &Config) -> Result<(), Error> {
    let problems: Vec<String> = check::check(config).iter().map(|problem| problem.message.clone()).collect();
    if problems.is_empty() { Ok(()) } else { Err(Error::Invalid { problems }) }
}

fn references<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<Reference> {
    pods.flat_map(Pod::processes).map(|(_, _, container)| container.image.clone()).collect()
}

impl Engine {
    /// Reads, checks and merges a request, and finds its images.
    ///
    /// # Errors
    /// Whatever stops it; nothing was changed.
    pub async fn intend(&self, request: &Request, progress: &ProgressSender) -> Result<Intent, Error> {
        let config = {
            let _span = self.host.timings.span(|| "read and check the request".to_owned());
            request::read_config(&request.config)?
        };
        let (current, before) = self.current()?;
        let sources = config.pods.keys().map(|pod| (pod.to_string(), request.source.clone())).collect();
        let named: BTreeSet<Name> = config.pods.keys().cloned().collect();
        let config = if request.merge {
            if !request.replace {
                self.refuse_other_sources(current, &before, &named, &request.source)?;
            }
            let mut merged = before.config();
            merged.pods.extend(config.pods);
            checked(&merged)?;
            merged
        } else {
            config
        };
        // While images are fetched others may change the host; who commits first wins.
        let _span = self.host.timings.span(|| "find the images, build the graph".to_owned());
        let graph = self.prepare(config, &named, &before, request.base_dir.as_deref(), progress).await?;
        Ok(Intent { current, before, graph: Arc::new(graph), sources })
    }

    /// A pod is not taken over from another source by its name alone.
    fn refuse_other_sources(
        &self,
        current: Option<u64>,
        before: &Graph,
        named: &BTreeSet<Name>,
        asked: &PodSource,
    ) -> Result<(), Error> {
        let known = self.pod_sources(current);
        let other = named.iter().filter(|pod| before.pod(pod).is_some()).find_map(|pod| {
            let known = known.get(pod.as_str()).filter(|known| !known.is_same(asked))?;
            Some(Error::OtherSource { pod: pod.to_string(), known: known.to_string(), asked: asked.to_string() })
        });
        other.map_or(Ok(()), Err)
    }

    /// Fetches the images of the named pods, checks their paths on this host, and builds the graph.
    async fn prepare(
        &self,
        mut config: Config,
        named: &BTreeSet<Name>,
        before: &Graph,
        base_dir: Option<&Path>,
        progress: &ProgressSender,
    ) -> Result<Graph, Error> {
        for (pod, spec) in config.pods.iter().filter(|(pod, _)| named.contains(*pod)) {
            check_paths(pod, spec)?;
        }
        let of = |is_named: bool| config.pods.iter().filter(move |(pod, _)| named.contains(*pod) == is_named);
        let wanted = references(of(true).map(|(_, spec)| spec));
        let known = before.images();
        let mut digests: BTreeMap<Reference, Digest> = references(of(false).map(|(_, spec)| spec))
            .into_iter()
            .filter_map(|reference| {
                known.get_key_value(&reference).map(|(reference, digest)| (reference.clone(), *digest))
            })
            .collect();
        // Owned values in and out: the futures are moved between threads.
        let fetches: Vec<_> = wanted.into_iter().map(|reference| self.fetch(reference, base_dir, progress)).collect();
        let fetched: Vec<Result<_, Error>> = stream::iter(fetches).buffer_unordered(FETCHES).collect().await;
        let fetched: BTreeMap<Reference, Digest> = fetched.into_iter().collect::<Result<_, _>>()?;
        for (reference, digest) in fetched {
            match digests.get(&reference) {
                Some(kept) if *kept != digest => pin(&mut config, named, &reference, digest)?,
                _ => drop(digests.insert(reference, digest)),
            }
        }
        Graph::build(&config, |reference| digests.get(reference).copied()).map_err(|e| internal("build the graph", e))
    }

    async fn fetch(
        &self,
        reference: Reference,
        base_dir: Option<&Path>,
        progress: &ProgressSender,
    ) -> Result<(Reference, Digest), Error> {
        notify(progress, "pull", reference.to_string());
        match self.host.images.pull(&reference, base_dir).await {
            Ok(digest) => Ok((reference, digest)),
            Err(e) => Err(Error::ImageUnavailable { image: reference.to_string(), why: e.why, help: e.help }),
        }
    }
}

/// Pins `reference` in the named pods: those that stay have another digest for it.
fn pin(config: &mut Config, named: &BTreeSet<Name>, reference: &Reference, digest: Digest) -> Result<(), Error> {
    let pinned = reference.pinned(digest).map_err(|e| internal("pin an image", e))?;
    let pods = config.pods.iter_mut().filter(|(pod, _)| named.contains(*pod)).map(|(_, spec)| spec);
    let containers = pods.flat_map(|pod| pod.containers.values_mut().chain(pod.init.values_mut()));
    let using = |container: &&mut Container| container.image == *reference;
    containers.filter(using).for_each(|container| container.image = pinned.clone());
    Ok(())
}

fn check_paths(pod: &Name, spec: &Pod) -> Result<(), Error> {
    for (name, volume) in &spec.volumes {
        if let Some(path) = volume.host.as_deref().filter(|path| !Path::new(path).is_dir()) {
            let why = format!("there is no directory `{path}` on this host");
            return Err(Error::Failed { what: format!("use the volume `{name}` of pod `{pod}`"), why });
        }
    }
    for secret in spec.processes().flat_map(|(_, _, container)| container.secrets.values()) {
        if !Path::new(&secret.file).is_file() {
            let why = format!("there is no file `{}` on this host", secret.file);
            return Err(Error::Failed { what: format!("use a secret of pod `{pod}`"), why });
        }
    }
    Ok(())
}
