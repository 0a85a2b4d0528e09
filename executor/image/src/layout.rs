//! OCI image layouts: a folder, or a tar archive, with `oci-layout`, `index.json` and `blobs/` (OCI image
//! specification, "image layout").

use crate::{Error, document::digest_of, files::Files, intake::Intake, store::Origin};
use oci_spec::image::{Descriptor, ImageIndex};
use tank_layer::budget::Budget;
use tank_model::Digest;

/// The annotation that holds a manifest's tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// One image of a layout.
pub struct Layout {
    files: Files,
    tag: String,
}

impl Layout {
    /// The image with the tag `tag` of the layout that these are the files of.
    pub fn new(files: Files, tag: &str) -> Self {
        let tag = tag.to_owned();
        Self { files, tag }
    }
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Origin for Layout {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        let path = &self.files.path;
        if !self.files.has("oci-layout") {
            return Err(Error::NoLayout(path.clone()));
        }
        let index: ImageIndex =
            serde_json::from_slice(&self.files.read("index.json")?).map_err(|error| {
                Error::Document(format!("read {}/index.json", path.display()), error)
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
                dir: path.clone(),
                tag: self.tag.clone(),
                known: index.manifests().iter().filter_map(tag).collect(),
            });
        };
        let digest = digest_of(found)?;
        Ok((self.files.read(&blob_name(digest))?, digest))
    }

    fn name(&self) -> String {
        self.files.path.display().to_string()
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        self.files.read(&blob_name(digest))
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        let part = self.files.open(&blob_name(digest_of(descriptor)?))?;
        part.copy(descriptor.size(), out, budget).await
    }
}
