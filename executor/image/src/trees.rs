//! Trees of this host as images: a folder, and the closure of a store path of Nix. Each is one layer, an archive that is
//! the same of the same tree each time, with a configuration and a manifest made for it: from there on it is an image like
//! any other, and what it was made of may go.
//!
//! A tree is read twice: for the digest of its archive, which its documents need, and for the layer, where that is not here
//! yet. One that changes between the two, or while a file or a directory of it is read, is an error, and never a layer that
//! is not what its digest says.

mod nix;
mod place;
mod walk;

use crate::{
    Error, MAX_LAYER,
    document::{self, describe},
    intake::{Intake, Way},
    store::Origin,
};
use oci_spec::image::{
    Arch, ConfigBuilder, Descriptor, ImageConfigurationBuilder, ImageManifestBuilder, MediaType,
    Os, RootFsBuilder,
};
use std::{
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tank_layer::budget::Budget;
use tank_model::Digest;
use tokio::{
    sync::{OnceCell, Semaphore, SemaphorePermit, mpsc, oneshot},
    time::timeout,
};

pub use nix::NixError;
pub use walk::TreeError;

/// The most trees that are read at once. One whose file system does not answer keeps its place until it does.
const AT_ONCE: usize = 8;
static READING: Semaphore = Semaphore::const_new(AT_ONCE);

/// How long a tree may give nothing.
const SILENCE: Duration = Duration::from_secs(60);

/// The bytes that are passed on at once, and how many such pieces wait.
const PIECE: usize = 128 << 10;
const WAITING: usize = 4;

/// What a container has for a `PATH` whose image says nothing: that of Docker.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A tree of this host.
#[derive(Debug)]
pub struct Tree {
    what: Arc<What>,
    budget: Budget,
    made: OnceCell<Made>,
}

/// What is read.
#[derive(Debug)]
enum What {
    /// A folder that is the root directory.
    Folder(PathBuf),
    /// Store paths of Nix, by their names, of which the image is named after one.
    Closure { path: String, names: Vec<String> },
}

/// The documents of a tree.
#[derive(Debug)]
struct Made {
    manifest: Vec<u8>,
    config: Vec<u8>,
    layer: Descriptor,
}

impl Tree {
    /// A folder.
    pub fn of_folder(path: PathBuf, budget: Budget) -> Self {
        Self::new(What::Folder(path), budget)
    }

    /// A store path with all that it refers to, as Nix says.
    ///
    /// # Errors
    /// When Nix is not here, or does not know the path.
    pub async fn of_closure(path: &str, budget: Budget) -> Result<Self, Error> {
        let names = nix::closure(path).await?;
        let path = path.to_owned();
        Ok(Self::new(What::Closure { path, names }, budget))
    }

    fn new(what: What, budget: Budget) -> Self {
        Self {
            what: Arc::new(what),
            budget,
            made: OnceCell::new(),
        }
    }

    async fn made(&self) -> Result<&Made, Error> {
        self.made.get_or_try_init(|| self.make()).await
    }

    async fn make(&self) -> Result<Made, Error> {
        let mut intake = Intake::new(Way::Nowhere);
        let size = self.read(&mut intake, &self.budget).await?;
        let (digest, _) = intake.finish();
        let path = match &*self.what {
            What::Folder(_) => PATH.to_owned(),
            What::Closure { path, .. } => format!("{path}/bin:{PATH}"),
        };
        let config = ConfigBuilder::default()
            .env(vec![format!("PATH={path}")])
            .build();
        let layers = RootFsBuilder::default()
            .typ("layers")
            .diff_ids(vec![digest.to_string()])
            .build();
        let config = ImageConfigurationBuilder::default()
            .architecture(Arch::default())
            .os(Os::Linux)
            .config(config.map_err(Error::Made)?)
            .rootfs(layers.map_err(Error::Made)?)
            .build()
            .map_err(Error::Made)?;
        let text = |error| Error::Document("write a manifest".to_owned(), error);
        let config = serde_json::to_vec(&config).map_err(text)?;
        let layer = describe(MediaType::ImageLayer, digest, size)?;
        let length = config.len() as u64;
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .config(describe(
                MediaType::ImageConfig,
                Digest::of(&config),
                length,
            )?)
            .layers(vec![layer.clone()])
            .build()
            .map_err(Error::Made)?;
        Ok(Made {
            manifest: serde_json::to_vec(&manifest).map_err(text)?,
            config,
            layer,
        })
    }

    /// Passes the archive on: how many bytes it has.
    async fn read(&self, out: &mut Intake, budget: &Budget) -> Result<u64, Error> {
        let place = timeout(SILENCE, READING.acquire()).await;
        let place = place.map_err(|_| self.failed(TreeError::Busy))?;
        let place = place.map_err(|_| self.failed(TreeError::Busy))?;
        let (sender, mut pieces) = mpsc::channel(WAITING);
        let (done, outcome) = oneshot::channel();
        // What it takes is counted once, where it is converted; here, too, there is a bound.
        let bound = Budget::of(budget.left(), &PathBuf::new(), None);
        start(Arc::clone(&self.what), (sender, done), bound, place)
            .map_err(|error| self.failed(error.into()))?;
        let mut size = 0;
        loop {
            let piece: Option<Vec<u8>> = timeout(SILENCE, pieces.recv())
                .await
                .map_err(|_| self.failed(TreeError::Silent))?;
            let Some(piece) = piece else { break };
            budget.go_on()?;
            size += piece.len() as u64;
            if size > MAX_LAYER {
                return Err(self.failed(TreeError::Large));
            }
            out.take(&piece).await.map_err(Error::Intake)?;
        }
        match outcome.await {
            Ok(Ok(())) => Ok(size),
            Ok(Err(error)) => Err(self.failed(error)),
            Err(_) => Err(self.failed(TreeError::Changed(Vec::new()))),
        }
    }

    fn failed(&self, error: TreeError) -> Error {
        Error::Tree(self.name(), error)
    }

    /// What is said of one that is another tree by now.
    pub fn changed(&self) -> Error {
        self.failed(TreeError::Changed(Vec::new()))
    }
}

/// Starts reading, on a thread of its own: nobody waits for it for ever, and no worker at all.
fn start(
    what: Arc<What>,
    (sender, done): (
        mpsc::Sender<Vec<u8>>,
        oneshot::Sender<Result<(), TreeError>>,
    ),
    budget: Budget,
    place: SemaphorePermit<'static>,
) -> io::Result<()> {
    let read = move || {
        let _place = place;
        let mut feed = Feed {
            sender,
            piece: Vec::with_capacity(PIECE),
        };
        let written = match &*what {
            What::Folder(path) => walk::folder(path, &mut feed, &budget),
            What::Closure { names, .. } => walk::closure(names, &mut feed, &budget),
        };
        let written = written.and_then(|()| Ok(feed.flush()?));
        drop(feed);
        let _ = done.send(written);
    };
    let thread = std::thread::Builder::new().name("tree".to_owned());
    thread.spawn(read).map(drop)
}

/// Passes on what is written, for as long as anybody takes it.
struct Feed {
    sender: mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        let sent = self.sender.blocking_send(piece);
        sent.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Origin for Tree {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        let manifest = self.made().await?.manifest.clone();
        let digest = Digest::of(&manifest);
        Ok((manifest, digest))
    }

    fn name(&self) -> String {
        match &*self.what {
            What::Folder(path) => path.display().to_string(),
            What::Closure { path, .. } => path.clone(),
        }
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        match self.root().await? {
            (bytes, root) if root == digest => Ok(bytes),
            _ => Err(self.changed()),
        }
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let made = self.made().await?;
        let digest = document::digest_of(descriptor)?;
        if digest == Digest::of(&made.config) {
            return out.take(&made.config).await.map_err(Error::Intake);
        }
        if *descriptor != made.layer {
            return Err(self.changed());
        }
        self.read(out, budget).await.map(drop)
    }
}
