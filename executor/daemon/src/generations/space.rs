//! What to do about a disk that is full, or nearly: how much is free, what a collection would free, with old generations and without, and
//! which volume is the largest.
//!
//! Finding that out takes a look at everything, so it is done where somebody waits for an answer that needs it, and not for long.

use super::{Collected, Error, Generations, collector::Collect, error::Context, retention::Policy};
use crate::{actuate::volumes::Size, store::StoreError};
use std::{os::unix::fs::MetadataExt, sync::Arc, time::Duration};
use tank_image::Budget;
use tank_model::units::Bytes;
use tokio::{task::spawn_blocking, time::timeout};

/// The longest that is looked for what could be removed.
const LOOKING: Duration = Duration::from_secs(15);

/// What is free of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    pub free: u64,
    pub total: u64,
    /// Images leave as much free.
    pub spare: u64,
    /// Of inodes: those that are free, where few are.
    pub inodes: Option<u64>,
}

/// What could be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removable {
    /// What `tank gc` frees.
    pub collected: u64,
    /// What it frees when it keeps no generation that need not be kept.
    pub with_generations: u64,
    /// How many generations go then.
    pub generations: usize,
    /// The largest volume of that disk.
    pub largest: Option<(String, Size)>,
}

impl Free {
    /// Of the file system that a path is on. Blocking.
    ///
    /// # Errors
    /// What statvfs(3) gives.
    pub fn of(path: &std::path::Path) -> std::io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        let of = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        let total = of(found.f_blocks);
        let few = found.f_files > 0 && found.f_favail < found.f_files / 50;
        Ok(Self {
            free: of(found.f_bavail),
            total,
            spare: Budget::spare(total),
            inodes: few.then_some(found.f_favail),
        })
    }

    /// Whether less is free than this percentage, or images are refused.
    fn is_low(&self, percent: u8) -> bool {
        let (free, total) = (u128::from(self.free), u128::from(self.total));
        free * 100 < total * u128::from(percent) || self.free < self.spare || self.inodes.is_some()
    }

    fn words(&self) -> String {
        let Self { free, total, .. } = self;
        let inodes = match self.inodes {
            Some(inodes) => format!(", and {inodes} inodes"),
            None => String::new(),
        };
        let refused = match self.free < self.spare {
            true => format!(": images are refused below {}", shown(self.spare)),
            false => String::new(),
        };
        format!(
            "{} of {} are free{inodes}{refused}",
            shown(*free),
            shown(*total)
        )
    }
}

impl Removable {
    /// What frees something, a sentence each.
    pub fn advice(&self) -> Vec<String> {
        let mut advice = vec![match self.collected {
            0 => "`tank gc` frees nothing now".to_owned(),
            bytes => format!("`tank gc` frees {}", shown(bytes)),
        }];
        if self.with_generations > self.collected {
            let generations = match self.generations {
                1 => "1 generation".to_owned(),
                more => format!("{more} generations"),
            };
            advice.push(format!(
                "`tank gc --keep 1` frees {}, and gives up {generations} that could be gone back to (not the current one, nor the one that \
                 `tank generations rollback` leads to)",
                shown(self.with_generations)
            ));
        }
        if let Some((name, size)) = &self.largest {
            let least = if size.at_least { "more than " } else { "" };
            let bytes = shown(size.bytes);
            advice.push(format!("the largest volume is {name}, with {least}{bytes}"));
        }
        advice
    }
}

fn shown(bytes: u64) -> String {
    Bytes(bytes).rounded()
}

impl Generations {
    /// What is free of the disk with the state folder.
    ///
    /// # Errors
    /// When it can't be found out.
    pub async fn free_space(&self) -> Result<Free, Error> {
        let what = "look what of the disk is free";
        let state = self.settings.state_dir.clone();
        let look = spawn_blocking(move || Free::of(&state)).await;
        look.doing(what)?.doing(what)
    }

    /// What is free of the disk with the state folder, in words, where little is.
    pub async fn low_space(&self) -> Option<String> {
        self.low_by(self.settings.config.keep_free).await
    }

    async fn low_by(&self, percent: u8) -> Option<String> {
        let found = self.free_space().await.ok()?;
        let state = self.settings.state_dir.display();
        found
            .is_low(percent)
            .then(|| format!("{state}: {}", found.words()))
    }

    /// What there is to be done about a full disk, a sentence each. Of what takes too long to be found out nothing is said.
    pub async fn space_advice(self: &Arc<Self>) -> Vec<String> {
        let removable = timeout(LOOKING, self.removable()).await;
        let mut advice = match removable {
            Ok(Ok(removable)) => removable.advice(),
            Ok(Err(_)) | Err(_) => Vec::new(),
        };
        advice.push("`tank disk-usage` says what takes it".to_owned());
        advice
    }

