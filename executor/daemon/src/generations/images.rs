//! Images as somebody asks for them by hand: which there are, what they take and who needs them; fetched or loaded, and
//! kept until they are removed (`tank_image` writes that down).
//!
//! What is kept by hand is a root of collections beside the generations. A reference that is kept is what a container's
//! `pull = 'missing` or `'never` finds first, and a switch that asks the registry for it keeps what it stands for now in its
//! place, as a tag of Docker's moves.

use super::{Collected, Collector, Error, Generations, ProgressSender, error::Context};
use crate::{
    events::{Kind, now},
    store::StoreError,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    os::fd::OwnedFd,
    sync::Arc,
};
use tank_image::{ByHand, Described, Taken, registry_name};
use tank_model::{Digest, Name, Platform, Reference, graph::Survey, reference::ImageSource};
use tokio::{net::unix::pipe, task::spawn_blocking};

/// The fewest digits of a digest that name an image, as Docker's short ids have more.
const SHORT: usize = 6;

/// An image that something needs.
#[derive(Clone, Debug, Default)]
pub struct Listed {
    pub digest: Option<Digest>,
    pub references: BTreeSet<String>,
    /// Under which names it is kept by hand.
    pub by_hand: Vec<ByHand>,
    pub generations: BTreeSet<u64>,
    /// Those of the current generation.
    pub pods: BTreeSet<Name>,
    pub own: u64,
    pub shared: u64,
    pub missing: Option<String>,
}

/// An image that is, or was, kept by hand.
#[derive(Clone, Debug)]
pub struct Kept {
    pub image: Option<Reference>,
    pub digest: Digest,
    /// What was called so before.
    pub before: Option<Digest>,
    /// The tag that the archive which it was loaded from has for it, where that is no name.
    pub tag: Option<String>,
}

/// Every image that something needs.
type Known = BTreeMap<Digest, Listed>;

