//! OCI image layouts: a folder, or a tar archive, with `oci-layout`, `index.json` and `blobs/` (OCI image
//! specification, "image layout").

use crate::{
    Error,
    document::digest_of,
    files::Files,
    intake::Intake,
    load::{Called, Which},
    store::Origin,
};
use oci_spec::image::{Descriptor, ImageIndex};
use tank_layer::budget::Budget;
use tank_model::Digest;

/// The annotation that holds a manifest's tag.
const TAG: &str = "org.opencontainers.image.ref.name";

/// The annotation that holds an image's whole name, of containerd.
const NAME: &str = "io.containerd.image.name";

/// One image of a layout.
pub struct Layout {
    files: Files,
    which: Which,
}

impl Layout {
    /// An image of the layout that these are the files of, named by its tag.
    pub fn new(files: Files, which: Which) -> Self {
        Self { files, which }
    }

    /// What each image of a layout is called: as containerd says it, or as a tag that is a whole name.
    ///
    /// # Errors
    /// When it is no layout.
    pub fn names(files: &Files) -> Result<Vec<Called>, Error> {
        files.refuse_without("oci-layout")?;
        let name = |descriptor: &Descriptor| {
            let known = descriptor.annotations().as_ref();
            let of = |key: &str| known.and_then(|known| known.get(key)).cloned();
            let (whole, tag) = match of(TAG) {
                Some(tag) if tag.contains(['/', ':']) => (Some(tag), None),
                tag => (None, tag),
            };
            Called {
                names: of(NAME).or(whole).into_iter().collect(),
                tag,
            }
        };
        Ok(read_index(files)?.manifests().iter().map(name).collect())
    }
}

fn read_index(files: &Files) -> Result<ImageIndex, Error> {
    let parsed = serde_json::from_slice(&files.read("index.json")?);
    parsed.map_err(|error| {
        Error::Document(format!("read {}/index.json", files.path.display()), error)
    })
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
        let index = read_index(&self.files)?;
        let tag = |descriptor: &Descriptor| descriptor.annotations().as_ref()?.get(TAG).cloned();
        let wanted = match &self.which {
            Which::Named(tag) => tag.as_str(),
            Which::Only | Which::At(_) => "latest",
        };
        let tagged = index
            .manifests()
            .iter()
            .find(|descriptor| tag(descriptor).as_deref() == Some(wanted));
        let only = || match index.manifests().as_slice() {
            [one] if wanted == "latest" => Some(one),
            _ => None,
        };
        let found = match self.which {
            Which::At(place) => index.manifests().get(place),
            _ => tagged.or_else(only),
        };
        let Some(found) = found else {
            return Err(Error::NoTag {
                dir: path.clone(),
                tag: wanted.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_tag_that_is_no_whole_name_is_one_of_the_archive_alone() {
        let folder = std::env::temp_dir().join(format!("tank-layout-names-{}", std::process::id()));
        let image = |annotations: Value| {
            json!({
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": Digest::of(b"image").to_string(),
                "size": 5,
                "annotations": annotations,
            })
        };
        let index = json!({ "schemaVersion": 2, "manifests": [
            image(json!({ TAG: "v1" })),
            image(json!({ TAG: "app:2" })),
            image(json!({ TAG: "v3", NAME: "docker.io/library/app:3" })),
            image(json!({})),
        ] });
        std::fs::create_dir_all(&folder).expect("a folder");
        let write = |name: &str, text: String| std::fs::write(folder.join(name), text);
        write(
            "oci-layout",
            "{\"imageLayoutVersion\":\"1.0.0\"}".to_owned(),
        )
        .expect("writes");
        write("index.json", index.to_string()).expect("writes");
        let called = Layout::names(&Files::of_folder(folder.clone())).expect("a layout");
        std::fs::remove_dir_all(&folder).expect("goes");
        let called: Vec<_> = called
            .iter()
            .map(|one| (one.names.join(" "), one.tag.as_deref()))
            .collect();
        let expected = [
            (String::new(), Some("v1")),
            ("app:2".to_owned(), None),
            ("docker.io/library/app:3".to_owned(), Some("v3")),
            (String::new(), None),
        ];
        assert_eq!(called, expected);
    }
}
