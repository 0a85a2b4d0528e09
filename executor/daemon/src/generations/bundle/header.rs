//! What a bundle says of itself, and what of that is believed.

use crate::generations::{Error, error::Context};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use tank_image::{Contents, Platform};
use tank_model::{Config, Digest, Graph, Reference, provenance::Provenance};

/// The file that it stands in.
pub const HEADER: &str = "bundle.json";

const FORMAT: &str = "tank-bundle";
const VERSION: u64 = 1;

/// What a bundle says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub format: String,
    pub version: u64,
    /// The version of Tank that wrote it.
    pub tank: String,
    /// The root hash of the graph.
    pub root: Digest,
    /// The number that the generation had where it is from, and what it was made from.
    pub generation: u64,
    pub source: String,
    /// What its images run on: `linux/amd64`.
    pub platform: String,
    /// What each reference stands for.
    pub images: BTreeMap<String, Digest>,
    pub contents: Contents,
    /// Whether there is `provenance.json`.
    pub provenance: bool,
    /// What has to be on a host that runs it, for people.
    pub needs: Vec<String>,
}

/// What a bundle has.
#[derive(Clone, Debug)]
pub struct Bundle {
    pub root: Digest,
    /// The number of the generation where it is from.
    pub generation: u64,
    pub images: u64,
    pub layers: u64,
    /// Bytes of the archive; none where it was read.
    pub bytes: Option<u64>,
    /// What has to be on the host that runs it, and is not in it.
    pub needs: Vec<String>,
}

/// What of the host the pods of a configuration need, and no bundle has.
pub fn needs(config: &Config) -> Vec<String> {
    let mut needs = BTreeSet::new();
    for volume in config.volumes.keys() {
        needs.insert(format!(
            "volume {volume}, which pods share: its content, unless it may begin anew"
        ));
    }
    for (pod, spec) in &config.pods {
        for (volume, source) in &spec.volumes {
            if let Some(path) = &source.host {
                needs.insert(format!("volume {volume} of {pod}: the folder {path}"));
            } else if source.is_managed() {
                needs.insert(format!(
                    "volume {volume} of {pod}: its content, unless it may begin anew"
                ));
            }
        }
        for (_, name, container) in spec.processes() {
            for (secret, source) in &container.secrets {
                let file = &source.file;
                needs.insert(format!("secret {secret} of {pod}/{name}: the file {file}"));
            }
            for (device, source) in &container.devices {
                let path = &source.path;
                needs.insert(format!("device {device} of {pod}/{name}: {path}"));
            }
        }
    }
    needs.into_iter().collect()
}

fn platform() -> String {
    Platform::host().to_string()
}

/// The fewest digits of a root that are asked for: as many as are shown where it is shown short.
const SHORT: usize = 12;

/// The root that a bundle has to have, or the first digits of it.
#[derive(Clone, Debug)]
pub struct AskedRoot(String);

impl AskedRoot {
    fn fits(&self, root: &Digest) -> bool {
        root.hex().starts_with(&self.0)
    }
}

impl std::fmt::Display for AskedRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl std::str::FromStr for AskedRoot {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text);
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        match (SHORT..=64).contains(&hex.len()) && hex.bytes().all(is_digit) {
            true => Ok(Self(hex.to_owned())),
            false => {
                let shown: String = text.chars().take(80).collect();
                Err(format!(
                    "{shown:?} is no root: `sha256:` and 64 lowercase hex digits, or {SHORT} or more of the first of them"
                ))
            }
        }
    }
}

/// A bundle that is refused; what of it is wrong.
pub fn refused(why: String) -> Error {
    Error::Bundle(why)
}

impl Header {
    /// That of a generation of this host.
    pub fn new(
        (graph, config): (&Graph, &Config),
        (number, source): (u64, String),
        contents: Contents,
        provenance: bool,
    ) -> Self {
        let images = graph.images().into_iter();
        Self {
            format: FORMAT.to_owned(),
            version: VERSION,
            tank: env!("CARGO_PKG_VERSION").to_owned(),
            root: graph.root(),
            generation: number,
            source,
            platform: platform(),
            images: images
                .map(|(name, digest)| (name.to_string(), digest))
                .collect(),
            contents,
            provenance,
            needs: needs(config),
        }
    }

    /// Refuses what has another root than is asked for.
    ///
    /// # Errors
    /// That.
    pub fn expect_root(&self, asked: Option<&AskedRoot>) -> Result<(), Error> {
        match asked.filter(|asked| !asked.fits(&self.root)) {
            None => Ok(()),
            Some(asked) => Err(refused(format!(
                "it has the root {}, and {asked} is asked for",
                self.root
            ))),
        }
    }

