//! What a check finds.

use std::collections::BTreeSet;
use tank_image::Part;
use tank_model::{Digest, Name};

/// The most damages that are named.
const MAX_DAMAGES: usize = 1_000;

/// What is damaged, or not there.
#[derive(Clone, Debug, Default)]
pub struct Damage {
    pub what: String,
    pub why: String,
    /// References of the images that need it.
    pub images: BTreeSet<String>,
    /// The generations that need it; not more than a hundred of them.
    pub generations: BTreeSet<u64>,
    pub pods: BTreeSet<Name>,
    /// It was fetched again and is good now.
    pub repaired: bool,
    pub help: Option<String>,
    /// Of an image: what it is.
    pub(super) part: Option<Part>,
    /// The images that need it.
    pub(super) of: BTreeSet<Digest>,
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Inspected {
    pub generations: u64,
    pub nodes: u64,
    pub leases: u64,
    pub documents: u64,
    pub layers: u64,
    /// Bytes of images that were read.
    pub bytes: u64,
    /// Layers without a digest of their own, each named.
    pub unverified: Vec<String>,
    pub damages: Vec<Damage>,
    /// Containers that run from a file that was damaged when they were started: `pod/container`.
    pub restart: BTreeSet<String>,
}

impl Inspected {
    pub(super) fn add(&mut self, damage: Damage) {
        if self.damages.len() < MAX_DAMAGES {
            self.damages.push(damage);
        }
    }
}
