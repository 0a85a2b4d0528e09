//! As whom a registry is asked: what `tank login` was given, and the files that other tools keep
//! (containers-auth.json(5), Docker's `config.json`), with their credential helpers.
//!
//! A file names programs that are run as root, and holds passwords. So it is read only where root
//! alone can have written it; another one is an error and no file that is not there. A helper gets
//! the registry's name and nothing else, and has [`HELPER_TIME`] and [`MAX_ANSWER`].

use crate::{Error, error::Attempt, registries::is_host};
use base64::{Engine, prelude::BASE64_STANDARD};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tank_model::reference::{DOCKER_HUB, canonical_registry};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::Mutex,
};

/// The most bytes of a file with credentials: 1 MiB.
const MAX_FILE: u64 = 1 << 20;

/// The longest time that a credential helper takes.
const HELPER_TIME: Duration = Duration::from_secs(30);

/// The most bytes that a credential helper answers with.
const MAX_ANSWER: u64 = 64 << 10;

/// The most bytes of a user's name, and of a password or a token.
const MAX_USER: usize = 1 << 10;
const MAX_PASSWORD: usize = 64 << 10;

/// What Docker calls its own registry in its files, and for its helpers.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// How a helper says that it does not know a registry.
const NOT_FOUND: &str = "credentials not found";

/// The user that a helper names where its secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// As whom a registry is asked. What is secret of it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Credential {
    /// A user with a password.
    Basic { user: String, password: String },
    /// A token that other tokens are given for (OAuth2's refresh token).
    Identity(String),
    /// A token for the registry itself.
    Bearer(String),
}

impl Credential {
    /// Who it says that one is, as far as that can be shown.
    pub fn user(&self) -> String {
        match self {
            Self::Basic { user, .. } => user.chars().filter(|c| !c.is_control()).collect(),
            Self::Identity(_) | Self::Bearer(_) => "the owner of a token".to_owned(),
        }
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({})", self.user())
    }
}

/// Why credentials can't be had, or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CredentialError {
    /// A file may have been written by somebody else than root.
    #[error("{} is not root's alone (owner {uid}, mode {mode:04o}): it names programs that are run as root; `chown root` and `chmod go-w` it", path.display())]
    NotRoots {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
        /// Its permission bits.
        mode: u32,
    },
    /// It is a folder, a pipe or a device.
    #[error("{} is no file", .0.display())]
    NoFile(PathBuf),
    /// It has more than 1 MiB.
    #[error("{} has more than {MAX_FILE} bytes", .0.display())]
    Long(PathBuf),
    /// It is not what it should be.
    #[error("{} can't be read as credentials", .0.display())]
    Document(PathBuf, #[source] serde_json::Error),
    /// An entry of it is not `USER:PASSWORD` in base64.
    #[error("{} has an entry for `{entry}` that is no `USER:PASSWORD` in base64", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry.
        entry: String,
    },
    /// A helper's name is none: it would be another program.
    #[error("{} names the credential helper `{name}`, which is no name of one", path.display())]
    HelperName {
        /// The file.
        path: PathBuf,
        /// What it names.
        name: String,
    },
    /// A helper does not do what it is for.
    #[error("the credential helper `docker-credential-{name}` {why}")]
    Helper {
        /// Its name, without what all are called.
        name: String,
        /// What it does instead.
        why: String,
    },
    /// Somebody's name or password can't be one.
    #[error("{0}")]
    Refused(&'static str),
}

/// A file with credentials, as far as it is understood.
#[derive(Default, Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default, rename = "credHelpers")]
    helpers: BTreeMap<String, String>,
    #[serde(default, rename = "credsStore")]
    store: Option<String>,
}

#[derive(Default, Serialize, Deserialize)]
struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth: Option<String>,
    #[serde(default, skip_serializing, rename = "identitytoken")]
    identity_token: Option<String>,
    #[serde(default, skip_serializing, rename = "registrytoken")]
    registry_token: Option<String>,
}

/// What a helper answers.
#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "Username")]
    user: String,
    #[serde(rename = "Secret")]
    secret: String,
}

/// Where credentials are. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// What `tank login` was given.
    kept: PathBuf,
    /// Files of others, which are only read. One that is not there is none.
    files: Vec<PathBuf>,
    /// Held while the file is changed.
    changing: Arc<Mutex<()>>,
}

impl Credentials {
    pub(crate) fn new(kept: PathBuf, files: Vec<PathBuf>) -> Self {
        Self {
            kept,
            files,
            changing: Arc::default(),
        }
    }

