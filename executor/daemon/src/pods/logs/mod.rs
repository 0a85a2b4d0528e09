//! Reading the logs that shims write: the last lines, those of a time or of a run, and what comes.
//!
//! Everything here costs what is read: where to begin is looked for from the end or by halves, and from
//! there a log is read a block at a time, so that no more than a block and a line of it is in memory. All of
//! it blocks: who is on the runtime goes through [`blocking`].
//!
//! * [`mod@line`]: one line of a file.
//! * [`files`]: the files of a log, and where in one to begin.
//! * [`tail`]: one log, from there on.
//! * [`merge`]: several, in the order of their times.
//! * [`watch`]: wakes who follows.

mod files;
mod line;
pub mod merge;
pub mod tail;
pub mod watch;

pub use line::{Entry, Kind};

use crate::settings::Settings;
use regex::bytes::{Regex, RegexBuilder};
use std::{
    collections::{BTreeSet, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tail::Tail;

/// The most bytes of a container's last lines in an error: 64 KiB.
const MAX_EXCERPT: usize = 64 << 10;

/// The most bytes of a pattern, and of what it becomes: what a line costs is within that times its length.
const MAX_PATTERN: usize = 1 << 10;
const MAX_PROGRAM: usize = 256 << 10;

/// The most containers of one pod whose logs are looked for in its folder.
const MAX_LISTED: usize = 1_024;

/// Which lines of a log are wanted.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// From this time on, as shims write times: texts are in the order of times.
    pub since: Option<String>,
    /// Before this time.
    pub until: Option<String>,
    /// The last so many, of those that are wanted otherwise.
    pub tail: Option<u64>,
    /// Those that it finds anything in.
    pub grep: Option<Regex>,
}

impl Query {
    /// The same, of the run before the last. None: it is not known when that was.
    pub fn of_previous_run(&self, path: &Path) -> Option<Self> {
        let (begin, end) = files::previous_run(path)?;
        Some(Self {
            since: self.since.clone().max(Some(begin)),
            until: Some(
                self.until
                    .clone()
                    .map_or(end.clone(), |until| until.min(end)),
            ),
            ..self.clone()
        })
    }
}

/// A pattern that a line is searched for.
///
/// # Errors
/// When it is none, or would be too long, in words.
pub fn pattern(text: &str) -> Result<Regex, String> {
    if text.len() > MAX_PATTERN {
        return Err(format!("a pattern has {MAX_PATTERN} bytes at most"));
    }
    let mut builder = RegexBuilder::new(text);
    builder.size_limit(MAX_PROGRAM).dfa_size_limit(MAX_PROGRAM);
    builder.build().map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "the pattern stands for too much".to_owned(),
        other => other.to_string(),
    })
}

/// A time as shims write it, of one in milliseconds since the epoch: the last there is of later ones.
pub fn time(millis: u64) -> String {
    // The last millisecond of the year 9999: RFC 3339 has four digits.
    let millis = millis.min(253_402_300_799_999);
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    humantime::format_rfc3339_nanos(time).to_string()
}

/// Where a container's log is.
pub fn path(settings: &Settings, pod: &str, container: &str) -> PathBuf {
    settings.log_dir(pod).join(format!("{container}.log"))
}

/// The containers that have a log in the folder of a pod.
pub fn logged(settings: &Settings, pod: &str) -> BTreeSet<String> {
    logged_in(&settings.log_dir(pod))
}

fn logged_in(folder: &Path) -> BTreeSet<String> {
    let entries = std::fs::read_dir(folder);
    let names = entries.into_iter().flatten().flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (container, rest) = name.split_once('.')?;
        rest.starts_with("log").then(|| container.to_owned())
    });
    names.take(MAX_LISTED).collect()
}

/// Does `work` on a thread where it may block. None: it panicked, or the daemon ends.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

/// The last `count` lines that were written since `since`, as printed, and no more of them than
/// [`MAX_EXCERPT`].
pub async fn last_lines(
    settings: &Settings,
    pod: &str,
    container: &str,
    count: u64,
    since: SystemTime,
) -> Vec<String> {
    let path = path(settings, pod, container);
    blocking(move || excerpt(path, count, since))
        .await
        .unwrap_or_default()
}

fn excerpt(path: PathBuf, count: u64, since: SystemTime) -> Vec<String> {
    let query = Query {
        since: Some(humantime::format_rfc3339_nanos(since).to_string()),
        tail: Some(count),
        ..Query::default()
    };
    let Ok(mut tail) = Tail::open(path, Arc::new(query), files::BLOCK) else {
        return Vec::new();
    };
    let mut lines = VecDeque::new();
    let mut bytes = 0;
    loop {
        let (more, at_end) = tail.read();
        bytes += more.iter().map(|entry| entry.text.len()).sum::<usize>();
        lines.extend(more.into_iter().map(|entry| entry.text));
        while bytes > MAX_EXCERPT {
            bytes -= lines.pop_front().map_or(bytes, |line: String| line.len());
        }
        if at_end {
            return lines.into();
        }
    }
}

#[cfg(test)]
mod tests;
