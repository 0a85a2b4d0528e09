//! Which line of which file set a field, and what it overrode. Kept beside a generation, for
//! `tank why`.

use crate::{name::Name, stack::Scope};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// The origin of every value of a configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provenance {
    /// Names of the files, as they are shown.
    pub files: Vec<String>,
    /// By field, as [`field`] writes it: of every value, and of the records that are on other lines
    /// than the first value in them.
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
    /// The other lines that a record was written on, where several files, or several lines of one, say
    /// something of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Line>,
}

/// A line of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

    /// Where a field comes from: a value, or a record.
    pub fn origin(&self, path: &[String]) -> Option<Origin> {
        let name = field(path);
        self.fields
            .get(&name)
            .cloned()
            .or_else(|| self.below(&name))
    }

    /// Where a record comes from of which nothing is kept: from the line of the first value in it.
    pub fn below(&self, name: &str) -> Option<Origin> {
        let first = format!("{name}.");
        let below = self.fields.range(first.clone()..);
        let below = below.take_while(|(field, _)| field.starts_with(&first));
        let first = below
            .map(|(_, origin)| origin)
            .min_by_key(|origin| origin.line)?;
        Some(Origin {
            line: first.line,
            via: first.via,
            overrode: Vec::new(),
            also: Vec::new(),
        })
    }

    /// The line that set a field, or else the nearest field around it, in words, if it is known.
    pub fn place(&self, path: &[String]) -> Option<String> {
        self.line(path).map(|line| self.words(line))
    }

    /// As [`Provenance::place`], as data.
    pub fn line(&self, path: &[String]) -> Option<Line> {
        // What is around a pod or a network is every file's.
        let around = (2..=path.len()).rev();
        around
            .filter_map(|length| self.origin(&path[..length]))
            .map(|origin| origin.line)
            .next()
    }

    /// This, with what `newer` says of the pods, networks and shared volumes that `scope` means in place of all that
    /// is known of them, as [`crate::Config::with`]. What is said of others is not taken.
    pub fn with(self, newer: Self, scope: &Scope) -> Self {
        let named = newer.beside_pods();
        let comes = |group: &str, name: &Name| match scope {
            Scope::Host | Scope::Stack(_) => scope.has(name),
            Scope::Pods(_) => named.contains(&(group.to_owned(), name.clone())),
        };
        let mut both = Self::default();
        let stays = |group: &str, name: &Name| !comes(group, name);
        both.take(self, |pod| !scope.has(pod), stays);
        both.take(newer, |pod| scope.has(pod), comes);
        both
    }

    /// The networks and shared volumes that something is said of, each with its group.
    fn beside_pods(&self) -> BTreeSet<(String, Name)> {
        let below = self.fields.keys().map(|field| parse_field(field));
        let named = below.filter_map(|path| match path.as_slice() {
            [group, name, ..] if is_beside_pods(group) => {
                Some((group.clone(), Name::of_pod(name.as_str()).ok()?))
            }
            _ => None,
        });
        named.collect()
    }

    /// Takes what `from` says of the pods, and of the networks and shared volumes, that are wanted, and
    /// the names of the files that it names.
    fn take(
        &mut self,
        from: Self,
        wanted: impl Fn(&Name) -> bool,
        beside: impl Fn(&str, &Name) -> bool,
    ) {
        let is_wanted = |pod: &str| Name::of_pod(pod).is_ok_and(|pod| wanted(&pod));
        let of_wanted = |field: &str| match parse_field(field).as_slice() {
            [group, pod, ..] if group == "pods" => is_wanted(pod),
            [group, name, ..] if is_beside_pods(group) => {
                Name::of_pod(name.as_str()).is_ok_and(|name| beside(group, &name))
            }
            _ => false,
        };
        let mut moved: BTreeMap<u32, u32> = BTreeMap::new();
        let mut files = Files {
            from: &from.files,
            to: &mut self.files,
            moved: &mut moved,
        };
        for (field, mut origin) in from.fields {
            if of_wanted(&field) {
                let overrode = origin.overrode.iter_mut().map(|over| &mut over.line);
                let lines = overrode.chain([&mut origin.line]).chain(&mut origin.via);
                let lines = lines.chain(&mut origin.also);
                lines.for_each(|line| line.file = files.place(line.file));
                self.fields.insert(field, origin);
            }
        }
        let pods = from.pods.into_iter().filter(|(pod, _)| is_wanted(pod));
        self.pods.extend(pods);
    }
}

