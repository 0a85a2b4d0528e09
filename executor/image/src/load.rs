//! Archives that somebody sends: put down whole, and then every image that is in them taken in.

use crate::{
    Error, Images,
    error::Attempt,
    files::Files,
    layout::Layout,
    local::Local,
    progress::{Watch, Watched},
    saved::Saved,
    store::Temporary,
};
use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    time::Duration,
};
use tank_model::{
    Digest,
    reference::{ImageSource, Reference},
};
use tokio::{io::AsyncReadExt, net::unix::pipe, time::timeout};

/// The most images of one archive.
const MAX_IMAGES: usize = 100;

/// The longest that is waited for the first bytes, and then for more: an image is saved elsewhere first.
const FIRST_BYTES: Duration = Duration::from_secs(600);
const SILENCE: Duration = Duration::from_secs(120);

const PIECE: usize = 256 << 10;

/// What an archive is called in errors: where it came from is the sender's to know.
const NAME: &str = "the archive";

/// An image of an archive.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Loaded {
    /// What it is called there.
    pub names: Vec<Reference>,
    /// Its tag there, where that is no whole name.
    pub tag: Option<String>,
    /// What it is.
    pub digest: Digest,
}

/// What an archive calls an image.
pub struct Called {
    /// Names that tell it from all others.
    pub names: Vec<String>,
    /// A tag of the archive alone.
    pub tag: Option<String>,
}

/// Which image of an archive is meant.
#[derive(Clone, Debug)]
pub enum Which {
    /// By its name.
    Named(String),
    /// There is one.
    Only,
    /// By its place.
    At(usize),
}

impl Images {
    /// Puts an archive down, which nobody finds there. What it may take of the disk and of time is bounded, and one that is
    /// compressed is refused with its first bytes.
    ///
    /// # Errors
    /// What reading gives, or the budget refuses.
    pub async fn put_down(&self, mut from: pipe::Receiver) -> Result<File, Error> {
        let budget = self.budget();
        let what = || "read an archive".to_owned();
        let temporary = Temporary(self.temporary(Digest::of(NAME.as_bytes())));
        let mut options = fs::File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let mut file = options.open(&temporary.0).attempt(what)?;
        drop(temporary);
        let (mut wait, mut is_first, mut piece) = (FIRST_BYTES, true, Vec::with_capacity(PIECE));
        loop {
            let read = timeout(wait, (&mut from).take(PIECE as u64).read_to_end(&mut piece)).await;
            let read = read.map_err(std::io::Error::from).flatten().attempt(what)?;
            if read == 0 {
                break;
            }
            if is_first && crate::files::is_compressed(&piece) {
                return Err(Error::CompressedArchive(NAME.into()));
            }
            budget.bytes(read as u64)?;
            budget.go_on()?;
            budget.space()?;
            let write = move || file.write_all(&piece).map(|()| (file, piece));
            let written = tokio::task::spawn_blocking(write).await;
            let written = written.map_err(std::io::Error::from).flatten();
            (file, piece) = written.attempt(|| "keep an archive".to_owned())?;
            piece.clear();
            (wait, is_first) = (SILENCE, false);
        }
        Ok(file)
    }

    /// Takes in every image of an archive, held as [`Images::holding`] says.
    ///
    /// # Errors
    /// Why one can't be had; those before it are here.
    pub async fn load(&self, archive: File, watch: Option<Watch>) -> Result<Vec<Loaded>, Error> {
        let files = tokio::task::spawn_blocking(|| Files::of_opened(NAME.into(), archive)).await;
        let files = files.attempt(|| "read the archive".to_owned())??;
        // What Docker writes today is both.
        let is_saved = files.has("manifest.json");
        let called = match is_saved {
            true => Saved::names(&files)?,
            false => Layout::names(&files)?,
        };
        if called.is_empty() || called.len() > MAX_IMAGES {
            let (count, most) = (called.len(), MAX_IMAGES);
            return Err(Error::ImageCount { count, most });
        }
        let mut loaded = Vec::new();
        for (at, called) in called.into_iter().enumerate() {
            let names = called.names.iter().map(|name| registry_name(name));
            let names = names.collect::<Result<Vec<_>, _>>()?;
            let (files, which) = (files.clone(), Which::At(at));
            let origin = match is_saved {
                true => Local::Saved(Saved::new(files, which, self.budget())),
                false => Local::Layout(Layout::new(files, which)),
            };
            let watch = watch.clone();
            let digest = self.fetch(&Watched { origin, watch }).await?;
            loaded.push(Loaded {
                names,
                tag: called.tag.map(|tag| crate::http::shown(&tag)),
                digest,
            });
        }
        Ok(loaded)
    }
}

/// A name that an archive has for an image: as a registry's, with a tag and no digest.
///
/// # Errors
/// When it is none.
pub fn registry_name(name: &str) -> Result<Reference, Error> {
    let parsed = name.parse::<Reference>();
    let parsed = parsed.map_err(|error| Error::Name(crate::http::shown(&error.to_string())))?;
    match parsed.source() {
        ImageSource::Registry { digest: None, .. } => Ok(parsed),
        _ => {
            let shown = crate::http::shown(name);
            Err(Error::Name(format!("`{shown}` is no name with a tag")))
        }
    }
}

impl Files {
    /// Whether it is an archive of images at all.
    pub(crate) fn refuse_without(&self, name: &str) -> Result<(), Error> {
        match self.has(name) {
            true => Ok(()),
            false => Err(Error::NoImages(Path::new(&self.path).to_owned())),
        }
    }
}
