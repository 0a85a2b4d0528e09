//! From the bytes of a layer to its image.

use crate::{
    EntryError, LayerError, Pipeline,
    archive::{Archive, FormatError},
    below::Below,
    budget::Budget,
    layer::{self, Layer},
    recipe::Recipe,
    sums::{Sum, Sums},
};
use std::{fs::File, io};
use tank_erofs::Output;
use tank_model::Digest;

/// A layer that is whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Converted {
    /// The sum of its file, where one was asked for.
    pub sum: Option<Sum>,
    /// Whether it has something of a layer below, and so belongs on top of these alone.
    pub crosses: bool,
}

/// Converts a layer, of which `diff_id` is the digest of its uncompressed bytes, into the empty file
/// of `output`. Without one it is the archive of a volume, which hides nothing of others, and has an end.
/// `below` are the layers under it, of which the nearest comes first; none where they are not known. Into
/// the empty file `recipe` goes what else it takes to write the tar again. Blocking.
///
/// # Errors
/// Why it can't be had. What is in the files then is nothing.
pub fn convert(
    pipeline: Pipeline,
    (output, recipe): (Sums, Option<File>),
    below: Option<Vec<tank_erofs::Image>>,
    diff_id: Option<Digest>,
    budget: &Budget,
) -> Result<Converted, LayerError> {
    let mut decoded = pipeline.begin();
    let (output, sum) = output.begin();
    let mut layer = Layer::new(output, Below::new(below), budget);
    if diff_id.is_none() {
        layer.hides_nothing();
    }
    let recipe = recipe.map(|file| Recipe::new(file, budget)).transpose();
    let recipe = recipe.map_err(write)?;
    let has_end = entries(&mut decoded, &mut layer, recipe)?;
    let actual = decoded.finish().map_err(read)?;
    match diff_id {
        Some(expected) if actual != expected => {
            return Err(LayerError::DiffId { actual, expected });
        }
        // Nobody has said how long it is: whoever wrote it may have been ended.
        None if !has_end => return Err(unreadable(FormatError::Cut.into())),
        _ => {}
    }
    let crosses = layer.finish().map_err(write)?;
    let sum = sum.finish().map_err(write)?;
    Ok(Converted { sum, crosses })
}

/// Adds what is in an archive; whether that says where it ends.
fn entries<O: Output>(
    reader: &mut impl io::Read,
    layer: &mut Layer<'_, O>,
    recipe: Option<Recipe>,
) -> Result<bool, LayerError> {
    let mut archive = Archive::new(reader);
    if let Some(recipe) = recipe {
        archive.record(recipe);
    }
    while let Some(member) = archive.advance().map_err(unreadable)? {
        let path = layer::clean(&member.path).map_err(LayerError::Path)?;
        let added = layer.add(&path, &member, &mut archive);
        added.map_err(|error| LayerError::Entry(path, error))?;
    }
    archive.end_recording().map_err(read)?;
    Ok(archive.has_end())
}

/// What the parser says may quote the bytes it stumbled on: those are an attacker's, and not for a
/// terminal.
fn unreadable(error: io::Error) -> LayerError {
    let inner = error.get_ref();
    if !inner.is_some_and(|inner| inner.is::<FormatError>()) {
        // What the budget, the disk or the decoder refuses is no matter of the archive's form.
        return read(error);
    }
    let clean = error
        .to_string()
        .chars()
        .all(|c| (c.is_ascii_graphic() && c != '[') || c == ' ');
    LayerError::NoTar(Some(error.into()).filter(|_| clean))
}

fn read(error: io::Error) -> LayerError {
    LayerError::Read(error.into())
}

fn write(error: io::Error) -> LayerError {
    LayerError::Write(error.into())
}

impl LayerError {
    /// Whether the layers below have to be known to convert it.
    pub fn needs_below(&self) -> bool {
        matches!(self, Self::Entry(_, EntryError::Below))
    }
}
