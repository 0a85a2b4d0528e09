//! For which machines an image is (OCI image specification, "platform"), and which of them this one is.
//!
//! Of the manifests of an index that one is taken which fits best: the platform itself, then, for arm, older variants, of which
//! every newer machine runs the code, and for this host what its processor runs beside its own (386 on amd64, arm on arm64). How a
//! platform is written is [`tank_model::Platform`]'s.

use crate::{Error, document};
use oci_spec::image::{Arch, Descriptor, ImageConfiguration, ImageIndex, MediaType};
use std::{fmt, fs, io::Read, path::Path};
use tank_model::Digest;

/// Where the kernel has the interpreters of programs (binfmt_misc, in the kernel's documentation).
const INTERPRETERS: &str = "/proc/sys/fs/binfmt_misc";

/// The most bytes of the description of an interpreter.
const MAX_DESCRIPTION: u64 = 4096;

/// What an image is wanted for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Platform {
    named: tank_model::Platform,
    /// It is this host's, which runs more than its own.
    is_host: bool,
}

impl From<tank_model::Platform> for Platform {
    fn from(named: tank_model::Platform) -> Self {
        let is_host = false;
        Self { named, is_host }
    }
}

impl Platform {
    /// This host's.
    pub fn host() -> Self {
        let named = tank_model::Platform::of(&Arch::default().to_string(), None);
        let is_host = true;
        Self { named, is_host }
    }

    /// What fits, the best first. A variant of none is any.
    fn fitting(&self) -> Vec<(&str, Option<&str>)> {
        const ARM: [&str; 4] = ["v8", "v7", "v6", "v5"];
        let arm = |from: &str| {
            let newer = ARM.iter().take_while(|variant| **variant != from).count();
            ARM.into_iter()
                .skip(newer)
                .map(|variant| ("arm", Some(variant)))
        };
        let (arch, variant) = (self.named.arch(), self.named.variant());
        let mut fitting = match (arch, variant) {
            ("arm", Some(variant)) if ARM.contains(&variant) => arm(variant).collect(),
            (arch, Some(variant)) => vec![(arch, Some(variant)), (arch, Some(""))],
            (arch, None) => vec![(arch, Some(""))],
        };
        match arch {
            _ if !self.is_host => {}
            "amd64" => fitting.push(("386", None)),
            "arm64" => fitting.extend(arm("v8")),
            _ => {}
        }
        // What is known of no variant is better than nothing.
        if !matches!(arch, "amd64" | "arm") {
            fitting.push((arch, None));
        }
        fitting
    }

    /// Refuses an image that is for other machines than those it was asked for. For this host it is refused where it is used.
    ///
    /// # Errors
    /// [`Error::NoPlatform`].
    pub fn refuse_other(&self, config: &ImageConfiguration) -> Result<(), Error> {
        let has = config.architecture().to_string();
        match self.is_host || tank_model::Platform::of(&has, None).arch() == self.named.arch() {
            true => Ok(()),
            false => {
                let has = format!("{}/{has}", config.os());
                Err(Error::NoPlatform(self.to_string(), vec![has]))
            }
        }
    }

    /// How well something fits: the less, the better.
    fn rank(&self, arch: &str, variant: Option<&str>) -> Option<usize> {
        let has = tank_model::Platform::of(arch, variant);
        let own = has.variant().unwrap_or_default();
        let fits = |(a, v): (&str, Option<&str>)| a == has.arch() && v.is_none_or(|v| v == own);
        self.fitting().into_iter().position(fits)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.named.fmt(f)
    }
}

/// The manifests of an index for a platform, the best first.
///
/// # Errors
/// When there is none, with what there is.
pub fn pick(index: &ImageIndex, wanted: &Platform) -> Result<Vec<Digest>, Error> {
    let rank = |descriptor: &Descriptor| {
        if matches!(descriptor.media_type(), MediaType::ImageIndex) {
            return None;
        }
        // One that says what it is for comes before one that does not.
        let Some(platform) = descriptor.platform() else {
            return Some(usize::MAX);
        };
        let arch = platform.architecture().to_string();
        let is_linux = platform.os().to_string() == "linux";
        let fits = wanted.rank(&arch, platform.variant().as_deref());
        fits.filter(|_| is_linux)
    };
    let ranked = index.manifests().iter();
    let mut ranked: Vec<(usize, &Descriptor)> = ranked
        .filter_map(|descriptor| Some((rank(descriptor)?, descriptor)))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    if ranked.is_empty() {
        let known = index.manifests().iter().filter_map(|descriptor| {
            let platform = descriptor.platform().as_ref()?;
            let arch = platform.architecture().to_string();
            // What belongs to another manifest, and is none.
            let is_image = arch != "unknown";
            let variant = platform.variant().as_ref();
            let variant = variant.map(|variant| format!("/{variant}"));
            is_image.then(|| format!("{}/{arch}{}", platform.os(), variant.unwrap_or_default()))
        });
        return Err(Error::NoPlatform(wanted.to_string(), known.collect()));
    }
    let digests = ranked
        .into_iter()
        .map(|(_, found)| document::digest_of(found));
    digests.collect()
}

