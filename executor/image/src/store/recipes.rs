//! What else it takes to write a layer's tar again (`layers/HEX.recipe`): a file beside the layer's image, made with
//! it, of that image alone, and never read by this process ([`tank_layer::recipe`]). It is on the disk before the
//! layer has its name. Layers that a version before this one made have none.

use super::{
    Temporary,
    sums::{Form, NO_FOLLOW, Sum},
};
use crate::{Error, error::Attempt};
use std::{
    fs, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// How the files end.
pub(super) const EXTENSION: &str = "recipe";

/// A recipe that is being written.
pub(super) struct Written {
    temporary: Temporary,
    pub file: fs::File,
}

impl Written {
    /// One with a temporary name.
    pub fn new(path: PathBuf) -> Result<Self, Error> {
        let mut options = fs::File::options();
        let options = options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path);
        Ok(Self {
            file: file.attempt(|| "make the recipe of a layer".to_owned())?,
            temporary: Temporary(path),
        })
    }

    /// Makes it that of the layer at `layer`. Its content is on the disk then; its name is with the next that
    /// syncs the directory.
    pub fn name(self, layer: &Path) -> io::Result<Sum> {
        self.file.sync_all()?;
        let sum = Sum::of(&self.file, Form::Pieces, &mut || true)?;
        fs::rename(&self.temporary.0, layer.with_extension(EXTENSION))?;
        Ok(sum)
    }
}

/// The recipe of the layer at `layer`, if it has one.
pub(super) fn open(layer: &Path) -> io::Result<Option<fs::File>> {
    let mut options = fs::File::options();
    let options = options.read(true).custom_flags(NO_FOLLOW);
    match options.open(layer.with_extension(EXTENSION)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
        Ok(file) if file.metadata()?.is_file() => Ok(Some(file)),
        Ok(_) => Err(io::Error::other("it is no file")),
    }
}

/// What is wrong with the recipe of the layer at `layer`, of which this was recorded. None: nothing.
pub(super) fn check(
    layer: &Path,
    known: Sum,
    goes_on: &mut dyn FnMut() -> bool,
) -> io::Result<Option<String>> {
    let Some(file) = open(layer)? else {
        return Ok(Some("the recipe of its archive is missing".to_owned()));
    };
    let found = Sum::of(&file, known.form, goes_on)?;
    Ok((found != known).then(|| {
        format!(
            "the recipe of its archive has the digest {}, and had {} when it was made",
            found.digest, known.digest
        )
    }))
}
