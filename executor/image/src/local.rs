//! Images that are on this host already: from what a reference says to where they are read.

use crate::{
    Error, Images, error::Attempt, files::Files, intake::Intake, layout::Layout, load::Which,
    saved::Saved, store::Origin, trees::Tree,
};
use oci_spec::image::Descriptor;
use std::path::{Path, PathBuf};
use tank_layer::budget::Budget;
use tank_model::{
    Digest,
    reference::{ArchiveFormat, ImageSource},
};

/// An image of this host.
pub enum Local {
    /// Of an OCI image layout.
    Layout(Layout),
    /// Of an archive that `docker save` wrote.
    Saved(Saved),
    /// A folder, or a closure of Nix.
    Tree(Box<Tree>),
}

impl Images {
    /// The image that a reference to this host names. A relative path is one of `base_dir`.
    pub(crate) async fn local(
        &self,
        source: &ImageSource,
        base_dir: Option<&Path>,
    ) -> Result<Local, Error> {
        let path = source.path().ok_or(Error::NoRegistry)?;
        let path = base_dir.map_or_else(|| PathBuf::from(path), |base| base.join(path));
        if !path.is_absolute() {
            return Err(Error::Relative(path));
        }
        let (format, name) = match source {
            ImageSource::Layout { tag, .. } => {
                let which = Which::Named(tag.clone());
                return Ok(Local::Layout(Layout::new(Files::of_folder(path), which)));
            }
            ImageSource::Archive { format, name, .. } => {
                (format, name.clone().map_or(Which::Only, Which::Named))
            }
            ImageSource::Folder { .. } => {
                let tree = Tree::of_folder(path, self.budget());
                return Ok(Local::Tree(Box::new(tree)));
            }
            ImageSource::Closure { path } => {
                let tree = Tree::of_closure(path, self.budget()).await?;
                return Ok(Local::Tree(Box::new(tree)));
            }
            ImageSource::Registry { .. } => return Err(Error::NoRegistry),
        };
        let files = tokio::task::spawn_blocking(|| Files::of_archive(path)).await;
        let files = files.attempt(|| "read the archive".to_owned())??;
        Ok(match format {
            ArchiveFormat::Oci => Local::Layout(Layout::new(files, name)),
            ArchiveFormat::Docker => Local::Saved(Saved::new(files, name, self.budget())),
        })
    }
}

impl Local {
    /// What a mismatch means: a tree that gives another archive than before has changed.
    pub(crate) fn explain(&self, error: Error) -> Error {
        match (self, error) {
            (Self::Tree(tree), Error::Mismatch { .. }) => tree.changed(),
            (_, error) => error,
        }
    }
}

impl Origin for Local {
    async fn root(&self) -> Result<(Vec<u8>, Digest), Error> {
        match self {
            Self::Layout(layout) => layout.root().await,
            Self::Saved(saved) => saved.root().await,
            Self::Tree(tree) => tree.root().await,
        }
    }

    fn name(&self) -> String {
        match self {
            Self::Layout(layout) => layout.name(),
            Self::Saved(saved) => saved.name(),
            Self::Tree(tree) => tree.name(),
        }
    }

    async fn document(&self, digest: Digest) -> Result<Vec<u8>, Error> {
        match self {
            Self::Layout(layout) => layout.document(digest).await,
            Self::Saved(saved) => saved.document(digest).await,
            Self::Tree(tree) => tree.document(digest).await,
        }
    }

    async fn blob(
        &self,
        descriptor: &Descriptor,
        out: &mut Intake,
        budget: &Budget,
    ) -> Result<(), Error> {
        match self {
            Self::Layout(layout) => layout.blob(descriptor, out, budget).await,
            Self::Saved(saved) => saved.blob(descriptor, out, budget).await,
            Self::Tree(tree) => tree.blob(descriptor, out, budget).await,
        }
    }
}
