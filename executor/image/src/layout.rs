//! OCI image layouts: a folder with `oci-layout`, `index.json` and `blobs/` (OCI image
//! specification, "image layout").

use crate::{
    Error, MAX_DOCUMENT, document::digest_of, error::Attempt, intake::Intake, store::Origin,
};
use oci_spec::image::{Descriptor, ImageIndex};
use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
};
use tank_layer::budget::Budget;
use tank_model::Digest;

/// The annotation that holds a manifest's tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// The bytes that are copied between two looks at the free space.
const PIECE: usize = 1 << 20;

/// One image of a layout.
pub struct Layout {
    dir: PathBuf,
    tag: String,
}

impl Layout {
    /// The image with the tag `tag` of the layout in the folder `dir`.
    pub fn new(dir: PathBuf, tag: &str) -> Self {
        Self {
            dir,
            tag: tag.to_owned(),
        }
    }

    fn blob_path(&self, digest: Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }
}

/// Opens a file, and only a file: opening a FIFO would wait for whoever writes to it.
fn open(path: &Path) -> Result<fs::File, Error> {
    use std::os::unix::fs::OpenOptionsExt;
    let nonblocking = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = fs::File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path);
    let file = file.attempt(|| format!("open {}", path.display()))?;
    if file.metadata().is_ok_and(|found| found.is_file()) {
        return Ok(file);
    }
    Err(Error::NoFile(path.to_owned()))
}

/// Reads a file of at most [`MAX_DOCUMENT`] bytes.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let file = open(path)?;
    file.take(MAX_DOCUMENT + 1)
        .read_to_end(&mut bytes)
        .attempt(|| format!("read {}", path.display()))?;
    if bytes.len() as u64 > MAX_DOCUMENT {
        return Err(Error::LongDocument(path.to_owned()));
    }
    Ok(bytes)
}

impl Origin for Layout {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        if !self.dir.join("oci-layout").is_file() {
            return Err(Error::NoLayout(self.dir.clone()));
        }
        let index: ImageIndex = serde_json::from_slice(&read(&self.dir.join("index.json"))?)
            .map_err(|error| {
                Error::Document(format!("read {}/index.json", self.dir.display()), error)
            })?;
        let tag = |descriptor: &Descriptor| descriptor.annotations().as_ref()?.get(TAG).cloned();
        let tagged = index
            .manifests()
            .iter()
            .find(|descriptor| tag(descriptor).as_deref() == Some(self.tag.as_str()));
        let only = || match index.manifests().as_slice() {
            [one] if self.tag == "latest" => Some(one),
            _ => None,
        };
        let Some(found) = tagged.or_else(only) else {
            return Err(Error::NoTag {
                dir: self.dir.clone(),
                tag: self.tag.clone(),
                known: index.manifests().iter().filter_map(tag).collect(),
            });
        };
        let digest = digest_of(found)?;
        Ok((read(&self.blob_path(digest))?, digest))
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        read(&self.blob_path(digest))
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let path = self.blob_path(digest_of(descriptor)?);
        let what = || format!("read {}", path.display());
        let mut left = descriptor.size();
        let mut file = tokio::fs::File::from_std(open(&path)?);
        let mut buffer = vec![0; PIECE];
        while left > 0 {
            budget.space()?;
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let read = tokio::io::AsyncReadExt::read(&mut file, &mut buffer[..most]);
            let read = read.await.attempt(what)?;
            if read == 0 {
                break;
            }
            out.take(&buffer[..read]).await.map_err(Error::Intake)?;
            left -= read as u64;
        }
        Ok(())
    }
}
