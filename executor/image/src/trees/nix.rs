//! What a store path of Nix refers to, asked of Nix itself: its database is its own, and other than that is not written down
//! anywhere.

use crate::Error;
use std::{
    collections::BTreeSet,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tank_model::reference::is_store_name;
use tokio::{io::AsyncReadExt, process::Command, time::timeout};

/// Where `nix-store` is: as Nix's installer has it, NixOS, and a distribution.
const PROGRAMS: [&str; 5] = [
    "/nix/var/nix/profiles/default/bin/nix-store",
    "/run/current-system/sw/bin/nix-store",
    "/root/.nix-profile/bin/nix-store",
    "/usr/bin/nix-store",
    "/usr/local/bin/nix-store",
];

/// How long Nix may take to answer.
const TIME: Duration = Duration::from_secs(60);

/// The most bytes of an answer: some 40,000 store paths.
const MAX_ANSWER: u64 = 4 << 20;

/// The most bytes of what it says went wrong.
const MAX_SAID: u64 = 4 << 10;

/// Why a closure can't be had.
#[derive(Debug, thiserror::Error)]
pub enum NixError {
    /// No `nix-store` is where one may be.
    #[error("`nix-store` is not on this host: looked for {}", PROGRAMS.join(", "))]
    NotHere,
    /// The `nix-store` that there is may be somebody else's.
    #[error("`{}` is not root's alone, and is not run as root", .0.display())]
    Others(PathBuf),
    /// It can't be run.
    #[error("can't run `{}`", .0.display())]
    Run(PathBuf, #[source] io::Error),
    /// It does not answer.
    #[error("`nix-store` does not answer within {} s", TIME.as_secs())]
    Late,
    /// It says no.
    #[error("`nix-store` refuses: {0}")]
    Refused(String),
    /// It says what can't be.
    #[error("`nix-store` says what is no list of store paths")]
    Answer,
}

impl NixError {
    /// What to do about it.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            Self::NotHere => Some(
                "the package is called `nix-bin` in Debian; where a store path was built and not here, `nix copy` brings it",
            ),
            Self::Others(_) => Some(
                "Nix of a single user belongs to that user: make an image there, or install Nix for all users",
            ),
            Self::Refused(_) => Some(
                "is the path right, and is it in the store of this host? `nix-store --query --requisites PATH` says the same",
            ),
            _ => None,
        }
    }
}

/// The names of the store paths that `path` refers to, and its own, in order.
///
/// # Errors
/// When Nix is not here, does not answer, or does not know the path.
pub async fn closure(path: &str) -> Result<Vec<String>, Error> {
    let failed = |error| Error::Nix(path.to_owned(), error);
    let program = tokio::task::spawn_blocking(find).await;
    let program = program.map_err(|error| failed(NixError::Run(PathBuf::new(), error.into())))?;
    let program = program.map_err(failed)?;
    let asked = timeout(TIME, ask(&program, path)).await;
    let (answer, said) = asked
        .map_err(|_| failed(NixError::Late))?
        .map_err(|error| failed(NixError::Run(program, error)))?;
    names(path, &answer).map_err(|error| {
        let said = said.lines().filter_map(|line| line.strip_prefix("error: "));
        let said: Vec<String> = said.map(crate::http::shown).collect();
        match said.as_slice() {
            [] => failed(error),
            said => failed(NixError::Refused(said.join("; "))),
        }
    })
}

/// The names of an answer. Each has to be what may be in the store, and the path among them.
fn names(path: &str, answer: &str) -> Result<Vec<String>, NixError> {
    let name = |line: &str| {
        let name = line.strip_prefix("/nix/store/")?;
        is_store_name(name).then(|| name.to_owned())
    };
    let names: Option<BTreeSet<String>> = answer.lines().map(name).collect();
    let names = names.ok_or(NixError::Answer)?;
    let own = path.strip_prefix("/nix/store/").unwrap_or(path);
    match names.contains(own) {
        true => Ok(names.into_iter().collect()),
        false => Err(NixError::Answer),
    }
}

/// Runs `nix-store`: what it answers, and what it says went wrong. Nothing is asked of anybody else: what is not in the store is
/// not fetched.
async fn ask(program: &Path, path: &str) -> io::Result<(String, String)> {
    let mut child = Command::new(program)
        .args(["--query", "--requisites", path])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", "/nonexistent")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let (mut answer, mut said) = (Vec::new(), Vec::new());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let answers = async {
        if let Some(stdout) = stdout {
            stdout.take(MAX_ANSWER + 1).read_to_end(&mut answer).await?;
        }
        Ok::<_, io::Error>(())
    };
    let says = async {
        if let Some(mut stderr) = stderr {
            (&mut stderr).take(MAX_SAID).read_to_end(&mut said).await?;
            // One that goes on is not held up.
            tokio::io::copy(&mut stderr, &mut tokio::io::sink()).await?;
        }
        Ok::<_, io::Error>(())
    };
    tokio::try_join!(answers, says)?;
    // Where every child is reaped by somebody else, its status is not known here; its answer is.
    let _ = child.wait().await;
    if answer.len() as u64 > MAX_ANSWER {
        answer.clear();
    }
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((text(answer), text(said)))
}

/// The program, which nobody but root can have put there, nor a directory that leads to it. Blocking.
fn find() -> Result<PathBuf, NixError> {
    let mut others = None;
    for program in PROGRAMS.map(Path::new) {
        let Ok(real) = program.canonicalize() else {
            continue;
        };
        let is_roots = |path: &Path| {
            path.ancestors().all(|path| {
                path.symlink_metadata().is_ok_and(|found| {
                    let mode = found.mode();
                    let others_write =
                        !found.is_symlink() && mode & 0o022 != 0 && mode & 0o1000 == 0;
                    found.uid() == 0 && !others_write
                })
            })
        };
        if is_roots(program) && is_roots(&real) {
            return Ok(program.to_owned());
        }
        others.get_or_insert(program);
    }
    Err(others.map_or(NixError::NotHere, |other| {
        NixError::Others(other.to_owned())
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_list_of_store_paths_and_has_the_one_that_was_asked_for() {
        let [one, two] = ["0", "1"].map(|c| format!("{}-app", c.repeat(32)));
        let path = format!("/nix/store/{one}");
        let list = format!("/nix/store/{two}\n/nix/store/{one}\n/nix/store/{two}\n");
        assert_eq!(
            names(&path, &list).expect("a list"),
            [one.clone(), two.clone()]
        );
        for wrong in [
            String::new(),
            format!("/nix/store/{two}\n"),
            format!("{list}/etc/shadow\n"),
            format!("{list}/nix/store/../../etc\n"),
            format!("{list}/nix/store/{one}/bin\n"),
        ] {
            assert!(
                matches!(names(&path, &wrong), Err(NixError::Answer)),
                "{wrong}"
            );
        }
    }
}