/// Whether a configuration has these beside its pods, by name.
fn is_beside_pods(group: &str) -> bool {
    matches!(group, "networks" | "volumes")
}

/// The files of one provenance on their way to another.
struct Files<'a> {
    from: &'a [String],
    to: &'a mut Vec<String>,
    moved: &'a mut BTreeMap<u32, u32>,
}

impl Files<'_> {
    /// Where a file is in the other one.
    fn place(&mut self, file: u32) -> u32 {
        *self.moved.entry(file).or_insert_with(|| {
            let name = self.from.get(file as usize).map_or("?", String::as_str);
            self.to.push(name.to_owned());
            u32::try_from(self.to.len() - 1).unwrap_or(u32::MAX)
        })
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
    fn a_record_is_where_it_is_written_or_where_the_first_value_in_it_is() {
        let origin = |line| Origin {
            line: Line { file: 0, line },
            via: None,
            overrode: Vec::new(),
            also: Vec::new(),
        };
        let known = Provenance {
            files: vec!["a".to_owned()],
            fields: [
                ("pods.x.network", 2),
                ("pods.x.network.nics.eth0.address", 4),
                ("pods.x.network.nics.eth0.mode", 3),
                ("pods.x.networks2.a", 9),
            ]
            .map(|(field, line)| (field.to_owned(), origin(line)))
            .into(),
            pods: BTreeMap::new(),
        };
        let place = |path: &str| known.place(&parse_field(path));
        assert_eq!(place("pods.x.network").as_deref(), Some("a:2"));
        assert_eq!(place("pods.x.network.nics.eth0").as_deref(), Some("a:3"));
        assert_eq!(place("pods.x.networks2.a.0").as_deref(), Some("a:9"));
        assert_eq!(place("pods.x").as_deref(), Some("a:2"));
        assert_eq!(place("pods.y.restart"), None);
    }

    #[test]
    fn newer_pods_replace_older_ones() {
        let origin = |file: u32| Origin {
            line: Line { file, line: 1 },
            via: None,
            overrode: Vec::new(),
            also: Vec::new(),
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
        let x = Scope::Pods([Name::new("x").expect("a name")].into());
        let both = old.with(new, &x);
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

    #[test]
    fn a_stack_replaces_what_is_known_of_its_own_pods_and_of_no_others() {
        let origin = |file: u32, line: u32| Origin {
            line: Line { file, line },
            via: Some(Line { file, line: 9 }),
            overrode: Vec::new(),
            also: vec![Line { file, line: 8 }],
        };
        let of = |files: &[&str], fields: &[(&str, u32)]| Provenance {
            files: files.iter().map(|file| (*file).to_owned()).collect(),
            fields: fields
                .iter()
                .map(|(field, file)| ((*field).to_owned(), origin(*file, 1)))
                .collect(),
            pods: BTreeMap::new(),
        };
        let host = of(
            &["unused", "shop.ncl", "blog.ncl"],
            &[
                ("pods.\"shop:web\".restart", 1),
                ("pods.\"blog:web\".restart", 2),
                ("pods.\"blog:old\".restart", 2),
                ("pods.web.restart", 1),
            ],
        );
        // It says something of pods that are not its own, and of no pod: that is not taken.
        let blog = of(
            &["new.ncl"],
            &[
                ("pods.\"blog:web\".hostname", 0),
                ("pods.\"shop:web\".restart", 0),
                ("stack", 0),
            ],
        );
        let scope = Scope::Stack(Some(Name::new("blog").expect("a name")));
        let both = host.with(blog, &scope);
        let said: Vec<(&str, String)> = both
            .fields
            .iter()
            .map(|(field, origin)| (field.as_str(), both.words(origin.line)))
            .collect();
        assert_eq!(
            said,
            [
                ("pods.\"blog:web\".hostname", "new.ncl:1".to_owned()),
                ("pods.\"shop:web\".restart", "shop.ncl:1".to_owned()),
                ("pods.web.restart", "shop.ncl:1".to_owned()),
            ]
        );
        // Every line moves with its file.
        let shop = both.origin(&["pods", "shop:web", "restart"].map(str::to_owned));
        let also = shop.map(|shop| both.words(shop.also[0]));
        assert_eq!(also.as_deref(), Some("shop.ncl:8"));
        // Files that nothing names any more do not stay.
        assert_eq!(both.files, ["shop.ncl", "new.ncl"]);
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
