//! Generations that leave this host and come to it: a *bundle* is one archive with everything that it takes to run a
//! generation where no registry can be asked.
//!
//! ```text
//! bundle.json          what it is, and what comes
//! config.json          the canonical bytes of what the generation declares, inline files in it
//! provenance.json      which line set each field, where that is known
//! blobs/sha256/HEX     documents of the images, from each image's digest on
//! blobs/sha256/HEX     each layer once, as its plain tar
//! ```
//!
//! *What is trusted*: nothing. From the configuration and the images' digests the graph is built again, and its root
//! has to be the one that the bundle says; from the images' digests everything else follows. It is checked as
//! what comes over the socket is. Files stand in this order, each once, and there are no others. *Guarantees*: no
//! image is found before all of the bundle is verified, and no generation is committed. What was taken of one that is
//! refused is collected as other leftovers are. No lock is held while it comes. *Never* in it: secrets, credentials,
//! logs, volumes, and what a value overrode in its sources.

use super::{
    Error, Generations, ProgressSender, Stage,
    error::Context,
    intent::{Intent, MAX_SOURCE},
    notify,
    origin::source,
    ports,
    provenance::Lines,
    request,
    switch::Candidate,
    way::{Aim, Switched},
};
use crate::faults;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
    time::Duration,
};
use tank_image::{Contents, Images, Packer, Unpacker};
use tank_model::{
    Config, Digest, Gate, Graph, Reference, Scope, canonical,
    provenance::{PodSource, Provenance},
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

const HEADER: &str = "bundle.json";
const CONFIG: &str = "config.json";
const PROVENANCE: &str = "provenance.json";

const FORMAT: &str = "tank-bundle";
const VERSION: u64 = 1;

/// The most bytes of the header: names and digests.
const MAX_HEADER: u64 = 4 << 20;

/// The longest that a bundle may take to come.
const MAX_TIME: Duration = Duration::from_secs(6 * 3600);

/// What pods come from that a bundle brought.
const SOURCE: &str = "a bundle";

/// What a bundle says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    format: String,
    version: u64,
    /// The version of Tank that wrote it.
    tank: String,
    /// The root hash of the graph.
    root: Digest,
    /// The number that the generation had where it is from, and what it was made from.
    generation: u64,
    source: String,
    /// What its images run on: `linux/amd64`.
    platform: String,
    /// What each reference stands for.
    images: BTreeMap<String, Digest>,
    contents: Contents,
    /// Whether there is `provenance.json`.
    provenance: bool,
    /// What has to be on a host that runs it, for people.
    needs: Vec<String>,
}

/// What a bundle has.
#[derive(Clone, Debug)]
pub struct Bundle {
    pub root: Digest,
    /// The number of the generation where it is from.
    pub generation: u64,
    pub images: u64,
    pub layers: u64,
    /// Bytes of the archive; none where it was read.
    pub bytes: Option<u64>,
    /// What has to be on the host that runs it, and is not in it.
    pub needs: Vec<String>,
}