impl Generations {
    /// Every image that something needs, with what it takes.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn list_images(self: &Arc<Self>) -> Result<Vec<Listed>, Error> {
        let generations = Arc::clone(self);
        let list = move || {
            let mut known = generations.known_images()?;
            generations.weigh(&mut known);
            let mut list: Vec<Listed> = known.into_values().collect();
            list.sort_by(|one, other| {
                (&one.references, &one.digest).cmp(&(&other.references, &other.digest))
            });
            Ok(list)
        };
        spawn_blocking(list).await.doing("list images")?
    }

    /// One image in detail.
    ///
    /// # Errors
    /// When there is none of that name, or its documents can't be read.
    pub async fn inspect_image(
        self: &Arc<Self>,
        image: String,
    ) -> Result<(Listed, Described), Error> {
        let generations = Arc::clone(self);
        let inspect = move || {
            let mut known = generations.known_images()?;
            let digest = generations.look_up(&known, &image)?;
            generations.weigh(&mut known);
            let described = generations.images.describe(digest);
            let described = described.map_err(|source| Error::Image {
                image,
                users: Vec::new(),
                source,
            })?;
            let listed = known.remove(&digest).unwrap_or_default();
            Ok((listed, described))
        };
        spawn_blocking(inspect).await.doing("look at an image")?
    }

    /// Fetches an image of a registry, and keeps it.
    ///
    /// # Errors
    /// Why it can't be had.
    pub async fn pull_by_hand(
        self: &Arc<Self>,
        image: String,
        platform: Option<String>,
        progress: &ProgressSender,
    ) -> Result<Kept, Error> {
        let parsed = image.parse::<Reference>();
        let reference = parsed.map_err(|error| Error::Reference {
            image: image.clone(),
            why: error.to_string(),
        })?;
        if !matches!(reference.source(), ImageSource::Registry { .. }) {
            let problem = format!(
                "`{image}` is on this host already: a configuration names it where it is, and `tank image load` keeps the images of an archive"
            );
            return Err(problem).doing("pull an image");
        }
        let platform = platform.map(|text| text.parse::<Platform>()).transpose();
        let platform = platform.doing("pull an image")?;
        let held = self.images.holding();
        let from = (None, &reference, platform.as_ref());
        let pulled = self.pull_with_space((&held, false), from, progress);
        let digest = pulled.await.map_err(|source| Error::Image {
            image,
            users: Vec::new(),
            source,
        })?;
        let wanted = vec![(Some(reference), digest)];
        let mut kept = self.keep_by_hand(wanted, platform).await?;
        kept.pop().ok_or("it was not kept").doing("pull an image")
    }

    /// Takes in the images of an archive that comes out of a pipe, and keeps them.
    ///
    /// # Errors
    /// Why one can't be had: none is kept then.
    pub async fn load_by_hand(
        self: &Arc<Self>,
        archive: OwnedFd,
        name: Option<String>,
    ) -> Result<Vec<Kept>, Error> {
        let what = "load images";
        let name = name.as_deref().map(registry_name).transpose();
        let name = name.doing(what)?;
        let _place = self.transfer_from(&archive, what).await?;
        let archive = pipe::Receiver::from_owned_fd(archive).doing(what)?;
        let held = self.images.holding();
        let archive = held.put_down(archive).await.map_err(not_loaded)?;
        let mut loaded = held.load(archive, None).await.map_err(not_loaded)?;
        if let Some(name) = name {
            let [only] = loaded.as_mut_slice() else {
                let count = loaded.len();
                let problem = format!("the archive has {count} images: one name is for one image");
                return Err(problem).doing(what);
            };
            only.names = vec![name];
        }
        let (mut wanted, mut tags) = (Vec::new(), Vec::new());
        for image in loaded {
            if image.names.is_empty() {
                wanted.push((None, image.digest));
                tags.push(image.tag);
            }
            for name in image.names {
                wanted.push((Some(name), image.digest));
                tags.push(None);
            }
        }
        let mut kept = self.keep_by_hand(wanted, None).await?;
        for (one, tag) in kept.iter_mut().zip(tags) {
            one.tag = tag;
        }
        Ok(kept)
    }

    /// Keeps images no longer that are kept by hand: all of them, or none.
    ///
    /// # Errors
    /// When a generation needs one, or there is none of that name.
    pub async fn remove_images(self: &Arc<Self>, images: Vec<String>) -> Result<Vec<Kept>, Error> {
        let generations = Arc::clone(self);
        let remove = move || {
            let known = generations.known_images()?;
            let mut removed: Vec<ByHand> = Vec::new();
            let mut uses = Vec::new();
            for image in &images {
                // A name takes itself away, for whichever platforms it is kept, a digest all names. What generations need
                // stays with them.
                let named = image.parse::<Reference>().ok();
                let called =
                    |kept: &&ByHand| named.as_ref().is_some_and(|named| kept.is_called(named));
                let by_hand = known.values().flat_map(|listed| &listed.by_hand);
                let by_name: Vec<ByHand> = by_hand.filter(called).cloned().collect();
                if !by_name.is_empty() {
                    removed.extend(by_name);
                    continue;
                }
                let digest = generations.look_up(&known, image)?;
                let Some(listed) = known.get(&digest) else {
                    continue;
                };
                match listed.by_hand.is_empty() {
                    true => uses.extend(generations.use_of(image, listed)?),
                    false => removed.extend(listed.by_hand.iter().cloned()),
                }
            }
            if !uses.is_empty() {
                let help = "`tank generations delete N` gives a generation up that is not the current one; the last one that needs an image takes it along at the next `tank gc`";
                let help = help.to_owned();
                return Err(Error::InUse { uses, help });
            }
            let let_go = generations.images.let_go(&removed);
            let_go.map_err(|source| Error::Sweep(Box::new(source)))?;
            let kept = removed.into_iter().map(|one| Kept {
                image: one.reference,
                digest: one.digest,
                before: None,
                tag: None,
            });
            Ok(kept.collect::<Vec<_>>())
        };
        let removed = spawn_blocking(remove).await.doing("remove images")??;
        for one in &removed {
            let message = format!("image {} is kept no longer", one.words());
            self.events.add(Kind::Image, None, message);
        }
        Ok(removed)
    }

    /// Which generations need an image, in words. Blocking.
    fn use_of(&self, image: &str, listed: &Listed) -> Result<Option<String>, Error> {
        if listed.generations.is_empty() {
            return Ok(None);
        }
        let current = self.store.current()?;
        let name = |number: &u64| match current == Some(*number) {
            true => format!("{number} (the current one)"),
            false => number.to_string(),
        };
        let named: Vec<String> = listed.generations.iter().rev().take(5).map(name).collect();
        let more = match listed.generations.len() - named.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let pods: Vec<&str> = listed.pods.iter().map(Name::as_str).take(5).collect();
        let pods = match pods.as_slice() {
            [] => String::new(),
            pods => format!(", for {}", pods.join(", ")),
        };
        let plural = if listed.generations.len() > 1 {
            "s"
        } else {
            ""
        };
        let verb = if listed.generations.len() > 1 {
            "need"
        } else {
            "needs"
        };
        Ok(Some(format!(
            "generation{plural} {}{more} {verb} `{image}`{pods}",
            named.join(", ")
        )))
    }

    /// Keeps images, all or none.
    async fn keep_by_hand(
        self: &Arc<Self>,
        wanted: Vec<(Option<Reference>, Digest)>,
        platform: Option<Platform>,
    ) -> Result<Vec<Kept>, Error> {
        let by_hand = wanted.iter().map(|(image, digest)| ByHand {
            reference: image.clone(),
            digest: *digest,
            since: now(),
            platform: platform.clone(),
        });
        let (images, by_hand) = (Arc::clone(&self.images), by_hand.collect());
        let keep = spawn_blocking(move || images.keep_by_hand(by_hand)).await;
        let were = keep.doing("keep images")?.map_err(not_loaded)?;
        let kept = wanted.into_iter().zip(were);
        let kept: Vec<Kept> = kept
            .map(|((image, digest), before)| Kept {
                image,
                digest,
                before: before.filter(|before| *before != digest),
                tag: None,
            })
            .collect();
        // Of many names one says how many there are: events are few.
        let message = match kept.as_slice() {
            [first, _, ..] => format!(
                "{} images are kept, {} the first",
                kept.len(),
                first.words()
            ),
            _ => kept
                .iter()
                .map(|one| format!("image {} is kept", one.words()))
                .collect(),
        };
        self.events.add(Kind::Image, None, message);
        Ok(kept)
    }

    /// Every image that a generation or a hand needs. Blocking.
    fn known_images(&self) -> Result<Known, Error> {
        let mut known = Known::new();
        let mut survey = Survey::default();
        let current = self.store.current()?;
        for generation in self.store.generations()? {
            let number = generation.number;
            let named = survey.add::<StoreError>(generation.root, |hash| self.store.node(hash));
            let named = match named {
                // It went meanwhile.
                Err(_) if self.store.generation(number)?.is_none() => continue,
                named => named.map_err(|source| Error::Unreadable {
                    generation: number,
                    source,
                })?,
            };
            for (digest, pods) in named.images {
                let listed = known.entry(digest).or_default();
                listed.generations.insert(number);
                if current == Some(number) {
                    listed.pods.extend(pods);
                }
            }
        }
        for (digest, references) in survey.images {
            let listed = known.entry(digest).or_default();
            let references = references.iter().map(ToString::to_string);
            listed.references.extend(references);
        }
        let by_hand = self.images.by_hand();
        for kept in by_hand.map_err(|source| Error::Sweep(Box::new(source)))? {
            let listed = known.entry(kept.digest).or_default();
            listed
                .references
                .extend(kept.reference.iter().map(ToString::to_string));
            listed.by_hand.push(kept);
        }
        for (digest, listed) in &mut known {
            listed.digest = Some(*digest);
        }
        Ok(known)
    }

    /// Finds out what each image takes, alone and with others. Blocking.
    fn weigh(&self, known: &mut Known) {
        let mut taken: BTreeMap<Digest, Taken> = BTreeMap::new();
        let mut counts = BTreeMap::new();
        for (digest, listed) in &mut *known {
            match self.images.taken(*digest) {
                Ok(files) => {
                    for (path, _) in &files {
                        *counts.entry(path.clone()).or_insert(0_u64) += 1;
                    }
                    taken.insert(*digest, files);
                }
                Err(error) => listed.missing = Some(error.message()),
            }
        }
        for (digest, files) in taken {
            let Some(listed) = known.get_mut(&digest) else {
                continue;
            };
            for (path, bytes) in files {
                match counts.get(&path) {
                    Some(1) => listed.own += bytes,
                    _ => listed.shared += bytes,
                }
            }
        }
    }

    /// The image that a name means: a reference, as it is kept or as the newest generation has it; a digest, or the begin of
    /// one. Blocking.
    fn look_up(&self, known: &Known, text: &str) -> Result<Digest, Error> {
        if let Ok(reference) = text.parse::<Reference>() {
            if let Some(digest) = reference
                .digest()
                .filter(|digest| known.contains_key(digest))
            {
                return Ok(digest);
            }
            let by_hand = || known.values().flat_map(|listed| &listed.by_hand);
            let own = by_hand().find(|kept| kept.is_found(&reference, None));
            if let Some(kept) = own.or_else(|| by_hand().find(|kept| kept.is_called(&reference))) {
                return Ok(kept.digest);
            }
            if let Some(digest) = self.of_generations((&reference, None), |_| true)? {
                return Ok(digest);
            }
        }
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_short = hex.len() >= SHORT && hex.bytes().all(|b| b.is_ascii_hexdigit());
        let begins = |digest: &&Digest| is_short && digest.hex().starts_with(hex);
        let found: Vec<&Digest> = known.keys().filter(begins).collect();
        match found.as_slice() {
            [one] => Ok(**one),
            [] => {
                let names = known.values().flat_map(|listed| &listed.references);
                let nearest = tank_model::name::nearest(text, names.map(String::as_str));
                Err(Error::NoSuchImage {
                    image: text.to_owned(),
                    nearest: nearest.map(str::to_owned),
                })
            }
            several => {
                let count = several.len();
                let problem = format!("`{text}` is the begin of {count} digests: write more of it");
                Err(problem).doing("find an image")
            }
        }
    }
}

