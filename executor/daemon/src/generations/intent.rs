//! From what a client asks for to the graph that is meant: `switch`, `apply` and their `diff` go
//! through here, so that what is shown is what is done. Disturbs nothing.
//!
//! With `merge` only the named pods are touched: the images of all others keep the digests that the
//! current graph has, and their paths are not looked at. A reference has one digest in a graph;
//! where a named pod's tag stands for another one by now than a pod that stays has, the named pod's
//! reference is pinned to it (`nginx:1.27@sha256:…`).

use crate::{
    actuate::sources,
    generations::request,
    generations::{Engine, ProgressSender, internal, notify},
};
use futures_util::stream::{self, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_model::{
    Config, Digest, Graph, Name, Reference,
    provenance::PodSource,
    spec::{Container, Pod},
};
use tank_proto::varlink::{DiffCall, Error, Stage, SwitchCall};

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
            source: source(
                call.files.as_deref(),
                call.source.as_deref().unwrap_or("diff"),
                uid,
            ),
        })
    }
}

fn source(files: Option<&[String]>, asked: &str, uid: u32) -> PodSource {
    let named = files.unwrap_or_default().iter().take(MAX_FILES).cloned();
    let files: BTreeSet<String> = named.collect();
    let asked = || BTreeSet::from([asked.chars().take(512).collect()]);
    PodSource {
        files: if files.is_empty() { asked() } else { files },
        uid,
    }
}

fn references<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<Reference> {
    pods.flat_map(Pod::processes)
        .map(|(_, _, container)| container.image.clone())
        .collect()
}

