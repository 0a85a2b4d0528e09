//! Which line of which file set a field, and what it overrode. Kept beside a generation, for
//! `tank why`.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The origin of every value of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Names of the files, as they are shown.
    pub files: Vec<String>,
    /// By field, as [`field`] writes it.
    pub fields: BTreeMap<String, Origin>,
    /// Where each pod came from, as the daemon took it in. Empty in what a compiler says.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub pods: BTreeMap<String, PodSource>,
}

/// The files and the user that a whole pod came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSource {
    /// Absolute paths of the files that were named, or what was asked in words where none were.
    pub files: BTreeSet<String>,
    /// The user id of the process that asked.
    pub uid: u32,
}

impl PodSource {
    /// Whether both are one source. Files are merged: who names some of them, or more, still means
    /// the same pods.
    pub fn is_same(&self, other: &Self) -> bool {
        self.files.is_subset(&other.files) || other.files.is_subset(&self.files)
    }
}

impl std::fmt::Display for PodSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let files: Vec<String> = self.files.iter().map(|file| format!("`{file}`")).collect();
        write!(f, "{} of user {}", files.join(" with "), self.uid)
    }
}

/// Where one value comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The line that set it.
    #[serde(flatten)]
    pub line: Line,
    /// Where it was asked for, when a function made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<Line>,
    /// The definitions that it won over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub overrode: Vec<Overridden>,
}

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Which of the files.
    pub file: u32,
    /// From 1.
    pub line: u32,
}

/// A definition that another one won over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overridden {
    /// Where it stands.
    #[serde(flatten)]
    pub line: Line,
    /// Its text, shortened.
    pub text: String,
    /// `default`, `force` or `priority N`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub priority: String,
}

/// A path as Nickel writes it: parts joined by dots, quoted where they have to be.
pub fn field(path: &[String]) -> String {
    let plain = |part: &str| {
        !part.is_empty()
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'\''))
            && !part.starts_with(|c: char| c.is_ascii_digit() || c == '-')
    };
    let write = |part: &String| {
        if plain(part) {
            part.clone()
        } else {
            format!("{part:?}")
        }
    };
    path.iter().map(write).collect::<Vec<_>>().join(".")
}

/// A path as it is typed: parts joined by dots, quoted where they hold one.
pub fn parse_field(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let (mut quoted, mut escaped) = (false, false);
    for c in text.chars() {
        match c {
            _ if escaped => {
                part.push(c);
                escaped = false;
            }
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(std::mem::take(&mut part)),
            _ => part.push(c),
        }
    }
    parts.push(part);
    parts.retain(|part| !part.is_empty());
    parts
}

impl Provenance {
    /// The line of a field, in words: `pods.ncl:12`.
    pub fn words(&self, line: Line) -> String {
        format!(
            "{}:{}",
            self.files
                .get(line.file as usize)
                .map_or("?", String::as_str),
            line.line
        )
    }

    /// This, with the pods of `newer` in place of those of the same name.
    pub fn with(mut self, newer: Self) -> Self {
        let pod = |field: &str| parse_field(field).into_iter().nth(1);
        let mut replaced: BTreeSet<String> =
            newer.fields.keys().filter_map(|field| pod(field)).collect();
        replaced.extend(newer.pods.keys().cloned());
        self.pods.extend(newer.pods);
        self.fields
            .retain(|field, _| pod(field).is_none_or(|pod| !replaced.contains(&pod)));
        let offset = u32::try_from(self.files.len()).unwrap_or(u32::MAX);
        self.files.extend(newer.files);
        let moved = |line: Line| Line {
            file: line.file.saturating_add(offset),
            ..line
        };
        for (field, origin) in newer.fields {
            let overrode = origin
                .overrode
                .into_iter()
                .map(|over| Overridden {
                    line: moved(over.line),
                    ..over
                })
                .collect();
            self.fields.insert(
                field,
                Origin {
                    line: moved(origin.line),
                    via: origin.via.map(moved),
                    overrode,
                },
            );
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_as_they_are_written() {
        for path in [
            vec!["pods", "web"],
            vec!["files", "/etc/a.conf"],
            vec!["env", "a\"b\\c"],
            vec!["pods", "1"],
        ] {
            let path: Vec<String> = path.into_iter().map(str::to_owned).collect();
            assert_eq!(parse_field(&field(&path)), path);
        }
    }

    #[test]
    fn newer_pods_replace_older_ones() {
        let origin = |file: u32| Origin {
            line: Line { file, line: 1 },
            via: None,
            overrode: Vec::new(),
        };
        let old = Provenance {
            files: vec!["a".to_owned()],
            fields: [("pods.x.restart", 0), ("pods.y.restart", 0)]
                .map(|(f, o)| (f.to_owned(), origin(o)))
                .into(),
            pods: ["x", "y"]
                .map(|pod| (pod.to_owned(), source(&["/a"])))
                .into(),
        };
        let new = Provenance {
            files: vec!["b".to_owned()],
            fields: [("pods.x.hostname".to_owned(), origin(0))].into(),
            pods: [("x".to_owned(), source(&["/b"]))].into(),
        };
        let both = old.with(new);
        assert_eq!(
            both.fields.keys().collect::<Vec<_>>(),
            ["pods.x.hostname", "pods.y.restart"]
        );
        assert_eq!(both.words(both.fields["pods.x.hostname"].line), "b:1");
        assert_eq!(
            (&both.pods["x"], &both.pods["y"]),
            (&source(&["/b"]), &source(&["/a"]))
        );
    }

    fn source(files: &[&str]) -> PodSource {
        PodSource {
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            uid: 0,
        }
    }

    #[test]
    fn some_of_the_files_are_the_same_source_and_others_are_not() {
        let shop = source(&["/shop/base.ncl", "/shop/prod.ncl"]);
        assert!(shop.is_same(&source(&["/shop/prod.ncl"])));
        assert!(source(&["/shop/prod.ncl"]).is_same(&shop));
        assert!(!shop.is_same(&source(&["/shop/base.ncl", "/shop/test.ncl"])));
        assert!(!shop.is_same(&source(&["/blog/prod.ncl"])));
    }
}