impl Collector {
    /// What is kept by hand and by nothing else, in words. Blocking.
    pub(super) fn say_by_hand(
        by_hand: &[ByHand],
        needed: &BTreeSet<Digest>,
        collected: &mut Collected,
    ) {
        let alone = by_hand.iter().filter(|kept| !needed.contains(&kept.digest));
        collected.left.extend(alone.map(|kept| {
            let name = kept.reference.as_ref().map(ToString::to_string);
            let name = name.unwrap_or_else(|| kept.digest.to_string());
            format!("image {name}: it is kept by hand; `tank image remove {name}` lets it go")
        }));
    }

    /// Adds what is kept by hand to what generations name. Blocking.
    ///
    /// # Errors
    /// When it can't be read.
    pub(super) fn survey_by_hand(&self, survey: &mut Survey) -> Result<(), tank_image::Error> {
        for kept in self.images.by_hand()? {
            let references = survey.images.entry(kept.digest).or_default();
            references.extend(kept.reference);
        }
        Ok(())
    }
}

impl Kept {
    fn words(&self) -> String {
        match &self.image {
            Some(image) => format!("{image} ({})", self.digest),
            None => self.digest.to_string(),
        }
    }
}

fn not_loaded(source: tank_image::Error) -> Error {
    Error::Load(Box::new(source))
}
