//! Images that are on this host already: from where a reference says to where they are read.

use crate::{
    Error, Images, Watch, error::Attempt, files::Files, layout::Layout, progress::Watched,
    saved::Saved,
};
use std::path::PathBuf;
use tank_model::{
    Digest,
    reference::{ArchiveFormat, ImageSource},
};

impl Images {
    /// Takes an image that is on this host in.
    pub(crate) async fn fetch_local(
        &self,
        path: PathBuf,
        source: &ImageSource,
        watch: Option<Watch>,
    ) -> Result<Digest, Error> {
        let (format, name) = match source {
            ImageSource::Layout { tag, .. } => {
                let origin = Layout::new(Files::of_folder(path), tag);
                return self.fetch(&Watched { origin, watch }).await;
            }
            ImageSource::Archive { format, name, .. } => (format, name.as_deref()),
            ImageSource::Registry { .. } => return Err(Error::NoRegistry),
        };
        let files = tokio::task::spawn_blocking(|| Files::of_archive(path)).await;
        let files = files.attempt(|| "read the archive".to_owned())??;
        match format {
            ArchiveFormat::Oci => {
                let origin = Layout::new(files, name.unwrap_or("latest"));
                self.fetch(&Watched { origin, watch }).await
            }
            ArchiveFormat::Docker => {
                let origin = Saved::new(files, name, self.budget());
                self.fetch(&Watched { origin, watch }).await
            }
        }
    }
}
