//! Checking what is kept: the database, every generation's graph, leases, and the store of images. And fetching
//! images again that are damaged.
//!
//! Nothing is locked while it is read, and nothing is held in memory but names: what goes meanwhile is not damaged.
//! What is damaged is named with the images, generations and pods that need it.

mod found;

pub use found::{Damage, Inspected};

use super::{
    Collector, Error, ProgressSender, Stage, error::Context, notify, notify_image, provenance,
};
use crate::{
    events::Kind,
    store::{LEASES, StoreError, leases},
    trash,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tank_image::{Images, Part, Verdict};
use tank_model::{Digest, Name, Reference, graph::Survey};
use tokio::{task::spawn_blocking, time::timeout};

/// The bytes between two words of progress.
const PROGRESS_BYTES: u64 = 256 << 20;

/// The most generations of a damage that are named.
const MAX_NAMED: usize = 100;

/// Why a layer is made anew that is as it was made.
const NO_RECIPE: &str = "an older version of Tank made it, and it can be run and not be exported";

/// Who needs an image.
#[derive(Clone, Debug, Default)]
struct Users {
    generations: BTreeSet<u64>,
    pods: BTreeSet<Name>,
}

/// What is known of everything that generations name.
#[derive(Default)]
struct Known {
    survey: Survey,
    users: BTreeMap<Digest, Users>,
}

impl Collector {
    /// Checks everything; with `repair`, fetches again what of images is damaged. A caller that leaves ends it.
    ///
    /// # Errors
    /// When the store can't be read at all, or another repair or collection is under way.
    pub async fn inspect(
        self: &Arc<Self>,
        repair: bool,
        progress: &ProgressSender,
    ) -> Result<Inspected, Error> {
        let collecting = match repair {
            true => Some(timeout(super::collector::COLLECTION_WAIT, self.collecting.lock()).await),
            false => None,
        };
        let _collecting = collecting.transpose().map_err(|_| Error::Collecting)?;
        let (collector, to) = (Arc::clone(self), progress.clone());
        let check = move || {
            let mut found = Inspected::default();
            let known = collector.check_store(&mut found, &to)?;
            collector.check_images((&known, repair), &mut found, &to)?;
            for (path, why) in trash::stuck() {
                found.add(Damage {
                    what: format!("{}, which is to be removed", path.display()),
                    why,
                    help: Some("once that is over `tank gc` removes it".to_owned()),
                    ..Damage::default()
                });
            }
            Ok::<_, Error>((found, known))
        };
        let (mut found, known) = spawn_blocking(check).await.doing("check the store")??;
        if repair {
            self.repair(&mut found, &known, progress).await?;
        }
        if !found.damages.is_empty() {
            let left = found.damages.iter().filter(|one| !one.repaired).count();
            let repaired = found.damages.len() - left;
            let message = format!("{left} damages found in the store, and {repaired} repaired");
            self.events.add(Kind::Checked, None, message);
        }
        Ok(found)
    }

    /// The database, and what it holds. Blocking.
    // long: one look at each thing that the database has
    fn check_store(&self, found: &mut Inspected, to: &ProgressSender) -> Result<Known, Error> {
        notify(to, Stage::Note, "reading the database");
        if let Err(error) = self.store.verify() {
            found.add(Damage {
                what: "the database".to_owned(),
                why: tank_sys::with_causes(&error),
                help: Some(OF_DATABASE.to_owned()),
                ..Damage::default()
            });
        }
        let mut known = Known::default();
        let generations = self.store.generations()?;
        let count = generations.len();
        notify(to, Stage::Note, format_args!("reading {count} generations"));
        for generation in &generations {
            if to.is_closed() {
                return Err(Error::CallerLeft);
            }
            let number = generation.number;
            let read = |hash: &Digest| self.store.node(hash);
            match known.survey.add::<StoreError>(generation.root, read) {
                Ok(named) => {
                    for (image, pods) in named.images {
                        let users = known.users.entry(image).or_default();
                        users.generations.insert(number);
                        users.pods.extend(pods);
                    }
                }
                // It went meanwhile.
                Err(_) if self.store.generation(number)?.is_none() => continue,
                Err(error) => found.add(self.of_generation(number, &error)),
            }
            let lines = generation.provenance;
            if let Some(lines) = lines.filter(|lines| !self.is_whole(lines))
                && self.store.generation(number)?.is_some()
            {
                found.add(Damage {
                    what: format!("the lines of generation {number}"),
                    why: format!("node {lines} is missing, or does not hash to its name"),
                    generations: BTreeSet::from([number]),
                    help: Some(
                        "`tank why` knows nothing of that generation; what it declares is whole"
                            .to_owned(),
                    ),
                    ..Damage::default()
                });
            }
            found.generations += 1;
        }
        if let Err(error) = self.survey_by_hand(&mut known.survey) {
            found.add(Damage {
                what: "the list of images that are kept by hand".to_owned(),
                why: error.message(),
                ..Damage::default()
            });
        }
        for image in known.survey.images.keys() {
            known.users.entry(*image).or_default();
        }
        found.nodes = known.survey.nodes.len() as u64;
        self.check_leases(found)?;
        Ok(known)
    }

    fn is_whole(&self, lines: &Digest) -> bool {
        let bytes = self.store.node(lines).ok().flatten();
        bytes.is_some_and(|bytes| Digest::of(&bytes) == *lines)
    }

    fn of_generation(&self, number: u64, error: &StoreError) -> Damage {
        let current = self.store.current().ok().flatten();
        let help = match current == Some(number) {
            true => OF_DATABASE.to_owned(),
            false => format!("`tank generations delete {number}` gives it up; {OF_DATABASE}"),
        };
        Damage {
            what: format!("the graph of generation {number}"),
            why: tank_sys::with_causes(error),
            generations: BTreeSet::from([number]),
            help: Some(help),
            ..Damage::default()
        }
    }

    /// That no two pods have the same number, and each that is declared has one.
    fn check_leases(&self, found: &mut Inspected) -> Result<(), Error> {
        // What is committed meanwhile takes its leases in the same write.
        let all = self.store.leases();
        let current = self.store.current()?;
        let graph = current.map(|number| self.graphs.of_generation(number));
        let declared: BTreeSet<Name> = match graph.transpose() {
            Ok(graph) => graph
                .flatten()
                .map(|graph| graph.pods().cloned().collect())
                .unwrap_or_default(),
            // It is named as damaged already.
            Err(_) => BTreeSet::new(),
        };
        found.leases = all.len() as u64;
        for why in leases::problems(&all, &declared, LEASES) {
            if self.store.current()? != current {
                break;
            }
            found.add(Damage {
                what: "leases".to_owned(),
                why,
                help: Some(
                    "a switch that declares the pod under another name gives it a new one"
                        .to_owned(),
                ),
                ..Damage::default()
            });
        }
        Ok(())
    }

    /// Documents and layers, and whether each image is whole. Blocking.
    fn check_images(
        &self,
        (known, repair): (&Known, bool),
        found: &mut Inspected,
        to: &ProgressSender,
    ) -> Result<(), Error> {
        let parts = self.images.kept().map_err(sweep)?;
        let total: u64 = parts.iter().map(|part| self.images.length(part)).sum();
        let mut of_parts: BTreeMap<Digest, BTreeSet<Digest>> = BTreeMap::new();
        for image in known.users.keys() {
            for part in self.images.parts(*image).into_iter().flatten() {
                of_parts.entry(part).or_default().insert(*image);
            }
            of_parts.entry(*image).or_default().insert(*image);
        }
        let (mut read, mut said) = (0, 0);
        for part in parts {
            if read >= said {
                let (done, all) = (read >> 20, total >> 20);
                notify(
                    to,
                    Stage::Note,
                    format_args!("reading images: {done} of {all} MiB"),
                );
                said = read + PROGRESS_BYTES;
            }
            let verdict = self.images.check(&part, &mut || !to.is_closed());
            let verdict = match verdict {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    return Err(Error::CallerLeft);
                }
                other => other.doing("check an image")?,
            };
            read += self.images.length(&part);
            match &part {
                Part::Document(_) => found.documents += 1,
                Part::Layer(_) | Part::Folder(_) => found.layers += 1,
            }
            let verdict = match verdict {
                Verdict::NoRecipe if repair => Verdict::Damaged(NO_RECIPE.to_owned()),
                other => other,
            };
            match verdict {
                Verdict::Good | Verdict::Gone | Verdict::NoRecipe => {}
                Verdict::Unverified => found.unverified.push(part.to_string()),
                Verdict::Damaged(why) => {
                    let of = of_parts.get(part.digest()).cloned().unwrap_or_default();
                    found.add(known.damage((part.to_string(), why), Some(part), of));
                }
            }
        }
        found.bytes = read;
        self.check_whole(known, found);
        Ok(())
    }

    /// That of each image everything is here. Blocking.
    fn check_whole(&self, known: &Known, found: &mut Inspected) {
        let damaged: BTreeSet<Digest> = found
            .damages
            .iter()
            .flat_map(|one| one.of.clone())
            .collect();
        for image in known.users.keys().filter(|image| !damaged.contains(image)) {
            let whole = self.images.parts(*image).map(drop);
            if let Err(error) = whole.and_then(|()| self.images.is_here(*image)) {
                let (what, of) = (format!("image {image}"), BTreeSet::from([*image]));
                found.add(known.damage((what, error.message()), None, of));
            }
        }
    }

    /// Fetches again every image of which something is damaged.
    async fn repair(
        self: &Arc<Self>,
        found: &mut Inspected,
        known: &Known,
        progress: &ProgressSender,
    ) -> Result<(), Error> {
        let parts = found.damages.iter().filter_map(|one| one.part.clone());
        let parts: BTreeSet<Part> = parts.collect();
        let images: BTreeSet<Digest> = found
            .damages
            .iter()
            .flat_map(|one| one.of.clone())
            .collect();
        let mut failures: BTreeMap<Digest, String> = BTreeMap::new();
        for image in images {
            if progress.is_closed() {
                return Err(Error::CallerLeft);
            }
            if let Err(why) = self.fetch_again(image, known, &parts, progress).await {
                failures.insert(image, why);
            }
        }
        let (images, damages) = (Arc::clone(&self.images), std::mem::take(&mut found.damages));
        let again = move || {
            let good = |one: &Damage| is_good_now(&images, one);
            damages
                .into_iter()
                .map(|one| Damage {
                    repaired: good(&one),
                    ..one
                })
                .collect()
        };
        found.damages = spawn_blocking(again)
            .await
            .doing("check what was fetched")?;
        let is_layer = |one: &&Damage| {
            one.repaired && one.why != NO_RECIPE && matches!(one.part, Some(Part::Layer(_)))
        };
        let replaced = found.damages.iter().filter(is_layer);
        let replaced: BTreeSet<Digest> = replaced.flat_map(|one| one.of.clone()).collect();
        for one in found.damages.iter_mut().filter(|one| !one.repaired) {
            let why = one.of.iter().find_map(|image| failures.get(image));
            if let Some(why) = why {
                one.help = Some(format!("it can't be fetched again: {why}"));
            }
        }
        found.restart = self.running_from(&replaced, known).await;
        Ok(())
    }

    /// Fetches an image from the first of its references that has it.
    async fn fetch_again(
        &self,
        image: Digest,
        known: &Known,
        parts: &BTreeSet<Part>,
        progress: &ProgressSender,
    ) -> Result<(), String> {
        let references = known.survey.images.get(&image);
        let folders = self.folders_of(known.users.get(&image));
        let mut why = "no generation says where it is from".to_owned();
        for reference in references.into_iter().flatten() {
            notify_image(progress, reference);
            let bases = folders.iter().map(|folder| Some(folder.as_path()));
            let mut bases: Vec<Option<&Path>> = bases.collect();
            bases.push(None);
            for base in bases {
                match self.fetch_from(reference, image, base, parts).await {
                    Ok(()) => return Ok(()),
                    Err(error) => why = format!("{reference}: {}", error.message()),
                }
                if matches!(
                    reference.source(),
                    tank_model::reference::ImageSource::Registry { .. }
                ) {
                    break;
                }
            }
        }
        Err(why)
    }

    async fn fetch_from(
        &self,
        reference: &Reference,
        image: Digest,
        base: Option<&Path>,
        parts: &BTreeSet<Part>,
    ) -> Result<(), tank_image::Error> {
        self.images.repair((reference, image), base, parts).await
    }

    /// The folders of the files that pods came from: what the paths of their images are relative to.
    fn folders_of(&self, users: Option<&Users>) -> BTreeSet<PathBuf> {
        let mut folders = BTreeSet::new();
        let Some(users) = users else {
            return folders;
        };
        for number in users.generations.iter().rev().take(MAX_NAMED) {
            let Some(lines) = provenance::read(self.store.as_ref(), *number) else {
                continue;
            };
            for pod in &users.pods {
                let files = lines
                    .pods
                    .get(pod.as_str())
                    .into_iter()
                    .flat_map(|from| &from.files);
                let parents = files.filter_map(|file| Path::new(file).parent());
                folders.extend(
                    parents
                        .filter(|path| path.is_absolute())
                        .map(Path::to_owned),
                );
            }
        }
        folders
    }

    /// The containers that run from one of these images.
    async fn running_from(&self, images: &BTreeSet<Digest>, known: &Known) -> BTreeSet<String> {
        let graph = self.store.current().ok().flatten();
        let graph = graph.and_then(|number| self.graphs.of_generation(number).ok()?);
        let Some(graph) = graph.filter(|_| !images.is_empty()) else {
            return BTreeSet::new();
        };
        let Ok(observed) = self.reconciler.observe(&graph).await else {
            return BTreeSet::new();
        };
        let pods = observed.pods.iter();
        let runs = pods.flat_map(|(pod, found)| {
            let runs = found.containers.iter();
            runs.filter(|(_, run)| matches!(run.state, tank_plan::observed::State::Running { .. }))
                .filter(|(_, run)| {
                    let image = known.survey.containers.get(&run.hash);
                    image.is_some_and(|image| images.contains(image))
                })
                .map(move |(container, _)| format!("{pod}/{container}"))
        });
        runs.collect()
    }
}

