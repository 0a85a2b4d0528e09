//! The names of the volumes that Tank keeps.

use crate::name::Name;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A volume that Tank keeps: a pod's own, `web/data`, or one that pods share, `uploads`. A stack is
/// said as everywhere: `blog:web/data`, `blog:uploads`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeId {
    /// Of a pod alone, by its name in there.
    Own(Name, Name),
    /// Shared by pods of its stack.
    Shared(Name),
}

impl VolumeId {
    /// The volume that a text names. A pod's own has a `/`, which no shared one has.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('/') {
            Some((pod, volume)) => {
                let (pod, volume) = (Name::of_pod(pod).ok()?, Name::new(volume).ok()?);
                Some(Self::Own(pod, volume))
            }
            None => Some(Self::Shared(Name::of_pod(text).ok()?)),
        }
    }

    /// The pod whose it is alone.
    pub fn pod(&self) -> Option<&Name> {
        match self {
            Self::Own(pod, _) => Some(pod),
            Self::Shared(_) => None,
        }
    }
}

impl fmt::Display for VolumeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Own(pod, volume) => write!(f, "{pod}/{volume}"),
            Self::Shared(volume) => write!(f, "{volume}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_says_whose_a_volume_is() {
        for (text, pod) in [
            ("web/data", Some("web")),
            ("blog:web/data", Some("blog:web")),
            ("uploads", None),
            ("blog:uploads", None),
        ] {
            let id = VolumeId::parse(text).expect(text);
            assert_eq!(id.pod().map(Name::as_str), pod, "{text}");
            assert_eq!(id.to_string(), text);
        }
        for bad in [
            "",
            "/",
            "web/",
            "/data",
            "a/b/c",
            "web/blog:data",
            "..",
            ".x",
            "a:b:c",
        ] {
            assert_eq!(VolumeId::parse(bad), None, "{bad}");
        }
    }
}