/// A generation that is being written into a pipe.
pub struct Export {
    header: Header,
    files: Vec<(&'static str, Vec<u8>)>,
    /// Keeps the images from being collected.
    held: Images,
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// What is asked of an import.
pub struct Import {
    /// The root that it has to have.
    pub root: Option<Digest>,
    /// Pods of other sources are replaced, and go where the bundle has none of the name.
    pub replace: bool,
    /// What it is called, in words.
    pub source: String,
    pub uid: u32,
    /// How long to wait for health, in milliseconds; none: as long as the host is set up to.
    pub wait: Option<u64>,
    /// Whether the parent is put back when the change does not become healthy.
    pub rollback: bool,
}

/// A bundle that is here as a whole.
pub struct Imported {
    pub bundle: Bundle,
    pub intent: Intent,
}

/// What of the host the pods of a configuration need, and no bundle has.
fn needs(config: &Config) -> Vec<String> {
    let mut needs = BTreeSet::new();
    for (pod, spec) in &config.pods {
        for (volume, source) in &spec.volumes {
            if let Some(path) = &source.host {
                needs.insert(format!("volume {volume} of {pod}: the folder {path}"));
            } else if source.is_managed() {
                needs.insert(format!(
                    "volume {volume} of {pod}: its content, unless it may begin anew"
                ));
            }
        }
        for (_, name, container) in spec.processes() {
            for (secret, source) in &container.secrets {
                let file = &source.file;
                needs.insert(format!("secret {secret} of {pod}/{name}: the file {file}"));
            }
            for (device, source) in &container.devices {
                let path = &source.path;
                needs.insert(format!("device {device} of {pod}/{name}: {path}"));
            }
        }
    }
    needs.into_iter().collect()
}

fn platform() -> String {
    // As images call it (the Go language's GOARCH).
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    format!("linux/{arch}")
}

/// A bundle that is refused; what of it is wrong.
fn refused(why: String) -> Error {
    Error::Bundle(why)
}

impl Header {
    fn about(&self, bytes: Option<u64>) -> Bundle {
        let images: BTreeSet<&Digest> = self.images.values().collect();
        Bundle {
            root: self.root,
            generation: self.generation,
            images: images.len() as u64,
            layers: self.contents.layers.len() as u64,
            bytes,
            needs: self.needs.clone(),
        }
    }

    /// Reads one, and refuses what this version of Tank can't take.
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Kind {
            format: String,
            version: u64,
            tank: Option<String>,
        }
        let wrong = |error| refused(format!("`{HEADER}`: {error}"));
        let kind: Kind = serde_json::from_slice(bytes).map_err(wrong)?;
        if kind.format != FORMAT {
            return Err(refused(format!("`{HEADER}` is that of something else")));
        }
        if kind.version != VERSION {
            let by: String = kind.tank.unwrap_or_default().chars().take(32).collect();
            return Err(refused(format!(
                "it has version {} of the form, written by Tank {by:?}, and this one reads version {VERSION}",
                kind.version
            )));
        }
        let header: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        if header.platform != platform() {
            return Err(refused(format!(
                "its images are for {:?}, and this host is {}",
                header.platform.chars().take(32).collect::<String>(),
                platform()
            )));
        }
        Ok(header)
    }

    /// The graph that a configuration makes with the images that this names, which has to have the root that this
    /// says.
    fn graph(&self, config: &Config) -> Result<Graph, Error> {
        let parse = |(name, digest): (&String, &Digest)| {
            let reference = name.parse::<Reference>();
            let reference =
                reference.map_err(|error| refused(format!("image {name:?}: {error}")))?;
            Ok::<_, Error>((reference, *digest))
        };
        let images = self.images.iter().map(parse);
        let images: BTreeMap<Reference, Digest> = images.collect::<Result<_, _>>()?;
        let graph = Graph::build(config, |reference| images.get(reference).copied());
        let graph = graph.doing("build the graph")?;
        if graph.images() != images {
            return Err(refused(
                "the images that it names are not those of its pods".to_owned(),
            ));
        }
        if graph.root() != self.root {
            return Err(refused(format!(
                "what it declares has the root {}, and it says {}",
                graph.root(),
                self.root
            )));
        }
        Ok(graph)
    }

    fn images(&self) -> BTreeSet<Digest> {
        self.images.values().copied().collect()
    }
}

impl Generations {
    /// A generation, the current one unless a number is given, with all of its images: what is to be written into an
    /// archive.
    ///
    /// # Errors
    /// When there is none of that number, something of it is missing, or too many archives are on their way.
    pub async fn export_generation(self: &Arc<Self>, number: Option<u64>) -> Result<Export, Error> {
        let place = self.transfer()?;
        let this = Arc::clone(self);
        let collect = move || {
            let (entry, config) = this.get(number)?;
            let number = entry.generation.number;
            let graph = this.graph_of(number)?;
            let images = graph.images();
            let held = this.images.holding();
            let contents = held.contents(&images.values().copied().collect());
            let contents = contents.map_err(|source| Error::Carry(Box::new(source)))?;
            let lines = this.known_provenance(Some(number)).map(for_others);
            let lines = lines.map(|lines| serde_json::to_vec(&lines)).transpose();
            let lines = lines.doing("write the provenance")?;
            let lines = lines.filter(|lines| lines.len() <= canonical::MAX_BYTES);
            let header = Header {
                format: FORMAT.to_owned(),
                version: VERSION,
                tank: env!("CARGO_PKG_VERSION").to_owned(),
                root: graph.root(),
                generation: number,
                source: entry.generation.source,
                platform: platform(),
                images: images
                    .into_iter()
                    .map(|(name, digest)| (name.to_string(), digest))
                    .collect(),
                contents,
                provenance: lines.is_some(),
                needs: needs(&config),
            };
            // What is written down has to be what is run.
            header.graph(&config)?;
            let mut files = vec![
                (
                    HEADER,
                    serde_json::to_vec(&header).doing("write the header")?,
                ),
                (
                    CONFIG,
                    canonical::encode(&config).doing("encode a generation")?,
                ),
            ];
            files.extend(lines.map(|lines| (PROVENANCE, lines)));
            Ok(Export {
                header,
                files,
                held,
                _place: place,
            })
        };
        spawn_blocking(collect).await.doing("export a generation")?
    }

