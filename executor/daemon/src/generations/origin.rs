//! Where the pods of a request come from: their files, and what relative paths of their images are
//! relative to.

use super::{Error, intent::MAX_SOURCE, request::Problems};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};
use tank_model::{Config, Name, provenance::PodSource, reference::ImageSource};

/// The most files that one call may name, and the most stacks.
const MAX_FILES: usize = 1_000;

/// Where some pods come from.
#[derive(Clone)]
pub struct Origin {
    /// What relative paths of images are relative to.
    pub base_dir: Option<PathBuf>,
    pub source: PodSource,
}

/// Where the pods of a request come from.
pub enum Origins {
    /// All from one source: they are pods of one stack, or of none.
    One(Origin),
    /// It is the whole host. By stack; none: of the pods that belong to none.
    Host(BTreeMap<Option<String>, Origin>),
}

/// The files that were named, or what was asked for in words where there are none.
pub fn source(files: &[String], asked: &str, uid: u32) -> PodSource {
    let files: BTreeSet<String> = match files {
        [] => BTreeSet::from([asked.chars().take(MAX_SOURCE).collect()]),
        files => files.iter().take(MAX_FILES).cloned().collect(),
    };
    PodSource { files, uid }
}

impl Origins {
    /// Whether the request is the whole host.
    pub fn is_host(&self) -> bool {
        matches!(self, Self::Host(_))
    }

    /// What all pods come from. None: it is the whole host, which nobody else has a part of.
    pub fn source(&self) -> Option<&PodSource> {
        match self {
            Self::One(origin) => Some(&origin.source),
            Self::Host(_) => None,
        }
    }

    /// As it is, for all stacks of a configuration of a whole host.
    #[must_use]
    pub fn for_stacks_of(self, config: &Config) -> Self {
        let has_stacks = config.pods.keys().any(|pod| pod.stack().is_some());
        match self {
            Self::One(origin) if config.stack.is_none() && has_stacks => {
                let stack = |pod: &Name| (pod.stack().map(str::to_owned), origin.clone());
                Self::Host(config.pods.keys().map(stack).collect())
            }
            other => other,
        }
    }

    fn of(&self, pod: &Name) -> Option<&Origin> {
        match self {
            Self::One(origin) => Some(origin),
            Self::Host(stacks) => stacks.get(&pod.stack().map(str::to_owned)),
        }
    }

    /// The source of each pod.
    ///
    /// # Errors
    /// When there is none for a stack, or there are too many.
    pub fn sources(&self, config: &Config) -> Result<BTreeMap<String, PodSource>, Error> {
        if let Self::Host(stacks) = self
            && stacks.len() > MAX_FILES
        {
            let count = stacks.len();
            let problem = format!("{count} stacks are named, and {MAX_FILES} is the most");
            return Err(Error::Invalid(vec![problem]));
        }
        let mut problems = Problems::default();
        let mut sources = BTreeMap::new();
        for pod in config.pods.keys() {
            match self.of(pod) {
                Some(origin) => drop(sources.insert(pod.to_string(), origin.source.clone())),
                None => problems.add(format!("pods.{pod}: no source is named for its stack")),
            }
        }
        problems.result(sources)
    }

    /// What the relative path of a pod's image is relative to. None: it has none.
    pub fn base_dir(&self, pod: &Name, source: &ImageSource) -> Option<&Path> {
        source.path()?;
        self.of(pod)?.base_dir.as_deref()
    }
}
