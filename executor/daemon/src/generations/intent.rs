//! From what a client asks for to the graph that is meant: `switch`, `apply` and their `diff` go
//! through here, so that what is shown is what is done. Disturbs nothing.
//!
//! Only the pods that a request means are touched ([`Scope`]): all pods of its stack, with `merge`
//! those that it names, or the whole host. The images of all others keep the digests that the current
//! graph has, and their paths are not looked at ([`tank_model::stack`]).

use super::{
    Error, Generations, ProgressSender,
    error::Context,
    origin::{Origin, Origins, source},
    request,
};
use crate::actuate::sources;
use futures_util::stream::{self, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_image::Images;
use tank_model::{
    Config, Digest, Graph, Key, Name, Platform, Reference, Scope,
    provenance::{PodSource, Provenance},
    spec::{Container, Peer, Pod, Pull},
    stack,
};

/// The most images fetched at once.
const MAX_FETCHES: usize = 4;

/// The most images of one question for their digests.
const MAX_RESOLVED: usize = 1_000;

/// The most characters of what is asked for, in words.
pub(super) const MAX_SOURCE: usize = 512;

/// What a client asks for.
pub struct Request {
    /// Canonical JSON of a [`Config`].
    pub config: String,
    pub origins: Origins,
    /// Only the named pods are meant.
    pub merge: bool,
    /// Pods of other sources are taken over.
    pub replace: bool,
    /// Which line set each field: JSON of [`Provenance`].
    pub provenance: Option<String>,
    pub uid: u32,
    /// It is only looked at what it would do: for its sake no generation is deleted.
    pub looks: bool,
}

/// What is meant, and what it was planned against.
pub struct Intent {
    pub current: Option<u64>,
    pub before: Arc<Graph>,
    pub graph: Arc<Graph>,
    /// The pods that are meant.
    pub scope: Scope,
    /// Which line set each field of the whole host, and where each pod comes from.
    pub provenance: Provenance,
    /// Keeps the images from being collected.
    pub held: Images,
}

/// A reference, what it is relative to if it is, and for which platform it is wanted if not for this host's.
type Wanted = (Option<PathBuf>, Reference, Option<Platform>);

/// Who uses an image.
#[derive(Default)]
struct Users {
    /// `pod/container`.
    names: Vec<String>,
    /// When its registry is asked: as often as one of them wants it.
    pull: Option<Pull>,
}

impl Request {
    /// A request of one source. `asked` is what is asked for, in words.
    pub fn new(
        config: String,
        base_dir: Option<&Path>,
        (files, asked): (&[String], &str),
        uid: u32,
    ) -> Self {
        let base_dir = base_dir.map(Path::to_owned);
        let source = source(files, asked, uid);
        Self {
            config,
            origins: Origins::One(Origin { base_dir, source }),
            merge: false,
            replace: false,
            provenance: None,
            uid,
            looks: false,
        }
    }

    fn scope(&self, config: &Config) -> Scope {
        match self.merge {
            true => Scope::Pods(config.pods.keys().cloned().collect()),
            false if self.origins.is_host() => Scope::Host,
            false => Scope::Stack(config.stack.clone()),
        }
    }
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
        let (part, mut lines, sources) = {
            let _span = self
                .timings
                .span(|| "read and check the request".to_owned());
            let part = request::read_config(&request.config, request.origins.is_host())?;
            let lines = Self::read_provenance(request.provenance.as_deref())?;
            let sources = request.origins.sources(&part)?;
            (part, lines, sources)
        };
        let (current, before) = self.current()?;
        let scope = request.scope(&part);
        if !request.replace {
            let asked = request.origins.source();
            self.refuse_other_sources((current, &before), &scope, asked)?;
        }
        let config = self.whole((current, &before), &part, &scope, &lines)?;
        // Where a pod came from is what this daemon saw, whatever a client says.
        lines.pods = sources;
        // While images are fetched others may change the host; who commits first wins.
        let _span = self
            .timings
            .span(|| "find the images, build the graph".to_owned());
        let held = self.images.holding();
        let graph = self
            .prepare(config, &scope, &before, (request, &held), progress)
            .await?;
        Ok(Intent {
            current,
            held,
            graph: Arc::new(graph),
            provenance: match has_others(&before, &scope) {
                true => self.provenance_with(current, lines, &scope),
                false => Provenance::default().with(lines, &scope),
            },
            before,
            scope,
        })
    }

    /// The whole host with what is asked for.
    ///
    /// # Errors
    /// When that does not fit what stays.
    pub(super) fn whole(
        &self,
        (current, before): (Option<u64>, &Graph),
        part: &Config,
        scope: &Scope,
        lines: &Provenance,
    ) -> Result<Config, Error> {
        if has_others(before, scope) {
            let there = before.config();
            let whole = there.with(part, scope);
            let known = self.known_provenance(current).unwrap_or_default();
            request::refuse_added_problems((&[&there], &whole), scope, &[lines, &known])?;
            return Ok(whole);
        }
        // It was checked by itself, and whether there is what it needs of other stacks was not asked.
        let nothing = Config::default();
        let whole = nothing.with(part, scope);
        let mut needs = part.pods.iter().flat_map(|(pod, spec)| {
            let networks = spec.networks.keys();
            let networks = networks.filter(|network| !network.is_default_network());
            let peers = [spec.allow_from.peers(), spec.egress.peers()];
            let peers = peers.into_iter().flatten().flatten();
            let peers = peers.filter_map(|peer| match peer {
                Peer::Pod(pod) => Some(pod),
                _ => None,
            });
            let others = spec.depends_on.keys().chain(networks).chain(peers);
            others.filter(|other| other.stack() != pod.stack())
        });
        if needs.next().is_some() {
            request::refuse_added_problems((&[&nothing], &whole), scope, &[lines])?;
        }
        Ok(whole)
    }

    /// A pod is not taken over from another source by its name alone, and a stack not by its own.
    /// What belongs to no stack is replaced as a whole by whoever switches it.
    pub(super) fn refuse_other_sources(
        &self,
        (current, before): (Option<u64>, &Graph),
        scope: &Scope,
        asked: Option<&PodSource>,
    ) -> Result<(), Error> {
        let Some(asked) = asked.filter(|_| !matches!(scope, Scope::Stack(None))) else {
            return Ok(());
        };
        let known = self.pod_sources(current);
        let mut there = before.pods().filter(|pod| scope.has(pod));
        let other = there.find_map(|pod| {
            let known = known.get(pod.as_str())?;
            (!known.is_same(asked)).then(|| Error::OtherSource {
                pod: pod.to_string(),
                known: known.clone(),
                asked: asked.clone(),
            })
        });
        other.map_or(Ok(()), Err)
    }

    /// Fetches the images of the pods that `scope` means, checks their paths on this host, and builds
    /// the graph.
    async fn prepare(
        &self,
        config: Config,
        scope: &Scope,
        before: &Graph,
        (request, held): (&Request, &Images),
        progress: &ProgressSender,
    ) -> Result<Graph, Error> {
        let named: BTreeSet<Name> = config
            .pods
            .keys()
            .filter(|pod| scope.has(pod))
            .cloned()
            .collect();
        self.check_sources(&config, &named, before).await?;
        let wanted = |pod: &Name, container: &Container| -> Wanted {
            let base_dir = request.origins.base_dir(pod, container.image.source());
            let base_dir = base_dir.map(Path::to_owned);
            (
                base_dir,
                container.image.clone(),
                container.platform.clone(),
            )
        };
        let mut images: BTreeMap<Wanted, Users> = BTreeMap::new();
        let specs = named
            .iter()
            .filter_map(|pod| Some((pod, config.pods.get(pod)?)));
        for (pod, spec) in specs {
            for (_, name, container) in spec.processes() {
                let users = images.entry(wanted(pod, container)).or_default();
                users.names.push(format!("{pod}/{name}"));
                users.pull = users.pull.max(Some(container.pull));
            }
        }
        // Owned values in and out: the futures are moved between threads.
        let fetches: Vec<_> = images
            .into_iter()
            .map(|(image, users)| self.fetch((held, request.looks), image, users, progress))
            .collect();
        let fetched: Vec<Result<_, Error>> = stream::iter(fetches)
            .buffer_unordered(MAX_FETCHES)
            .collect()
            .await;
        let fetched: BTreeMap<Wanted, Digest> = fetched.into_iter().collect::<Result<_, _>>()?;
        let found =
            |pod: &Name, container: &Container| fetched.get(&wanted(pod, container)).copied();
        let graph = stack::settle(config, before, scope, found);
        let graph = graph.doing("build the graph")?;
        self.check_targets(&graph, before, &named).await?;
        Ok(graph)
    }

    /// Whether the host has every volume and secret that the named pods declare.
    pub(super) async fn check_sources(
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
    pub(super) async fn check_targets(
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

    /// Fetches an image; once more after a collection, where the disk has no space for it.
    async fn fetch(
        &self,
        (images, looks): (&Images, bool),
        (base_dir, reference, platform): Wanted,
        users: Users,
        progress: &ProgressSender,
    ) -> Result<(Wanted, Digest), Error> {
        let Users { names, pull } = users;
        let pull = pull.unwrap_or_default();
        let asks_first = pull != Pull::Always && reference.source().path().is_none();
        let known = match asks_first {
            true => self.here(images, &reference, platform.as_ref()).await?,
            false => None,
        };
        let digest = match known {
            Some(known) => known,
            None if asks_first && pull == Pull::Never => {
                return Err(unavailable(&reference, names, tank_image::Error::NotHere));
            }
            None => {
                let from = (base_dir.as_deref(), &reference, platform.as_ref());
                match self.pull_with_space((images, looks), from, progress).await {
                    Ok(digest) => digest,
                    Err(error) => {
                        let help =
                            match error.is_unreachable() && reference.source().path().is_none() {
                                true => self.help_unreachable(images, from, pull).await,
                                false => None,
                            };
                        let source = unavailable(&reference, names, error);
                        return Err(source.helped(help));
                    }
                }
            }
        };
        let images = images.clone();
        let refuse = tokio::task::spawn_blocking(move || images.refuse_foreign(digest)).await;
        match refuse.doing("look at an image")? {
            Err(error @ tank_image::Error::Foreign { .. }) => {
                Err(unavailable(&reference, names, error))
            }
            // What is damaged is found where it is used.
            _ => Ok(((base_dir, reference, platform), digest)),
        }
    }

    /// What does without a registry that can't be reached: only where it does.
    async fn help_unreachable(
        &self,
        images: &Images,
        (_, reference, platform): (Option<&Path>, &Reference, Option<&Platform>),
        pull: Pull,
    ) -> Option<String> {
        // What is taken already is not advised.
        let help = match pull {
            Pull::Never | Pull::Missing => {
                "Without one, `tank image load` takes the image from an archive"
            }
            Pull::Always => match self.here(images, reference, platform).await {
                Ok(Some(_)) => {
                    "The image is on this host: with `pull = 'missing` it is used, and no registry asked"
                }
                _ => {
                    "Without one, `tank image load` takes the image from an archive, and `pull = 'missing` uses that"
                }
            },
        };
        Some(help.to_owned())
    }

    /// Fetches the image of one container that is in no configuration, as a switch would.
    ///
    /// # Errors
    /// Why it can't be had.
    pub(super) async fn fetch_one(
        &self,
        images: &Images,
        (base_dir, reference, pull): (Option<PathBuf>, Reference, Pull),
        progress: &ProgressSender,
    ) -> Result<Digest, Error> {
        let users = Users {
            names: Vec::new(),
            pull: Some(pull),
        };
        let wanted = (base_dir, reference, None);
        let fetched = self.fetch((images, false), wanted, users, progress).await;
        fetched.map(|(_, digest)| digest)
    }

    /// What tags stand for now; with a platform, their manifests for that.
    ///
    /// # Errors
    /// When one is no reference, or its registry does not say.
    pub async fn resolve(
        &self,
        images: Vec<String>,
        platform: Option<&str>,
    ) -> Result<Vec<(Reference, Digest)>, Error> {
        if images.len() > MAX_RESOLVED {
            let count = images.len();
            let problem = format!("{count} images are asked for, and {MAX_RESOLVED} is the most");
            return Err(Error::Unaskable(problem));
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
        let platform = platform.map(str::parse::<Platform>).transpose();
        let platform = platform.doing("find what tags stand for")?;
        let platform = platform.map(tank_image::Platform::from);
        let platform = &platform;
        let resolve = |reference: Reference| async move {
            let resolved = match platform {
                Some(platform) => self.images.resolve_for(&reference, platform).await,
                None => self.images.resolve(&reference).await,
            };
            let digest = resolved.map_err(|e| unavailable(&reference, Vec::new(), e))?;
            Ok((reference, digest))
        };
        let asked: Vec<_> = references.into_iter().map(resolve).collect();
        let resolved: Vec<Result<_, Error>> =
            stream::iter(asked).buffered(MAX_FETCHES).collect().await;
        resolved.into_iter().collect()
    }
}

/// Whether the host has pods that a change does not mean.
fn has_others(before: &Graph, scope: &Scope) -> bool {
    // Where the scope is some pods, every network and shared volume that they do not name stays.
    let is_other = |name: &Name| matches!(scope, Scope::Pods(_)) || !scope.has(name);
    let networks = before.networks().map(|(name, _)| name);
    let mut beside = networks.chain(before.shared_volumes().map(|(name, _)| name));
    before.pods().any(|pod| !scope.has(pod)) || beside.any(is_other)
}

fn unavailable(reference: &Reference, users: Vec<String>, source: tank_image::Error) -> Error {
    Error::Image {
        image: reference.to_string(),
        users,
        source,
    }
}
