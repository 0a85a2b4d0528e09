//! From what a client asks for to the graph that is meant: `switch`, `apply` and their `diff` go
//! through here, so that what is shown is what is done. Disturbs nothing.
//!
//! With `merge` only the named pods are touched: the images of all others keep the digests that the
//! current graph has, and their paths are not looked at. A reference has one digest in a graph;
//! where a named pod's tag stands for another one by now than a pod that stays has, the named pod's
//! reference is pinned to it (`nginx:1.27@sha256:…`).

use super::{Error, Generations, ProgressSender, Stage, error::Context, notify, request};
use crate::actuate::sources;
use futures_util::stream::{self, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_model::{
    Config, Digest, Graph, Key, Name, Reference,
    provenance::PodSource,
    spec::{Container, Pod},
};

/// The most images fetched at once.
const MAX_FETCHES: usize = 4;

/// The most files that one call may name.
const MAX_FILES: usize = 1_000;

/// The most images of one question for their digests.
const MAX_RESOLVED: usize = 1_000;

/// The most characters of what is asked for, in words.
pub(super) const MAX_SOURCE: usize = 512;

/// What a client asks for.
pub struct Request {
    /// Canonical JSON of a [`Config`].
    pub config: String,
    /// What relative paths of images are relative to.
    pub base_dir: Option<PathBuf>,
    /// Only the named pods are meant.
    pub merge: bool,
    /// Pods of other sources are taken over.
    pub replace: bool,
    pub source: PodSource,
    pub uid: u32,
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
    /// A request for the whole host. `asked` is what is asked for, in words.
    pub fn new(config: String, base_dir: Option<&Path>, asked: &str, uid: u32) -> Self {
        let asked = asked.chars().take(MAX_SOURCE).collect();
        Self {
            config,
            base_dir: base_dir.map(Path::to_owned),
            merge: false,
            replace: false,
            source: PodSource {
                files: BTreeSet::from([asked]),
                uid,
            },
            uid,
        }
    }

    /// Names the files that the configuration was read from, if there are any.
    pub fn set_files(&mut self, files: &[String]) {
        if !files.is_empty() {
            self.source.files = files.iter().take(MAX_FILES).cloned().collect();
        }
    }
}

fn references<'a>(pods: impl Iterator<Item = &'a Pod>) -> BTreeSet<Reference> {
    pods.flat_map(Pod::processes)
        .map(|(_, _, container)| container.image.clone())
        .collect()
}

impl Generations {
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
                return Err(Error::Invalid(problems));
            }
            merged
        } else {
            config
        };
        // While images are fetched others may change the host; who commits first wins.
        let _span = self
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
                    known: known.clone(),
                    asked: asked.clone(),
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
            .buffer_unordered(MAX_FETCHES)
            .collect()
            .await;
        let fetched: BTreeMap<Reference, Digest> = fetched.into_iter().collect::<Result<_, _>>()?;
        for (reference, digest) in fetched {
            match digests.get(&reference) {
                Some(kept) if *kept != digest => pin(&mut config, named, &reference, digest)?,
                _ => drop(digests.insert(reference, digest)),
            }
        }
        let graph = Graph::build(&config, |reference| digests.get(reference).copied());
        let graph = graph.doing("build the graph")?;
        self.check_targets(&graph, before, named).await?;
        Ok(graph)
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
        let (config, named, before) = (config.clone(), named.clone(), before.config());
        let sources = Arc::clone(&self.sources);
        let check = move || sources::check(&sources, &config, &named, &before);
        let checked = tokio::task::spawn_blocking(check).await;
        Ok(checked.doing("look for what the host gives")??)
    }

    /// Refuses a graph of which a named pod could not be started: what it declares does not fit its
    /// image.
    async fn check_targets(
        &self,
        graph: &Graph,
        before: &Graph,
        named: &BTreeSet<Name>,
    ) -> Result<(), Error> {
        let inputs = self.reconciler.read_inputs(graph).await?;
        let target = inputs.target(graph, Some(before));
        let unchanged = |pod: &Name| {
            let hash = |graph: &Graph| graph.get(&Key::Pod(pod.clone())).map(|entry| entry.hash);
            hash(before) == hash(graph)
        };
        for pod in named.iter().filter(|pod| !unchanged(pod)) {
            let inits = graph.init(pod).map(|(name, ..)| name);
            for name in inits.chain(graph.containers(pod).map(|(name, ..)| name)) {
                if let Err(source) = target.container(pod, name) {
                    let (pod, container) = (pod.clone(), name.clone());
                    return Err(Error::Target {
                        pod,
                        container,
                        source,
                    });
                }
            }
        }
        Ok(())
    }

    async fn fetch(
        &self,
        reference: Reference,
        base_dir: Option<&Path>,
        progress: &ProgressSender,
    ) -> Result<(Reference, Digest), Error> {
        notify(progress, Stage::Pull, &reference);
        let pulled = self.images.pull(&reference, base_dir).await;
        let digest = pulled.map_err(|e| unavailable(&reference, e))?;
        Ok((reference, digest))
    }

    /// What tags stand for now.
    ///
    /// # Errors
    /// When one is no reference, or its registry does not say.
    pub async fn resolve(&self, images: Vec<String>) -> Result<Vec<(Reference, Digest)>, Error> {
        if images.len() > MAX_RESOLVED {
            let count = images.len();
            let problem = format!("{count} images are asked for, and {MAX_RESOLVED} is the most");
            return Err(Error::Invalid(vec![problem]));
        }
        let parse = |image: String| {
            let reference = image.parse::<Reference>();
            reference.map_err(|e| Error::Reference {
                image,
                why: e.to_string(),
            })
        };
        let references = images
            .into_iter()
            .map(parse)
            .collect::<Result<BTreeSet<_>, _>>()?;
        let resolve = |reference: Reference| async move {
            let resolved = self.images.resolve(&reference).await;
            let digest = resolved.map_err(|e| unavailable(&reference, e))?;
            Ok((reference, digest))
        };
        let asked: Vec<_> = references.into_iter().map(resolve).collect();
        let resolved: Vec<Result<_, Error>> =
            stream::iter(asked).buffered(MAX_FETCHES).collect().await;
        resolved.into_iter().collect()
    }
}

fn unavailable(reference: &Reference, source: tank_image::Error) -> Error {
    Error::Image {
        image: reference.to_string(),
        source,
    }
}

/// Pins `reference` in the named pods: those that stay have another digest for it.
fn pin(
    config: &mut Config,
    named: &BTreeSet<Name>,
    reference: &Reference,
    digest: Digest,
) -> Result<(), Error> {
    let pinned = reference.pinned(digest).doing("pin an image")?;
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
