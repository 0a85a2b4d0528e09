//! The two ends of a copy, as they are typed.

use super::quoted;
use crate::{args::split_target, error::Error};
use std::{
    ffi::OsStr,
    fmt,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

/// One end.
#[derive(Debug, PartialEq, Eq)]
pub enum Side {
    Container(Remote),
    Local(Local),
    /// Standard input or output.
    Stream,
}

/// A path of a container.
#[derive(Debug, PartialEq, Eq)]
pub struct Remote {
    pub pod: String,
    pub container: Option<String>,
    /// From its `/`, without `..`; with a `/` at its end where it has to be a folder.
    pub path: String,
    /// What it is called, or `.` where only what is in it is meant.
    pub name: String,
    /// It was typed as one.
    pub is_folder: bool,
}

/// A path of this host.
#[derive(Debug, PartialEq, Eq)]
pub struct Local {
    /// Absolute; with a `/` at its end where it has to be a folder.
    pub path: PathBuf,
    pub name: Vec<u8>,
    pub is_folder: bool,
    pub shown: String,
}

impl Side {
    /// `POD:/PATH` is one of a container, unless it begins like a path. A pod of a stack has a colon in its name.
    pub fn of(typed: &OsStr) -> Result<Self, Error> {
        if typed == "-" {
            return Ok(Self::Stream);
        }
        let bytes = typed.as_bytes();
        if bytes.is_empty() {
            return Err(Error::failed("copy", "a path is empty"));
        }
        let at = bytes.windows(2).position(|two| two == b":/");
        match at {
            Some(at) if at > 0 && !matches!(bytes.first(), Some(b'/' | b'.')) => {
                let Some((target, path)) = typed
                    .to_str()
                    .and_then(|text| Some((text.get(..at)?, text.get(at + 1..)?)))
                else {
                    let why = "a path of a container is UTF-8";
                    return Err(Error::failed(
                        format!("copy {}", quoted(Path::new(typed))),
                        why,
                    ));
                };
                Ok(Self::Container(Remote::new(target, path)))
            }
            _ if is_relative(typed) => {
                let why = "a path of a container begins with its `/`: `POD:/PATH`; one of this host with a colon in it, with `./`";
                Err(Error::failed(
                    format!("copy {}", quoted(Path::new(typed))),
                    why,
                ))
            }
            _ => Local::new(typed).map(Self::Local),
        }
    }
}

/// `web:etc/hosts`, as Docker takes it, and no file of this host.
fn is_relative(typed: &OsStr) -> bool {
    let bytes = typed.as_bytes();
    let is_plain = !matches!(bytes.first(), Some(b'/' | b'.'));
    is_plain && bytes.contains(&b':') && Path::new(typed).symlink_metadata().is_err()
}

/// How the end of a path is to be read: whether it has to be a folder, and whether only what is in it is meant.
fn ends(path: &[u8]) -> (bool, bool) {
    let inner = path == b"." || path.ends_with(b"/.");
    (inner || path.ends_with(b"/"), inner)
}

impl Remote {
    fn new(target: &str, typed: &str) -> Self {
        let (pod, container) = split_target(target);
        let (is_folder, inner) = ends(typed.as_bytes());
        let mut parts: Vec<&str> = Vec::new();
        for part in typed.split('/') {
            match part {
                "" | "." => {}
                ".." => drop(parts.pop()),
                part => parts.push(part),
            }
        }
        let name = match parts.last() {
            Some(name) if !inner => (*name).to_owned(),
            _ => ".".to_owned(),
        };
        let is_folder = is_folder || parts.is_empty();
        let end = if is_folder && !parts.is_empty() {
            "/"
        } else {
            ""
        };
        Self {
            pod,
            container,
            path: format!("/{}{end}", parts.join("/")),
            name,
            is_folder,
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.pod)?;
        if let Some(container) = &self.container {
            write!(f, "/{container}")?;
        }
        write!(f, ":{}", self.path)
    }
}

impl Local {
    fn new(typed: &OsStr) -> Result<Self, Error> {
        let failed = |e| Error::failed(format!("find {}", quoted(Path::new(typed))), e);
        let (is_folder, inner) = ends(typed.as_bytes());
        let mut path = std::path::absolute(typed).map_err(failed)?;
        let name = match path.file_name() {
            _ if inner => b".".to_vec(),
            Some(name) => name.as_bytes().to_vec(),
            // `..` at its end, or `/`.
            None => {
                let real = path.canonicalize().map_err(failed)?;
                let name = real.file_name().unwrap_or(OsStr::new("."));
                name.as_bytes().to_vec()
            }
        };
        if is_folder {
            path.push("");
        }
        Ok(Self {
            path,
            name,
            is_folder: is_folder || inner,
            shown: quoted(Path::new(typed)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(typed: &str) -> (String, String, String, bool) {
        match Side::of(OsStr::new(typed)).expect("a path") {
            Side::Container(found) => {
                let target = match &found.container {
                    Some(container) => format!("{}+{container}", found.pod),
                    None => found.pod.clone(),
                };
                (target, found.path, found.name, found.is_folder)
            }
            other => panic!("{typed}: {other:?}"),
        }
    }

    #[test]
    fn a_path_of_a_container_is_behind_its_name() {
        let is = |typed: &str, target: &str, path: &str, name: &str, is_folder: bool| {
            let expected = (target.into(), path.into(), name.into(), is_folder);
            assert_eq!(remote(typed), expected, "{typed}");
        };
        is("web:/etc/hosts", "web", "/etc/hosts", "hosts", false);
        is("web/app:/var/log", "web+app", "/var/log", "log", false);
        is("blog:web/app:/a:b", "blog:web+app", "/a:b", "a:b", false);
        is("web:/var/log/", "web", "/var/log/", "log", true);
        is("web:/var/log/.", "web", "/var/log/", ".", true);
        is("web:/", "web", "/", ".", true);
        is("web:/a/../../b//./c", "web", "/b/c", "c", false);
        is("web:/..", "web", "/", ".", true);
        is("web:/a/...", "web", "/a/...", "...", false);
    }

    #[test]
    fn a_path_of_this_host_begins_like_one_or_has_no_colon() {
        let local = |typed: &str| match Side::of(OsStr::new(typed)).expect("a path") {
            Side::Local(found) => (found.path, found.name, found.is_folder),
            other => panic!("{typed}: {other:?}"),
        };
        let here = std::env::current_dir().expect("a folder");
        let own = here.file_name().expect("a name").as_bytes().to_vec();
        for (typed, path, name, is_folder) in [
            ("./web:/etc", here.join("web:/etc"), "etc", false),
            ("/web:/etc", "/web:/etc".into(), "etc", false),
            ("logs", here.join("logs"), "logs", false),
            ("logs/", here.join("logs/"), "logs", true),
            ("logs/.", here.join("logs/"), ".", true),
            (".", here.join(""), ".", true),
            ("/", "/".into(), ".", true),
        ] {
            let expected = (path, name.as_bytes().to_vec(), is_folder);
            let found = local(typed);
            assert_eq!(
                (found.0.as_os_str(), found.1, found.2),
                (expected.0.as_os_str(), expected.1, expected.2),
                "{typed}"
            );
        }
        assert_eq!(local("src/..").1, own);
        assert_eq!(Side::of(OsStr::new("-")).expect("a stream"), Side::Stream);
        for typed in ["web:etc/hosts", "blog:web", ""] {
            assert!(Side::of(OsStr::new(typed)).is_err(), "{typed}");
        }
    }
}