    /// As whom to ask a registry for a repository: the entry that fits best of the first file that has
    /// one. None: as nobody.
    ///
    /// # Errors
    /// When a file, or a helper, is not as it should be.
    pub(crate) async fn find(
        &self,
        host: &str,
        repository: &str,
    ) -> Result<Option<Credential>, CredentialError> {
        for path in std::iter::once(&self.kept).chain(&self.files) {
            let Some(document) = read(path)? else {
                continue;
            };
            if let Some(name) = document.helper(host) {
                let name = name.to_owned();
                if !is_helper_name(&name) {
                    let path = path.clone();
                    return Err(CredentialError::HelperName { path, name });
                }
                if let Some(found) = ask(&name, host).await? {
                    return Ok(Some(found));
                }
            }
            if let Some((entry, found)) = document.entry(host, repository) {
                let found = found.credential().map_err(|()| CredentialError::Entry {
                    path: path.clone(),
                    entry: entry.clone(),
                })?;
                if found.is_some() {
                    return Ok(found);
                }
            }
        }
        Ok(None)
    }

    /// Keeps what a registry has accepted.
    pub(crate) async fn keep(&self, host: &str, user: &str, password: &str) -> Result<(), Error> {
        let auth = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let entry = Entry {
            auth: Some(auth),
            ..Entry::default()
        };
        self.change(|auths| drop(auths.insert(host.to_owned(), entry)))
            .await
    }

    /// Forgets a registry: whether it was known, and the file of another tool that still knows it.
    ///
    /// # Errors
    /// What the disk gives, and [`CredentialError`].
    pub async fn forget(&self, host: &str) -> Result<(bool, Option<PathBuf>), Error> {
        let mut known = false;
        self.change(|auths| known = auths.remove(host).is_some())
            .await?;
        for path in &self.files {
            let Some(document) = read(path)? else {
                continue;
            };
            if document.helper(host).is_some() || document.entry(host, "").is_some() {
                return Ok((known, Some(path.clone())));
            }
        }
        Ok((known, None))
    }

    async fn change(&self, change: impl FnOnce(&mut BTreeMap<String, Entry>)) -> Result<(), Error> {
        let _changing = self.changing.lock().await;
        let mut auths = read(&self.kept)?.unwrap_or_default().auths;
        change(&mut auths);
        let text = serde_json::to_vec(&BTreeMap::from([("auths", auths)]));
        let text = text.map_err(|error| CredentialError::Document(self.kept.clone(), error))?;
        let beside = self.kept.with_extension("new");
        let write = || -> io::Result<()> {
            let _ = fs::remove_file(&beside);
            let mut options = File::options();
            let mut file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&beside)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&beside, &self.kept)?;
            File::open(self.kept.parent().unwrap_or(&self.kept))?.sync_all()
        };
        write().attempt(|| format!("write {}", self.kept.display()))
    }
}

/// Whether a user and a password may be kept, and sent.
pub(crate) fn check(user: &str, password: &str) -> Result<(), CredentialError> {
    let why = if user.is_empty() || password.is_empty() {
        "a user and a password are needed"
    } else if user.len() > MAX_USER || password.len() > MAX_PASSWORD {
        "a user's name has 1,024 bytes at most, and a password 65,536"
    } else if user.contains(':') {
        "a user's name has no `:`"
    } else if user.chars().chain(password.chars()).any(char::is_control) {
        "a user's name and a password have no control characters, nor line ends"
    } else {
        return Ok(());
    };
    Err(CredentialError::Refused(why))
}

impl Document {
    /// The helper that knows this registry.
    fn helper(&self, host: &str) -> Option<&str> {
        let named = self.helpers.iter().find(|(key, _)| host_of(key) == host);
        let named = named.map(|(_, helper)| helper);
        named.or(self.store.as_ref()).map(String::as_str)
    }

