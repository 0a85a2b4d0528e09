//! What many stored graphs need, together: for whoever decides what nobody needs any more.
//!
//! Graphs of one host have most of their nodes in common: a pod that was met before is not read again. Every
//! node that is read is hashed again, so what is said to be needed is what was committed.

use super::{
    Key, LoadError, Node,
    load::{MAX_NODES, Stored},
};
use crate::{digest::Digest, name::Name, reference::Reference};
use std::collections::{BTreeMap, BTreeSet};

/// The nodes of some stored graphs, and what they name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Survey {
    /// Every node, by its hash.
    pub nodes: BTreeSet<Digest>,
    /// The names of all pods.
    pub pods: BTreeSet<Name>,
    /// The names of all networks that are declared.
    pub networks: BTreeSet<Name>,
    /// Every image by its digest, with the references that were resolved to it.
    pub images: BTreeMap<Digest, BTreeSet<Reference>>,
    /// The images of containers, by the hash of the container's node, also of those that run before others.
    pub containers: BTreeMap<Digest, Digest>,
    /// The images of each pod that was met, by the hash of its node, and its name.
    met: BTreeMap<Digest, (Name, BTreeSet<Digest>)>,
}

/// What one graph names.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Named {
    /// Each image, with the pods that use it.
    pub images: BTreeMap<Digest, BTreeSet<Name>>,
}

impl Survey {
    /// Adds the graph whose root is `root`, and says what it names.
    ///
    /// # Errors
    /// [`LoadError`], or what `read` returns. What was added by then stays: more is needed, not less.
    pub fn add<E: From<LoadError>>(
        &mut self,
        root: Digest,
        mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Named, E> {
        let top = Stored::read(root, &mut read)?;
        if top.key != Key::Root {
            return Err(LoadError::Malformed(top.key).into());
        }
        self.nodes.insert(root);
        let mut named = Named::default();
        for hash in top.needs {
            // A network that was met names nothing more.
            if !self.met.contains_key(&hash) && !self.nodes.contains(&hash) {
                self.add_part(hash, &mut read)?;
            }
            if let Some((pod, images)) = self.met.get(&hash) {
                for image in images {
                    named.images.entry(*image).or_default().insert(pod.clone());
                }
            }
        }
        Ok(named)
    }

    /// Adds a pod with all it needs, or a network.
    fn add_part<E: From<LoadError>>(
        &mut self,
        top: Digest,
        read: &mut impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        let mut found: BTreeMap<Digest, Stored> = BTreeMap::new();
        let mut stack = vec![top];
        while let Some(hash) = stack.pop() {
            if found.contains_key(&hash) {
                continue;
            }
            if found.len() >= MAX_NODES {
                return Err(LoadError::TooLarge.into());
            }
            let node = Stored::read(hash, read)?;
            stack.extend(&node.needs);
            found.insert(hash, node);
        }
        let image_of = |stored: &Stored| match (&stored.key, &stored.node) {
            (Key::Image(reference), Node::Image { digest }) => {
                digest.map(|digest| (reference.clone(), digest))
            }
            _ => None,
        };
        let mut images = BTreeSet::new();
        for (hash, stored) in &found {
            if let Some((reference, digest)) = image_of(stored) {
                images.insert(digest);
                self.images.entry(digest).or_default().insert(reference);
            }
            match &stored.key {
                Key::Container(..) | Key::Init(..) => {
                    let needs = stored.needs.iter().filter_map(|need| found.get(need));
                    let image = needs.filter_map(image_of).next();
                    self.containers
                        .extend(image.map(|(_, digest)| (*hash, digest)));
                }
                Key::Network(name) => {
                    self.networks.insert(name.clone());
                }
                _ => {}
            }
        }
        match found.get(&top).map(|stored| &stored.key) {
            Some(Key::Pod(name)) => {
                self.pods.insert(name.clone());
                self.met.insert(top, (name.clone(), images));
            }
            Some(Key::Network(_) | Key::SharedVolume(_) | Key::SharedVolumeSize(_)) | None => {}
            Some(other) => return Err(LoadError::Malformed(other.clone()).into()),
        }
        self.nodes.extend(found.into_keys());
        Ok(())
    }
}
