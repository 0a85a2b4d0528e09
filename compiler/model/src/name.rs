//! Names of pods, containers, volumes and published ports, and the stacks that pods belong to.

use serde::{Deserialize, Deserializer, Serialize};
use std::{borrow::Borrow, collections::BTreeMap, fmt, str::FromStr};

/// The most characters of a name, and of a pod's name with its stack.
pub const MAX_NAME: usize = 63;

/// Between a stack and the name of its pod.
const SEPARATOR: char = ':';

/// A DNS label (RFC 1123): 1 to 63 of `a-z`, `0-9`, `-`, beginning and ending with a letter or a
/// digit.
///
/// The name of a pod of a *host* has its stack before it, where it belongs to one: `blog:web`. Both
/// parts are such labels, and together they have 63 characters at most. No other name has a stack:
/// [`Name::new`] makes none, and what a configuration holds beside pods is read by
/// [`plain`] and [`plain_keys`].
///
/// A name becomes a folder, a socket and a cgroup, so it is checked once, here, and can hold neither
/// `/` nor `..`.
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
    /// More than 63 characters together with its stack.
    #[error("`{0}` has more than 63 characters, its stack counted in")]
    TooLongWithStack(String),
    /// Others than `a-z`, `0-9` and `-`, or a `-` at an end.
    #[error(
        "`{0}` is no name: use 1 to 63 of `a-z`, `0-9` and `-`, not beginning or ending with `-`"
    )]
    Characters(String),
}

impl Name {
    /// Checks `text` against RFC 1123. It has no stack.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(NameError::TooLong(text));
        }
        let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if !text.bytes().all(legal) || text.starts_with('-') || text.ends_with('-') {
            return Err(NameError::Characters(text));
        }
        Ok(Self(text))
    }

    /// The name of a pod of a host: `web`, or `blog:web` for the pod `web` of the stack `blog`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of_pod(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        match text.split_once(SEPARATOR) {
            None => Self::new(text),
            Some((stack, pod)) => Self::new(pod)?.in_stack(Some(&Self::new(stack)?)),
        }
    }

    /// The name on a host of the pod that is called this in `stack`. None: of one that belongs to no
    /// stack.
    ///
    /// # Errors
    /// When both together are too long.
    pub fn in_stack(&self, stack: Option<&Self>) -> Result<Self, NameError> {
        let Some(stack) = stack else {
            return Ok(Self(self.local().to_owned()));
        };
        let text = format!("{stack}{SEPARATOR}{}", self.local());
        if text.len() > MAX_NAME {
            return Err(NameError::TooLongWithStack(text));
        }
        Ok(Self(text))
    }

    /// The pod that a source of `stack` means: `web` is its own, `shop:web` another stack's, and
    /// `:web` one that belongs to no stack.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn reference(text: &str, stack: Option<&Self>) -> Result<Self, NameError> {
        match text.split_once(SEPARATOR) {
            None => Self::new(text)?.in_stack(stack),
            Some(("", pod)) => Self::new(pod),
            Some(_) => Self::of_pod(text),
        }
    }

    /// How a source of `stack` says this pod: [`Name::reference`] gives it back.
    pub fn as_seen_from(&self, stack: Option<&str>) -> String {
        match self.stack() {
            own if own == stack => self.local().to_owned(),
            None => format!("{SEPARATOR}{}", self.0),
            Some(_) => self.0.clone(),
        }
    }

    /// The stack that a pod belongs to, if it belongs to one.
    pub fn stack(&self) -> Option<&str> {
        Some(self.0.split_once(SEPARATOR)?.0)
    }

    /// The name of a pod within its stack.
    pub fn local(&self) -> &str {
        self.0.split_once(SEPARATOR).map_or(&self.0, |(_, pod)| pod)
    }

    /// Below every name, and none itself: where a range of names begins.
    pub(crate) fn lowest() -> Self {
        Self(String::new())
    }

    /// The name as text, with its stack.
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

/// As [`Name::of_pod`] reads it. A field that holds no pod's name is read by [`plain`].
impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of_pod(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

/// Reads a name that has no stack.
///
/// # Errors
/// As [`Name::new`].
pub fn plain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
    Name::new(String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

/// Reads a map whose keys are names without a stack.
///
/// # Errors
/// As [`plain`], and those of the values.
pub fn plain_keys<'de, D, T>(deserializer: D) -> Result<BTreeMap<Name, T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    #[derive(PartialEq, Eq, PartialOrd, Ord, Deserialize)]
    #[serde(transparent)]
    struct Plain(#[serde(deserialize_with = "plain")] Name);

    let read = BTreeMap::<Plain, T>::deserialize(deserializer)?;
    Ok(read
        .into_iter()
        .map(|(name, value)| (name.0, value))
        .collect())
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
    fn a_pod_of_a_host_may_have_a_stack() {
        let name = |text: &str| Name::of_pod(text).expect(text);
        let (plain, own) = (name("web"), name("blog:web"));
        assert_eq!((plain.stack(), plain.local()), (None, "web"));
        assert_eq!((own.stack(), own.local()), (Some("blog"), "web"));
        assert_eq!(own.to_string(), "blog:web");
        for bad in [
            ":web",
            "blog:",
            ":",
            "a:b:c",
            "Blog:web",
            "blog:../web",
            "a/b:c",
            "..:web",
            "blog:-",
            "blog: web",
        ] {
            assert!(Name::of_pod(bad).is_err(), "{bad}");
            assert!(
                serde_json::from_value::<Name>(bad.into()).is_err(),
                "{bad} is read"
            );
        }
        for with_stack in ["blog:web", ":web"] {
            assert!(Name::new(with_stack).is_err(), "{with_stack}");
            assert!(with_stack.parse::<Name>().is_err(), "{with_stack}");
            assert!(plain_of(with_stack).is_err(), "{with_stack}");
        }
        // Both together are no longer than one alone.
        let (stack, pod) = ("s".repeat(31), "p".repeat(31));
        assert_eq!(name(&format!("{stack}:{pod}")).as_str().len(), 63);
        let long = Name::of_pod(format!("{stack}s:{pod}")).expect_err("too long");
        assert!(matches!(long, NameError::TooLongWithStack(_)), "{long}");
    }

    fn plain_of(text: &str) -> Result<BTreeMap<Name, ()>, serde_json::Error> {
        #[derive(Deserialize)]
        struct Map(#[serde(deserialize_with = "plain_keys")] BTreeMap<Name, ()>);
        let map = serde_json::json!({ text: null });
        Ok(serde_json::from_value::<Map>(map)?.0)
    }

    #[test]
    fn a_source_says_which_pod_it_means() {
        let blog = Name::new("blog").expect("a name");
        let name = |text: &str| Name::of_pod(text).expect(text);
        for (stack, said, meant) in [
            (Some(&blog), "db", "blog:db"),
            (Some(&blog), "shop:db", "shop:db"),
            (Some(&blog), "blog:db", "blog:db"),
            (Some(&blog), ":db", "db"),
            (None, "db", "db"),
            (None, ":db", "db"),
            (None, "shop:db", "shop:db"),
        ] {
            let found = Name::reference(said, stack).expect(said);
            assert_eq!(found, name(meant), "{said}");
            let again = found.as_seen_from(stack.map(Name::as_str));
            assert_eq!(Name::reference(&again, stack), Ok(found), "{again}");
        }
        for bad in ["", ":", "::db", "shop:", "a:b:c", "shop/db"] {
            assert!(Name::reference(bad, Some(&blog)).is_err(), "{bad}");
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