    /// The entry that names the most of a repository.
    fn entry(&self, host: &str, repository: &str) -> Option<(&String, &Entry)> {
        let whole = format!("{host}/{repository}");
        let fits = |key: &str| {
            let key = host_of(key);
            let rest = whole.strip_prefix(key.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let fitting = self.auths.iter().filter(|(key, _)| fits(key));
        fitting.max_by_key(|(key, _)| host_of(key).len())
    }
}

impl Entry {
    /// None where it says nothing: Docker leaves such an entry for what a helper keeps.
    fn credential(&self) -> Result<Option<Credential>, ()> {
        let some = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        if let Some(token) = some(&self.registry_token) {
            return Ok(Some(Credential::Bearer(token)));
        }
        if let Some(token) = some(&self.identity_token) {
            return Ok(Some(Credential::Identity(token)));
        }
        let Some(auth) = some(&self.auth) else {
            return Ok(None);
        };
        let bytes = BASE64_STANDARD.decode(auth.trim()).map_err(drop)?;
        let text = String::from_utf8(bytes).map_err(drop)?;
        let (user, password) = text.split_once(':').ok_or(())?;
        let password = password.trim_end_matches('\0');
        check(user, password).map_err(drop)?;
        Ok(Some(Credential::Basic {
            user: user.to_owned(),
            password: password.to_owned(),
        }))
    }
}

/// The registry, with a path where there is one, that a key of a file means: `https://HOST/v1/` is how Docker once
/// called them.
fn host_of(key: &str) -> String {
    let stripped = ["https://", "http://"]
        .iter()
        .find_map(|scheme| key.strip_prefix(scheme));
    let mut rest = stripped.unwrap_or(key).trim_end_matches('/');
    if stripped.is_some() {
        let version = ["/v1", "/v2"];
        let without = version
            .iter()
            .find_map(|version| rest.strip_suffix(version));
        rest = without.unwrap_or(rest);
    }
    let (host, path) = rest
        .split_once('/')
        .map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = canonical_registry(host);
    match path {
        None => host,
        Some(path) => format!("{host}/{path}"),
    }
}

/// The registry that somebody names to log in to it, if it is one.
pub(crate) fn registry_of(text: &str) -> Option<String> {
    let host = host_of(text);
    is_host(&host).then_some(host)
}

/// Reads a file, if it is there.
fn read(path: &Path) -> Result<Option<Document>, CredentialError> {
    let nonblocking = i32::try_from((OFlags::NONBLOCK | OFlags::NOCTTY).bits()).unwrap_or(0);
    let opened = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path);
    let failed = |error| CredentialError::Document(path.to_owned(), serde_json::Error::io(error));
    let file = match opened {
        Ok(file) => file,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
            return Ok(None);
        }
        Err(error) => return Err(failed(error)),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Err(CredentialError::NoFile(path.to_owned()));
    }
    // The daemon is root.
    let own = rustix::process::geteuid().as_raw();
    let (uid, mode) = (found.uid(), found.mode() & 0o7777);
    if uid != own || mode & 0o022 != 0 {
        let path = path.to_owned();
        return Err(CredentialError::NotRoots { path, uid, mode });
    }
    // Who may put something else there chooses what is read.
    let folder = path.parent().unwrap_or(path);
    let parent = fs::metadata(folder).map_err(failed)?;
    let (uid, mode) = (parent.uid(), parent.mode() & 0o7777);
    if uid != own && uid != 0 || mode & 0o022 != 0 && mode & 0o1000 == 0 {
        let path = folder.to_owned();
        return Err(CredentialError::NotRoots { path, uid, mode });
    }
    let mut bytes = Vec::new();
    let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes);
    if read.map_err(failed)? as u64 > MAX_FILE {
        return Err(CredentialError::Long(path.to_owned()));
    }
    // An empty file is how others make one that is there.
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Some(Document::default()));
    }
    let parsed = serde_json::from_slice(&bytes);
    parsed
        .map(Some)
        .map_err(|error| CredentialError::Document(path.to_owned(), error))
}

fn is_helper_name(name: &str) -> bool {
    let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    (1..=64).contains(&name.len()) && name.bytes().all(legal)
}

/// Asks a helper (Docker's "Credential helper protocol"). None: it does not know the registry.
async fn ask(name: &str, host: &str) -> Result<Option<Credential>, CredentialError> {
    let program = PathBuf::from(format!("docker-credential-{name}"));
    ask_program(&program, name, host).await
}

async fn ask_program(
    program: &Path,
    name: &str,
    host: &str,
) -> Result<Option<Credential>, CredentialError> {
    let failed = |why: String| CredentialError::Helper {
        name: name.to_owned(),
        why,
    };
    let answer = tokio::time::timeout(HELPER_TIME, run(program, host)).await;
    let late = || format!("does not answer within {} s", HELPER_TIME.as_secs());
    let (bytes, success) = answer
        .map_err(|_| failed(late()))?
        .map_err(|error| failed(format!("can't be run: {error}")))?;
    if bytes.len() as u64 > MAX_ANSWER {
        return Err(failed(format!("answers more than {MAX_ANSWER} bytes")));
    }
    let text = String::from_utf8_lossy(&bytes);
    if text.trim_start().starts_with(NOT_FOUND) {
        return Ok(None);
    }
    if !success {
        let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        return Err(failed(format!("fails: {text}")));
    }
    // What it answers is not quoted: it may be a password.
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|_| failed("answers with something else than credentials".to_owned()))?;
    if answer.user == TOKEN_USER {
        return Ok(Some(Credential::Identity(answer.secret)));
    }
    check(&answer.user, &answer.secret).map_err(|error| failed(format!("answers: {error}")))?;
    Ok(Some(Credential::Basic {
        user: answer.user,
        password: answer.secret,
    }))
}

/// What a helper writes, up to one byte more than it may, and whether it ends with success.
async fn run(program: &Path, host: &str) -> io::Result<(Vec<u8>, bool)> {
    let server = if host == DOCKER_HUB {
        DOCKER_HUB_KEY
    } else {
        host
    };
    let mut child = Command::new(program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that reads nothing may know the answer nevertheless.
        let _ = stdin.write_all(server.as_bytes()).await;
    }
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        stdout.take(MAX_ANSWER + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > MAX_ANSWER {
        return Ok((bytes, false));
    }
    // Where every child is reaped by somebody else, its status is not known here; its answer is.
    let status = child.wait().await;
    Ok((bytes, status.map_or(true, |status| status.success())))
}

#[cfg(test)]
mod tests;