const OF_DATABASE: &str = "stop tankd, and put a copy of its store back if there is one; `tankd --repair-store` reads \
                           what is left of the database, and `tankd --accept-loss` goes on with what there is";

fn sweep(source: tank_image::Error) -> Error {
    Error::Sweep(Box::new(source))
}

/// Whether what was damaged is good now. Blocking.
fn is_good_now(images: &Images, damage: &Damage) -> bool {
    let part = match &damage.part {
        Some(part) => images
            .check(part, &mut || true)
            .is_ok_and(|verdict| verdict == Verdict::Good),
        None => !damage.of.is_empty(),
    };
    let whole = |image: &Digest| images.parts(*image).is_ok() && images.is_here(*image).is_ok();
    part && damage.of.iter().all(whole)
}

impl Known {
    fn damage(
        &self,
        (what, why): (String, String),
        part: Option<Part>,
        of: BTreeSet<Digest>,
    ) -> Damage {
        let references = of.iter().filter_map(|image| self.survey.images.get(image));
        let users: Vec<&Users> = of
            .iter()
            .filter_map(|image| self.users.get(image))
            .collect();
        let generations = users.iter().flat_map(|users| &users.generations).rev();
        let help = match of.is_empty() {
            true => "no generation needs it: `tank gc` removes it",
            false => "`tank fsck --repair` fetches it again",
        };
        Damage {
            what,
            why,
            images: references.flatten().map(Reference::to_string).collect(),
            generations: generations.take(MAX_NAMED).copied().collect(),
            pods: users.iter().flat_map(|users| users.pods.clone()).collect(),
            repaired: false,
            help: Some(help.to_owned()),
            part,
            of,
        }
    }
}