    /// Takes a bundle that comes out of a pipe: all of its images are here then, and held. Nothing else was changed.
    ///
    /// # Errors
    /// When it is no bundle, lies, or is not what is asked for; when this host can't run it.
    pub async fn take_bundle(
        self: &Arc<Self>,
        pipe: OwnedFd,
        import: &Import,
        progress: &ProgressSender,
    ) -> Result<Imported, Error> {
        let _place = self.transfer()?;
        let taken = timeout(MAX_TIME, self.take(pipe, import, progress)).await;
        let late = || refused(format!("it takes longer than {} s", MAX_TIME.as_secs()));
        taken.map_err(|_| late())?
    }

    async fn take(
        self: &Arc<Self>,
        pipe: OwnedFd,
        import: &Import,
        progress: &ProgressSender,
    ) -> Result<Imported, Error> {
        let carry = |source| Error::Carry(Box::new(source));
        let mut from = Unpacker::new(pipe).doing("import a generation")?;
        let header = from.file(HEADER, MAX_HEADER).await.map_err(carry)?;
        let header = Header::read(&header)?;
        if let Some(root) = import.root.filter(|root| *root != header.root) {
            let found = header.root;
            return Err(refused(format!(
                "it has the root {found}, and {root} is asked for"
            )));
        }
        let most = canonical::MAX_BYTES as u64;
        let config = from.file(CONFIG, most).await.map_err(carry)?;
        let lines = match header.provenance {
            true => Some(from.file(PROVENANCE, most).await.map_err(carry)?),
            false => None,
        };
        let read = move || {
            let text = |bytes: Vec<u8>, name: &str| {
                String::from_utf8(bytes).map_err(|_| refused(format!("`{name}` is no text")))
            };
            let config = request::read_config(&text(config, CONFIG)?, true)?;
            let lines = lines.map(|lines| text(lines, PROVENANCE)).transpose()?;
            let lines = Self::read_provenance(lines.as_deref())?;
            let graph = header.graph(&config)?;
            Ok::<_, Error>((header, config, lines, graph))
        };
        let read = spawn_blocking(read).await.doing("read a bundle")?;
        let (mut header, config, lines, graph) = read?;
        header.needs = needs(&config);
        let (images, root) = (header.images(), header.root);
        let count = images.len();
        notify(
            progress,
            Stage::Pull,
            format_args!(
                "{count} images of generation {} ({root})",
                header.generation
            ),
        );
        let held = self.images.holding();
        let from = Mutex::new(from);
        let unpacked = held.unpack_images(&images, &header.contents, &from, faults::boundary);
        unpacked.await.map_err(carry)?;
        let intent = self
            .intend_bundle((config, graph, lines), held, import)
            .await?;
        Ok(Imported {
            bundle: header.about(None),
            intent,
        })
    }

    /// Refuses what this host can't run, and what it has of other sources.
    async fn intend_bundle(
        &self,
        (config, graph, mut lines): (Config, Graph, Provenance),
        held: Images,
        import: &Import,
    ) -> Result<Intent, Error> {
        let (current, before) = self.current()?;
        let scope = Scope::Host;
        let own = source(&[], SOURCE, import.uid);
        if !import.replace {
            self.refuse_other_sources((current, &before), &scope, Some(&own))?;
        }
        self.whole((current, &before), &config, &scope, &lines)?;
        let named = config.pods.keys().cloned().collect();
        self.check_sources(&config, &named, &before).await?;
        self.check_targets(&graph, &before, &named).await?;
        // Where a pod came from is what this daemon knows, whatever a bundle says.
        let of = |pod: &tank_model::Name| (pod.to_string(), own.clone());
        lines.pods = config
            .pods
            .keys()
            .map(of)
            .collect::<BTreeMap<String, PodSource>>();
        Ok(Intent {
            current,
            before,
            graph: Arc::new(graph),
            provenance: Provenance::default().with(lines, &scope),
            held,
        })
    }

