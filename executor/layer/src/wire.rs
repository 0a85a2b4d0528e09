//! What `tankd` and `tank-layer` say to each other: an order and its replies, each a packet of a
//! socket that is the program's standard input.
//!
//! | packet | descriptors |
//! |---|---|
//! | [`Order::Convert`], as JSON | an empty directory; the compressed bytes; the empty file that the image goes to; with `recipe` the one that its recipe goes to |
//! | `below` layers' images, in as many packets as they need | up to [`BELOW_BESIDE`] each |
//! | a [`Reply`], as JSON | |
//!
//! or
//!
//! | packet | descriptors |
//! |---|---|
//! | [`Order::Rebuild`], as JSON | an empty directory; the recipe; the layer's image; where the tar goes |
//! | [`Rebuilt::Begun`], as JSON, before a byte is written | |
//! | [`Rebuilt::Done`] or [`Rebuilt::Failed`], as JSON | |

use crate::{Converted, LayerError, budget::Share, sums::Sum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tank_model::Digest;

/// The most layers' images in one packet.
pub const BELOW_BESIDE: usize = 100;

/// What is to be done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// A layer is to be converted.
    Convert(Request),
    /// The tar of a layer that was converted is to be written again.
    Rebuild(Rebuild),
}

/// What it takes to write a tar again, beside descriptors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rebuild {
    /// What it may take.
    pub share: Share,
    /// Who writes it: a user and a group that nothing belongs to.
    pub id: u32,
}

/// How far a tar is that is written again.
#[derive(Debug, Serialize, Deserialize)]
pub enum Rebuilt {
    /// It has so many bytes, which come now.
    Begun(u64),
    /// All of it is written.
    Done,
    /// It is not.
    Failed(LayerError),
}

/// What is to be converted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The layer's, as its descriptor has it.
    pub media_type: String,
    /// The digest that its uncompressed bytes have to have. None: it is no layer but the archive of a
    /// volume.
    pub diff_id: Option<Digest>,
    /// How many layers' images follow, the nearest first. None: the layers below are not known.
    pub below: Option<usize>,
    /// Whether it is written down what else it takes to write the tar again.
    pub recipe: bool,
    /// What it may take.
    pub share: Share,
    /// What errors call the disk.
    pub disk: PathBuf,
    /// Who converts it: a user and a group that nothing belongs to.
    pub id: u32,
}

/// What has become of it.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// The file has the image.
    Done {
        /// The sum of the file, if it is a layer's.
        sum: Option<Sum>,
        /// Whether it has something of a layer below.
        crosses: bool,
        /// What it has taken.
        taken: Share,
    },
    /// There is none.
    Failed(LayerError),
}

impl Reply {
    /// The outcome of a conversion that was given `share` and has left `left` of it.
    pub fn of(outcome: Result<Converted, LayerError>, share: Share, left: Share) -> Self {
        match outcome {
            Err(error) => Self::Failed(error),
            Ok(Converted { sum, crosses }) => Self::Done {
                sum,
                crosses,
                taken: Share {
                    bytes: share.bytes - left.bytes.min(share.bytes),
                    entries: share.entries - left.entries.min(share.entries),
                    time: 0,
                },
            },
        }
    }
}
