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

mod header;
mod save;

pub use header::{AskedRoot, Bundle};

use super::{
    Error, Generations, ProgressSender, Stage,
    data::Wanted,
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
use header::{HEADER, Header, for_others, needs, refused};
use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc, time::Duration};
use tank_image::{Images, Packer, Unpacker};
use tank_model::{
    Config, Gate, Graph, Scope, canonical,
    provenance::{PodSource, Provenance},
};
use tokio::{sync::Mutex, task::spawn_blocking, time::timeout};

const CONFIG: &str = "config.json";
const PROVENANCE: &str = "provenance.json";

/// The most bytes of the header: names and digests.
const MAX_HEADER: u64 = 4 << 20;

/// The longest that a bundle may take to come.
const MAX_TIME: Duration = Duration::from_secs(6 * 3600);

/// What pods come from that a bundle brought.
const SOURCE: &str = "a bundle";

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
    pub root: Option<AskedRoot>,
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
            let images = graph.images().into_values().collect();
            let held = this.images.holding();
            let contents = held.contents(&images);
            let contents = contents.map_err(|source| Error::Carry(Box::new(source)))?;
            let lines = this.known_provenance(Some(number)).map(for_others);
            let lines = lines.map(|lines| serde_json::to_vec(&lines)).transpose();
            let lines = lines.doing("write the provenance")?;
            let lines = lines.filter(|lines| lines.len() <= canonical::MAX_BYTES);
            let about = (number, entry.generation.source);
            let header = Header::new((&graph, &config), about, contents, lines.is_some());
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
        let _place = self.transfer_from(&pipe, "import a generation").await?;
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
        let mut from = Unpacker::new(pipe).doing("import a generation")?;
        let header = from.file(HEADER, MAX_HEADER).await.map_err(untaken)?;
        let header = Header::read(&header)?;
        header.expect_root(import.root.as_ref())?;
        let most = canonical::MAX_BYTES as u64;
        let config = from.file(CONFIG, most).await.map_err(untaken)?;
        let lines = match header.provenance {
            true => Some(from.file(PROVENANCE, most).await.map_err(untaken)?),
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
        notify(
            progress,
            Stage::Note,
            format_args!(
                "taking in the images of generation {} ({root})",
                header.generation
            ),
        );
        let held = self.images.holding();
        let from = Mutex::new(from);
        let unpacked = held.unpack_images(&images, &header.contents, &from, faults::boundary);
        unpacked.await.map_err(untaken)?;
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
            scope,
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
                    scope,
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
            scope,
            source: source.chars().take(MAX_SOURCE).collect(),
            uid: import.uid,
            provenance: Some(Lines::new(&provenance)?),
            rollback: None,
            data: Wanted::new(),
            aim: Aim::Healthy(Gate {
                rollback: import.rollback,
                wait: import.wait.unwrap_or(self.settings.config.wait.0),
            }),
        };
        self.change(current, &before, candidate, None, progress)
            .await
    }
}

impl Export {
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

/// Why images could not be taken: the bundle is wrong, or this host can't.
fn untaken(source: tank_image::Error) -> Error {
    use tank_image::Error as Wrong;
    match source {
        Wrong::Packed(_) | Wrong::PackedWith(_) | Wrong::Member(..) => {
            refused(match source.help() {
                Some(help) => format!("{} ({help})", source.message()),
                None => source.message(),
            })
        }
        other => Error::Carry(Box::new(other)),
    }
}