impl Engine {
    /// Reads, checks and merges a request, and finds its images.
    ///
    /// # Errors
    /// Whatever stops it; nothing was changed.
    pub async fn intend(
        &self,
        request: &Request,
        progress: &ProgressSender,
    ) -> Result<Intent, Error> {
        let config = {
            let _span = self
                .host
                .timings
                .span(|| "read and check the request".to_owned());
            request::read_config(&request.config)?
        };
        let (current, before) = self.current()?;
        let sources = config
            .pods
            .keys()
            .map(|pod| (pod.to_string(), request.source.clone()))
            .collect();
        let named: BTreeSet<Name> = config.pods.keys().cloned().collect();
        let config = if request.merge {
            if !request.replace {
                self.refuse_other_sources(current, &before, &named, &request.source)?;
            }
            let mut merged = before.config();
            merged.pods.extend(config.pods);
            let problems = request::added_problems(&before.config(), &merged);
            if !problems.is_empty() {
                return Err(Error::Invalid { problems });
            }
            merged
        } else {
            config
        };
        // While images are fetched others may change the host; who commits first wins.
        let _span = self
            .host
            .timings
            .span(|| "find the images, build the graph".to_owned());
        let graph = self
            .prepare(
                config,
                &named,
                &before,
                request.base_dir.as_deref(),
                progress,
            )
            .await?;
        Ok(Intent {
            current,
            before,
            graph: Arc::new(graph),
            sources,
        })
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
        let other = named
            .iter()
            .filter(|pod| before.pod(pod).is_some())
            .find_map(|pod| {
                let known = known
                    .get(pod.as_str())
                    .filter(|known| !known.is_same(asked))?;
                Some(Error::OtherSource {
                    pod: pod.to_string(),
                    known: known.to_string(),
                    asked: asked.to_string(),
                })
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
        self.check_sources(&config, named, before).await?;
        let of = |is_named: bool| {
            config
                .pods
                .iter()
                .filter(move |(pod, _)| named.contains(*pod) == is_named)
        };
        let wanted = references(of(true).map(|(_, spec)| spec));
        let known = before.images();
        let mut digests: BTreeMap<Reference, Digest> = references(of(false).map(|(_, spec)| spec))
            .into_iter()
            .filter_map(|reference| {
                known
                    .get_key_value(&reference)
                    .map(|(reference, digest)| (reference.clone(), *digest))
            })
            .collect();
        // Owned values in and out: the futures are moved between threads.
        let fetches: Vec<_> = wanted
            .into_iter()
            .map(|reference| self.fetch(reference, base_dir, progress))
            .collect();
        let fetched: Vec<Result<_, Error>> = stream::iter(fetches)
            .buffer_unordered(FETCHES)
            .collect()
            .await;
        let fetched: BTreeMap<Reference, Digest> = fetched.into_iter().collect::<Result<_, _>>()?;
        let named_pods = config
            .pods
            .iter()
            .filter(|(pod, _)| named.contains(*pod))
            .map(|(_, spec)| spec);
        self.check_working_dirs(named_pods, &fetched)?;
        for (reference, digest) in fetched {
            match digests.get(&reference) {
                Some(kept) if *kept != digest => pin(&mut config, named, &reference, digest)?,
                _ => drop(digests.insert(reference, digest)),
            }
        }
        Graph::build(&config, |reference| digests.get(reference).copied())
            .map_err(|e| internal("build the graph", e))
    }

    /// Whether the host has every volume and secret that the named pods declare.
    async fn check_sources(
        &self,
        config: &Config,
        named: &BTreeSet<Name>,
        before: &Graph,
    ) -> Result<(), Error> {
        let needs = |pod: &Pod| {
            let host = pod.volumes.values().any(|volume| volume.host.is_some());
            host || pod
                .processes()
                .any(|(_, _, container)| !container.secrets.is_empty())
        };
        if !config
            .pods
            .iter()
            .any(|(pod, spec)| named.contains(pod) && needs(spec))
        {
            return Ok(());
        }
        let (host, config, named, before) = (
            Arc::clone(&self.host),
            config.clone(),
            named.clone(),
            before.config(),
        );
        let check = move || sources::check(&host.sources, &config, &named, &before);
        let checked = tokio::task::spawn_blocking(check)
            .await
            .map_err(|e| internal("look for what the host gives", e))?;
        checked.map_err(|(what, why)| Error::Failed { what, why })
    }

    /// Refuses images whose working directory can't be one, where a pod does not name its own.
    fn check_working_dirs<'a>(
        &self,
        pods: impl Iterator<Item = &'a Pod>,
        digests: &BTreeMap<Reference, Digest>,
    ) -> Result<(), Error> {
        let containers = pods
            .flat_map(Pod::processes)
            .map(|(_, _, container)| container);
        let images: BTreeSet<&Reference> = containers
            .filter(|container| container.working_dir.is_none())
            .map(|container| &container.image)
            .collect();
        for (reference, digest) in images
            .into_iter()
            .filter_map(|image| Some((image, *digests.get(image)?)))
        {
            let unavailable = |why, help| Error::ImageUnavailable {
                image: reference.to_string(),
                why,
                help,
            };
            let image = self
                .host
                .images
                .find(digest)
                .map_err(|e| unavailable(e.why, e.help))?;
            let dir = image
                .config
                .config()
                .as_ref()
                .and_then(|config| config.working_dir().as_deref());
            let help = "set `working_dir` of its container to an absolute path".to_owned();
            crate::actuate::start::working_dir(None, dir)
                .map_err(|why| unavailable(why, Some(help)))?;
        }
        Ok(())
    }

    async fn fetch(
        &self,
        reference: Reference,
        base_dir: Option<&Path>,
        progress: &ProgressSender,
    ) -> Result<(Reference, Digest), Error> {
        notify(progress, Stage::Pull, reference.to_string());
        match self.host.images.pull(&reference, base_dir).await {
            Ok(digest) => Ok((reference, digest)),
            Err(e) => Err(Error::ImageUnavailable {
                image: reference.to_string(),
                why: e.why,
                help: e.help,
            }),
        }
    }
}

/// Pins `reference` in the named pods: those that stay have another digest for it.
fn pin(
    config: &mut Config,
    named: &BTreeSet<Name>,
    reference: &Reference,
    digest: Digest,
) -> Result<(), Error> {
    let pinned = reference
        .pinned(digest)
        .map_err(|e| internal("pin an image", e))?;
    let pods = config
        .pods
        .iter_mut()
        .filter(|(pod, _)| named.contains(*pod))
        .map(|(_, spec)| spec);
    let containers = pods.flat_map(|pod| pod.containers.values_mut().chain(pod.init.values_mut()));
    let using = |container: &&mut Container| container.image == *reference;
    containers
        .filter(using)
        .for_each(|container| container.image = pinned.clone());
    Ok(())
}
