//! Names of pods, containers, volumes and published ports.

use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Borrow, fmt, str::FromStr};

/// A DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9`, `-`, beginning and ending with a letter or a
/// digit.
///
/// A name becomes a host name, a folder and a cgroup, so it is checked once, here, and can hold
/// neither `/` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Name(String);

/// Why a text is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No character at all.
    #[error("a name can't be empty")]
    Empty,
    /// More than 63 characters.
    #[error("`{0}` has more than 63 characters")]
    TooLong(String),
    /// Others than `a-z`, `0-9` and `-`, or a `-` at an end.
    #[error(
        "`{0}` is no name: use 1 to 63 of `a-z`, `0-9` and `-`, not beginning or ending with `-`"
    )]
    Characters(String),
}

impl Name {
    /// Checks `text` against RFC 1123.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > 63 {
            return Err(NameError::TooLong(text));
        }
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !text.bytes().all(legal) || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Characters(text));
        }
        Ok(Self(text))
    }

    /// Below every name, and none itself: where a range of names begins.
    pub(crate) fn lowest() -> Self {
        Self(String::new())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        Self::new(s)
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// The candidate nearest to `word` by edit distance, if near enough to be what was meant.
///
/// Used for every *did you mean*. At most a third of the word may differ.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    candidates
        .into_iter()
        .map(|candidate| (strsim::osa_distance(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= word.len().max(candidate.len()).div_ceil(3))
        .min_by_key(|(distance, candidate)| (*distance, *candidate))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "web", "web-1", "0", &"x".repeat(63)] {
            assert!(Name::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "-a",
            "a-",
            "Web",
            "a.b",
            "a/b",
            "..",
            "a_b",
            "é",
            &"x".repeat(64),
        ] {
            assert!(Name::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn nearest_finds_typos_and_nothing_far() {
        assert_eq!(nearest("wbe", ["db", "web", "cache"]), Some("web"));
        assert_eq!(
            nearest("contianers", ["containers", "volumes"]),
            Some("containers")
        );
        assert_eq!(nearest("postgres", ["web", "db"]), None);
    }
}