    /// The same with what is free, for an error that a full disk is behind. None: it is not.
    pub async fn help_where_full(self: &Arc<Self>, error: &Error) -> Option<String> {
        // Where that is not known, the disk has to be as good as full.
        let low = match error.is_no_space() {
            true => self.low_by(100).await,
            false => Some(self.low_by(0).await?),
        };
        let words = low.into_iter().chain(self.space_advice().await);
        Some(words.collect::<Vec<_>>().join("; "))
    }

    async fn removable(self: &Arc<Self>) -> Result<Removable, Error> {
        let bytes = |collected: &Collected| -> u64 {
            let tallies = collected.tallies();
            tallies.iter().map(|(_, tally)| tally.bytes).sum()
        };
        let own = self.collect(true, None, None).await?;
        let policy = Policy {
            keep: 1,
            keep_for: None,
        };
        let pressed = Collect { dry: true, policy };
        let pressed = self.collector.collect(pressed).await?;
        let largest = self.largest_volume().await?;
        Ok(Removable {
            collected: bytes(&own),
            with_generations: bytes(&pressed),
            generations: pressed.generations.len(),
            largest,
        })
    }

    /// The largest volume, where volumes are on the disk of the state folder.
    pub(super) async fn largest_volume(self: &Arc<Self>) -> Result<Option<(String, Size)>, Error> {
        let device = |path: &std::path::Path| std::fs::metadata(path).ok().map(|found| found.dev());
        let settings = &self.settings;
        if device(&settings.volumes_dir()) != device(&settings.state_dir) {
            return Ok(None);
        }
        let volumes = self.volumes().await?.into_iter();
        let largest = volumes.max_by_key(|volume| volume.size.bytes);
        let largest = largest.filter(|volume| volume.size.bytes > 0);
        Ok(largest.map(|volume| (volume.id.to_string(), volume.size)))
    }
}

impl Error {
    /// Whether it says that a disk has no space.
    pub fn is_no_space(&self) -> bool {
        match self {
            Self::Image { source, .. } => source.is_no_space(),
            Self::Load(source) | Self::Carry(source) | Self::Sweep(source) => source.is_no_space(),
            Self::Helped { of, .. } => of.is_no_space(),
            Self::Internal { source, .. } => is_full(source.as_ref()),
            _ => false,
        }
    }

    /// Whether a full disk may be behind it: the database says why only in words.
    pub fn may_be_no_space(&self) -> bool {
        use crate::reconcile::Error as Reconcile;
        matches!(self, Self::Reconcile(Reconcile::Store(StoreError::Io(..)))) || self.is_no_space()
    }
}

fn is_full(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let of_disk = error.downcast_ref::<std::io::Error>();
        let of_image = error.downcast_ref::<tank_image::Error>();
        if of_disk.is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull)
            || of_image.is_some_and(tank_image::Error::is_no_space)
        {
            return true;
        }
        next = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_low_by_its_share_where_images_are_refused_and_without_inodes() {
        let free = |free, inodes| Free {
            free,
            total: 1000 << 20,
            spare: 64 << 20,
            inodes,
        };
        assert!(free(99 << 20, None).is_low(10));
        assert!(!free(100 << 20, None).is_low(10));
        assert!(!free(99 << 20, None).is_low(0));
        assert!(free(63 << 20, None).is_low(0));
        assert!(free(999 << 20, Some(3)).is_low(0));
        assert_eq!(
            free(63 << 20, Some(3)).words(),
            "63.0 MiB of 1000 MiB are free, and 3 inodes: images are refused below 64.0 MiB"
        );
        assert_eq!(
            free(99 << 20, None).words(),
            "99.0 MiB of 1000 MiB are free"
        );
    }

    #[test]
    fn what_frees_something_is_said_with_how_much() {
        let nothing = Removable::default().advice();
        assert_eq!(nothing, ["`tank gc` frees nothing now"]);
        let size = Size {
            bytes: 7 << 30,
            at_least: true,
        };
        let advice = Removable {
            collected: 0,
            with_generations: 2 << 30,
            generations: 4,
            largest: Some(("db/data".to_owned(), size)),
        };
        let advice = advice.advice();
        assert_eq!(advice.len(), 3);
        assert!(
            advice[1].starts_with("`tank gc --keep 1` frees 2.0 GiB, and gives up 4 generations")
        );
        assert_eq!(
            advice[2],
            "the largest volume is db/data, with more than 7.0 GiB"
        );
    }

    #[test]
    fn a_full_disk_is_found_behind_other_errors() {
        let full = || std::io::Error::from(std::io::ErrorKind::StorageFull);
        let image = tank_image::Error::Io("write".to_owned(), full());
        let internal = Error::Internal {
            what: "keep it",
            source: Box::new(image),
        };
        assert!(internal.is_no_space() && internal.helped(Some("x".to_owned())).is_no_space());
        let store = Error::from(StoreError::Io("write", Box::new(full())));
        assert!(store.may_be_no_space() && !store.is_no_space());
        assert!(!Error::TooManyTransfers.may_be_no_space());
    }
}
