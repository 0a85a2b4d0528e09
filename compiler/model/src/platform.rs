//! For which machines an image is (OCI image specification, "platform"): `linux/arm64`, `linux/arm/v7`.
//!
//! The operating system is Linux's. An architecture that is written otherwise elsewhere (`x86_64`, `aarch64`) is the same, and
//! the canonical bytes of a platform are its one way of being written.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The most characters of an architecture, and of a variant.
const MAX_PART: usize = 32;

/// A platform, written in the one way there is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Platform {
    arch: String,
    variant: Option<String>,
}

/// Why a text is no platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no platform: write `linux/ARCHITECTURE[/VARIANT]`, for example `linux/arm64` or `linux/arm/v7`"
)]
pub struct PlatformError(String);

impl Platform {
    /// Of an architecture and a variant, as an image has them.
    pub fn of(arch: &str, variant: Option<&str>) -> Self {
        let variant = variant.unwrap_or_default().to_ascii_lowercase();
        let variant = match variant.bytes().next() {
            Some(b'0'..=b'9') => format!("v{variant}"),
            _ => variant,
        };
        let arch = arch.to_ascii_lowercase();
        // The variant that all machines have is none, but for arm.
        let (arch, variant) = match (arch.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "386", _) => ("386", ""),
            ("aarch64" | "arm64", "v8") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "") => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            ("loongarch64", variant) => ("loong64", variant),
            (arch, variant) => (arch, variant),
        };
        Self {
            arch: arch.to_owned(),
            variant: Some(variant.to_owned()).filter(|variant| !variant.is_empty()),
        }
    }

    /// The architecture, as the OCI image specification has it (Go's `GOARCH`).
    pub fn arch(&self) -> &str {
        &self.arch
    }

    /// The variant of its processor, where that is not what all of the architecture have.
    pub fn variant(&self) -> Option<&str> {
        self.variant.as_deref()
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.arch)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let wrong = || PlatformError(text.chars().take(80).collect());
        let mut parts = text.split('/');
        let (os, arch, variant) = (parts.next(), parts.next(), parts.next());
        let legal = |text: &str| {
            let mut bytes = text.bytes();
            !text.is_empty()
                && text.len() <= MAX_PART
                && bytes.all(|b| b.is_ascii_alphanumeric() || b"._".contains(&b))
        };
        match (os, arch, parts.next()) {
            (Some("linux"), Some(arch), None) if legal(arch) && variant.is_none_or(legal) => {
                Ok(Self::of(arch, variant))
            }
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for Platform {
    type Error = PlatformError;

    fn try_from(text: String) -> Result<Self, PlatformError> {
        text.parse()
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_platform_has_one_way_of_being_written() {
        for (written, one) in [
            ("linux/arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/i386", "linux/386"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/6", "linux/arm/v6"),
            ("linux/armhf", "linux/arm/v7"),
            ("linux/loongarch64", "linux/loong64"),
            ("linux/riscv64", "linux/riscv64"),
        ] {
            let read = written.parse::<Platform>().expect("a platform");
            assert_eq!(read.to_string(), one, "{written}");
            assert_eq!(one.parse::<Platform>().as_ref(), Ok(&read));
            let json = serde_json::to_value(&read).expect("a text");
            assert_eq!(json, one);
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for text in [
            "",
            "arm64",
            "linux",
            "linux/",
            "linux/arm/",
            "windows/amd64",
            "Linux/amd64",
            "linux/a/b/c",
            "linux/a b",
            "linux/\u{1b}[2J",
            &format!("linux/{}", "a".repeat(MAX_PART + 1)),
        ] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
            assert!(serde_json::from_value::<Platform>(text.into()).is_err());
        }
    }
}