    /// What of it is shown.
    pub fn about(&self, bytes: Option<u64>) -> Bundle {
        let images: BTreeSet<&Digest> = self.images.values().collect();
        Bundle {
            root: self.root,
            generation: self.generation,
            images: images.len() as u64,
            layers: self.contents.layers.len() as u64,
            bytes,
            needs: self.needs.clone(),
        }
    }

    /// Reads one, and refuses what this version of Tank can't take.
    pub fn read(bytes: &[u8]) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Kind {
            format: String,
            version: u64,
            tank: Option<String>,
        }
        let wrong = |error| refused(format!("`{HEADER}`: {error}"));
        let kind: Kind = serde_json::from_slice(bytes).map_err(wrong)?;
        if kind.format != FORMAT {
            return Err(refused(format!("`{HEADER}` is that of something else")));
        }
        if kind.version != VERSION {
            let by: String = kind.tank.unwrap_or_default().chars().take(32).collect();
            return Err(refused(format!(
                "it has version {} of the form, written by Tank {by:?}, and this one reads version {VERSION}",
                kind.version
            )));
        }
        let header: Self = serde_json::from_slice(bytes).map_err(wrong)?;
        if header.platform != platform() {
            return Err(refused(format!(
                "its images are for {:?}, and this host is {}",
                header.platform.chars().take(32).collect::<String>(),
                platform()
            )));
        }
        Ok(header)
    }

    /// The graph that a configuration makes with the images that this names, which has to have the root that this
    /// says.
    pub fn graph(&self, config: &Config) -> Result<Graph, Error> {
        let parse = |(name, digest): (&String, &Digest)| {
            let reference = name.parse::<Reference>();
            let reference =
                reference.map_err(|error| refused(format!("image {name:?}: {error}")))?;
            // What the configuration pins is what runs.
            if let Some(pinned) = reference.digest().filter(|pinned| pinned != digest) {
                return Err(refused(format!(
                    "image {name:?}: it is pinned to {pinned}, and {digest} comes"
                )));
            }
            Ok::<_, Error>((reference, *digest))
        };
        let images = self.images.iter().map(parse);
        let images: BTreeMap<Reference, Digest> = images.collect::<Result<_, _>>()?;
        let graph = Graph::build(config, |reference| images.get(reference).copied());
        let graph = graph.doing("build the graph")?;
        if graph.images() != images {
            return Err(refused(
                "the images that it names are not those of its pods".to_owned(),
            ));
        }
        if graph.root() != self.root {
            return Err(refused(format!(
                "what it declares has the root {}, and it says {}",
                graph.root(),
                self.root
            )));
        }
        Ok(graph)
    }

    /// The images, each once.
    pub fn images(&self) -> BTreeSet<Digest> {
        self.images.values().copied().collect()
    }
}

/// The lines of a configuration as others may have them: without the values that were overridden, and without what
/// is this host's own.
pub fn for_others(mut lines: Provenance) -> Provenance {
    for origin in lines.fields.values_mut() {
        origin.overrode.clear();
    }
    lines.pods.clear();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_asked_for_by_its_first_digits_too() {
        let root = Digest::of(b"root");
        let hex = root.hex();
        let short = hex.get(..12).expect("digits");
        for text in [
            root.to_string(),
            hex.clone(),
            short.to_owned(),
            format!("sha256:{short}"),
        ] {
            let asked: AskedRoot = text.parse().expect("a root");
            assert!(
                asked.fits(&root) && !asked.fits(&Digest::of(b"another")),
                "{text}"
            );
        }
        for text in [
            "",
            "sha256:",
            &hex[..11],
            "SHA256:00",
            "xyz012345678",
            &format!("{hex}0"),
        ] {
            text.parse::<AskedRoot>().expect_err(text);
        }
    }

    #[test]
    fn what_is_pinned_is_what_comes() {
        let (pinned, other) = (Digest::of(b"pinned"), Digest::of(b"other"));
        let image = format!("registry.example/app@{pinned}");
        let config = serde_json::json!({ "pods": { "web": { "containers": { "app": { "image": image } } } } });
        let config: Config = serde_json::from_value(config).expect("a configuration");
        let header = |digest: Digest| {
            let graph = Graph::build(&config, |_| Some(digest)).expect("a graph");
            let about = (1, "switch pods.ncl".to_owned());
            Header::new((&graph, &config), about, Contents::default(), false)
        };
        header(pinned).graph(&config).expect("the same");
        let error = header(other).graph(&config).expect_err("another one");
        assert!(error.to_string().contains("it is pinned to"), "{error}");
    }
}