/// That one of them which fits best.
///
/// # Errors
/// As [`pick`].
pub fn best(index: &ImageIndex, wanted: &Platform) -> Result<Digest, Error> {
    pick(index, wanted)?
        .first()
        .copied()
        .ok_or(Error::NestedIndex)
}

/// Whether this host runs programs of an architecture, by its processor or an interpreter that every container has. Of
/// one that is not known nothing is said. Blocking.
pub fn runs(os: &str, arch: &str) -> bool {
    let host = Platform::host();
    if os != "linux" {
        return false;
    }
    let Some(head) = head_of(tank_model::Platform::of(arch, None).arch()) else {
        return true;
    };
    host.rank(arch, None).is_some()
        || fs::read_dir(INTERPRETERS)
            .into_iter()
            .flatten()
            .flatten()
            .any(|entry| {
                entry.file_type().is_ok_and(|kind| kind.is_file())
                    && described(&entry.path()).is_some_and(|text| interprets(&text, &head))
            })
}

fn described(path: &Path) -> Option<String> {
    let mut text = Vec::new();
    let file = fs::File::open(path).ok()?;
    file.take(MAX_DESCRIPTION).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// How a program of an architecture begins (elf(5)): class, byte order and machine.
fn head_of(arch: &str) -> Option<[u8; 20]> {
    let (wide, big, machine): (bool, bool, u16) = match arch {
        "amd64" => (true, false, 62),
        "386" => (false, false, 3),
        "arm64" => (true, false, 183),
        "arm" => (false, false, 40),
        "riscv64" => (true, false, 243),
        "ppc64le" => (true, false, 21),
        "ppc64" => (true, true, 21),
        "s390x" => (true, true, 22),
        "loong64" => (true, false, 258),
        "mips" => (false, true, 8),
        "mipsle" => (false, false, 8),
        "mips64" => (true, true, 8),
        "mips64le" => (true, false, 8),
        _ => return None,
    };
    let word = |word: u16| {
        if big {
            word.to_be_bytes()
        } else {
            word.to_le_bytes()
        }
    };
    let mut head = [0; 20];
    head[..7].copy_from_slice(&[
        0x7f,
        b'E',
        b'L',
        b'F',
        1 + u8::from(wide),
        1 + u8::from(big),
        1,
    ]);
    head[16..18].copy_from_slice(&word(2));
    head[18..].copy_from_slice(&word(machine));
    Some(head)
}

/// Whether an interpreter, as the kernel describes it, takes what begins so, also where its own file is not (flag `F`).
fn interprets(description: &str, head: &[u8]) -> bool {
    let of = |key: &str| {
        let mut lines = description.lines();
        lines.find_map(|line| line.strip_prefix(key).map(str::trim))
    };
    let bytes = |hex: &str| {
        let digits = hex.as_bytes().chunks(2);
        let byte = |two: &[u8]| u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok();
        digits.map(byte).collect::<Option<Vec<u8>>>()
    };
    let Some(magic) = of("magic").and_then(bytes) else {
        return false;
    };
    let mask = of("mask")
        .and_then(bytes)
        .unwrap_or_else(|| vec![0xff; magic.len()]);
    let offset = of("offset")
        .and_then(|offset| offset.parse().ok())
        .unwrap_or(0);
    let head = head.get(offset..).unwrap_or_default();
    let same = |((magic, mask), byte): ((&u8, &u8), &u8)| magic & mask == byte & mask;
    description.starts_with("enabled")
        && of("flags:").is_some_and(|flags| flags.contains('F'))
        && !magic.is_empty()
        && head.len() >= magic.len()
        && magic.iter().zip(&mask).zip(head).all(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn platform(text: &str) -> Platform {
        let named: tank_model::Platform = text.parse().expect("a platform");
        named.into()
    }

    /// What is taken of an index that has these.
    fn picked(wanted: &Platform, has: &[&str]) -> Result<Vec<String>, String> {
        let name = |text: &str| Digest::of(text.as_bytes()).to_string();
        let manifests: Vec<_> = has
            .iter()
            .map(|text| {
                let mut parts = text.split('/');
                let mut platform = json!({ "os": parts.next(), "architecture": parts.next() });
                if let Some(variant) = parts.next() {
                    platform["variant"] = variant.into();
                }
                let mut manifest = json!({ "mediaType": "application/vnd.oci.image.manifest.v1+json",
                    "size": 1, "digest": name(text), "platform": platform });
                if *text == "none" {
                    manifest.as_object_mut().expect("an object").remove("platform");
                }
                manifest
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "manifests": manifests });
        let index: ImageIndex = serde_json::from_value(index).expect("an index");
        let picked = pick(&index, wanted).map_err(|error| error.message())?;
        let text = |digest: &Digest| has.iter().find(|text| name(text) == digest.to_string());
        Ok(picked
            .iter()
            .filter_map(text)
            .map(|text| (*text).to_owned())
            .collect())
    }

    #[test]
    fn of_an_index_that_is_taken_which_fits_best() {
        let amd64 = Platform {
            is_host: true,
            ..platform("linux/amd64")
        };
        for (wanted, has, expected) in [
            (
                amd64.clone(),
                vec!["linux/amd64/v3", "none", "linux/386", "linux/amd64"],
                vec!["linux/amd64", "linux/386", "none"],
            ),
            (
                platform("linux/x86_64"),
                vec!["linux/386", "linux/amd64/v1"],
                vec!["linux/amd64/v1"],
            ),
            (
                platform("linux/amd64/v3"),
                vec!["linux/amd64", "linux/amd64/v3", "linux/amd64/v4"],
                vec!["linux/amd64/v3", "linux/amd64"],
            ),
            (
                platform("linux/arm64/v8"),
                vec!["linux/arm/v7", "linux/arm64"],
                vec!["linux/arm64"],
            ),
            (
                platform("linux/aarch64"),
                vec!["windows/arm64", "linux/arm64/v8"],
                vec!["linux/arm64/v8"],
            ),
            (
                Platform {
                    is_host: true,
                    ..platform("linux/arm64")
                },
                vec!["linux/arm/v6", "linux/arm/v7"],
                vec!["linux/arm/v7", "linux/arm/v6"],
            ),
            (
                platform("linux/arm"),
                vec!["linux/arm/v5", "linux/arm/v8", "linux/arm/v6", "linux/arm"],
                vec!["linux/arm", "linux/arm/v6", "linux/arm/v5"],
            ),
            (
                platform("linux/arm/v6"),
                vec!["linux/arm/v7", "linux/arm/v6"],
                vec!["linux/arm/v6"],
            ),
            (
                platform("linux/riscv64"),
                vec!["linux/riscv64"],
                vec!["linux/riscv64"],
            ),
        ] {
            assert_eq!(
                picked(&wanted, &has).expect("some"),
                expected,
                "{wanted} of {has:?}"
            );
        }
        let has = ["linux/arm64/v8", "linux/arm/v7", "unknown/unknown"];
        assert_eq!(
            picked(&amd64, &has).expect_err("none"),
            "it has nothing for linux/amd64, only for linux/arm64/v8, linux/arm/v7"
        );
    }

    #[test]
    fn an_interpreter_is_one_that_is_enabled_and_in_every_container() {
        let aarch64 = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
            magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";
        let head = |arch| head_of(arch).expect("it is known");
        assert!(interprets(aarch64, &head("arm64")));
        assert!(!interprets(aarch64, &head("arm")));
        assert!(!interprets(&aarch64.replace("OCF", "OC"), &head("arm64")));
        assert!(!interprets(
            &aarch64.replace("enabled", "disabled"),
            &head("arm64")
        ));
        assert!(!interprets(
            "enabled\ninterpreter /usr/bin/java\nflags: F\nextension .jar\n",
            &head("arm64")
        ));
        assert!(runs("linux", &Arch::default().to_string()));
        assert!(runs("linux", "something-new"));
        assert!(!runs("windows", "amd64"));
    }
}