    /// Makes what a bundle has the next generation, as a switch does. A caller that leaves before the commit ends it.
    ///
    /// # Errors
    /// As [`Generations::switch`].
    pub async fn switch_to_bundle(
        &self,
        imported: Imported,
        import: &Import,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let result = self.switch_to_imported(imported, import, progress).await;
        self.name_successor(result).await
    }

    async fn switch_to_imported(
        &self,
        imported: Imported,
        import: &Import,
        progress: &ProgressSender,
    ) -> Result<Switched, Error> {
        let Imported {
            bundle,
            intent:
                Intent {
                    current,
                    before,
                    graph,
                    provenance,
                    held: _held,
                },
        } = imported;
        let _switching = self.begin(current).await?;
        ports::refuse_taken(&self.cgroups, &before, &graph).await?;
        self.refuse_unconnectable(&before, &graph).await?;
        let source = format!(
            "import {} (generation {})",
            import.source, bundle.generation
        );
        let candidate = Candidate {
            graph,
            source: source.chars().take(MAX_SOURCE).collect(),
            uid: import.uid,
            provenance: Some(Lines::new(&provenance)?),
            rollback: None,
            aim: Aim::Healthy(Gate {
                rollback: import.rollback,
                wait: import.wait.unwrap_or(self.settings.config.wait.0),
            }),
        };
        self.change(current, &before, candidate, None, progress)
            .await
    }
}

/// Images that are being written into a pipe.
pub struct Save {
    save: tank_image::Save,
    _place: tokio::sync::OwnedSemaphorePermit,
}

/// The most images that are saved at once.
const MAX_SAVED: usize = 1_000;

impl Generations {
    /// Images that are here, by what generations call them: what is to be written into an archive.
    ///
    /// # Errors
    /// When one is no reference, or is not here; when too many archives are on their way.
    pub async fn save_images(self: &Arc<Self>, images: Vec<String>) -> Result<Save, Error> {
        let place = self.transfer()?;
        if images.is_empty() || images.len() > MAX_SAVED {
            return Err(Error::Invalid(vec![format!(
                "name 1 to {MAX_SAVED} images"
            )]));
        }
        let mut wanted: Vec<(Reference, Digest)> = Vec::new();
        for image in images {
            let reference = image.parse::<Reference>();
            let reference = reference.map_err(|e| Error::Reference {
                image: image.clone(),
                why: e.to_string(),
            })?;
            let found = self.here(&self.images.holding(), &reference).await?;
            let digest = found.ok_or(Error::Image {
                image,
                users: Vec::new(),
                source: tank_image::Error::Unsaved,
            })?;
            wanted.push((reference, digest));
        }
        let this = Arc::clone(self);
        let save = spawn_blocking(move || this.images.save(&wanted)).await;
        let save = save.doing("save images")?;
        Ok(Save {
            save: save.map_err(|source| Error::Carry(Box::new(source)))?,
            _place: place,
        })
    }
}

impl Save {
    /// Writes all of it into a pipe: how many files there are, and how many bytes.
    ///
    /// # Errors
    /// When nobody reads on, or something of it is no longer what it was.
    pub async fn write(self, pipe: OwnedFd) -> Result<(u64, u64), Error> {
        let out = Packer::new(pipe).doing("save images")?;
        let written = self.save.write(out, faults::boundary).await;
        written.map_err(|source| Error::Carry(Box::new(source)))
    }
}

impl Export {
    /// What it is, without its length.
    pub fn about(&self) -> Bundle {
        self.header.about(None)
    }

    /// Writes all of it into a pipe.
    ///
    /// # Errors
    /// When nobody reads on, or something of it is no longer what it was.
    pub async fn write(self, pipe: OwnedFd) -> Result<Bundle, Error> {
        let carry = |source| Error::Carry(Box::new(source));
        let mut out = Packer::new(pipe).doing("export a generation")?;
        for (name, bytes) in &self.files {
            out.file(name, bytes).await.map_err(carry)?;
        }
        let contents = &self.header.contents;
        let packed = self.held.pack(contents, &mut out, faults::boundary).await;
        packed.map_err(carry)?;
        let bytes = out.end().await.map_err(carry)?;
        Ok(self.header.about(Some(bytes)))
    }
}

/// The lines of a configuration as others may have them: without the values that were overridden, and without what
/// is this host's own.
fn for_others(mut lines: Provenance) -> Provenance {
    for origin in lines.fields.values_mut() {
        origin.overrode.clear();
    }
    lines.pods.clear();
    lines
}
