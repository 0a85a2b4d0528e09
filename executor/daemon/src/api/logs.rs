//! Reading logs: whose they are, and their lines for as long as the client stays.

use super::{client::Client, refusal::Refusal};
use crate::{
    dirty::DEBOUNCE,
    generations::Generations,
    pods::logs::{
        self, Entry, Kind, Query,
        merge::{self, Merge},
        watch::{Followed, LogWatch, MAX_READ},
    },
    settings::Settings,
};
use futures_util::{FutureExt, future::select_all};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};
use tank_model::{Graph, Name};
use tank_proto::varlink::{Error, LogLine, LogName, LogsCall, LogsReply};
use tokio::{
    io::Interest,
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep, timeout},
};

/// How often a followed log is read whatever the kernel notifies of, and it is looked for logs that are new.
const RECHECK_PERIOD: Duration = Duration::from_secs(10);

/// How often a followed log is read whose folder can't be watched.
const POLL_PERIOD: Duration = Duration::from_millis(100);

/// The most targets of one call.
const MAX_TARGETS: usize = 1_024;

/// Logs that one client reads.
struct Reader {
    settings: Arc<Settings>,
    watch: Arc<LogWatch>,
    call: LogsCall,
    query: Query,
    names: Vec<LogName>,
    /// Moved to where it may block, and back.
    merge: Merge,
    /// The folder of each pod, who notifies of it, and its logs by their numbers.
    folders: BTreeMap<PathBuf, (Option<Followed>, Vec<usize>)>,
    places: Vec<OwnedSemaphorePermit>,
}

impl Client {
    pub async fn logs(
        &mut self,
        generations: &Arc<Generations>,
        call: LogsCall,
        more: bool,
    ) -> Result<(), Refusal> {
        if !more {
            return Err(Refusal::Service("ExpectedMore", json!({})));
        }
        let query = query(&call)?;
        let follow = call.follow == Some(true);
        let mut reader = Reader {
            settings: Arc::clone(&self.floors.settings),
            watch: Arc::clone(self.floors.pods.logs()),
            call,
            query,
            names: Vec::new(),
            merge: Merge::new(follow),
            folders: BTreeMap::new(),
            places: Vec::new(),
        };
        reader = reader.look_for_logs(generations, false).await?;
        self.log_names(&reader.names).await?;
        let (mut looked, mut all) = (Instant::now(), false);
        loop {
            if follow {
                reader.mark_seen(std::mem::take(&mut all));
            }
            // Lines are read when those before are sent, so an asker who left has the rest read to nobody.
            loop {
                let (back, lines, at_end) = reader.next().await?;
                reader = back;
                self.log_lines(&reader.names, lines).await?;
                if at_end {
                    break;
                }
                let left = self.stream.ready(Interest::PRIORITY).now_or_never();
                if left.is_some() {
                    return Err(Refusal::Gone);
                }
            }
            if !follow {
                break;
            }
            self.while_listening(reader.next_write()).await?;
            if looked.elapsed() >= RECHECK_PERIOD {
                let known = reader.names.len();
                reader = reader.look_for_logs(generations, true).await?;
                if reader.names.len() > known {
                    self.log_names(&reader.names).await?;
                }
                (looked, all) = (Instant::now(), true);
            }
        }
        let (logs, lines) = (None, Vec::new());
        self.reply(&LogsReply { logs, lines }, false, Vec::new())
            .await
    }

    async fn log_names(&mut self, names: &[LogName]) -> Result<(), Refusal> {
        let (logs, lines) = (Some(names.to_vec()), Vec::new());
        self.reply(&LogsReply { logs, lines }, true, Vec::new())
            .await
    }

    async fn log_lines(&mut self, names: &[LogName], lines: merge::Lines) -> Result<(), Refusal> {
        if lines.is_empty() {
            return Ok(());
        }
        let line = |(number, entry): (usize, Entry)| {
            let LogName { pod, container } = names.get(number)?.clone();
            Some(LogLine {
                pod,
                container,
                time: entry.time,
                stream: if entry.stderr { "stderr" } else { "stdout" }.to_owned(),
                partial: (entry.kind == Kind::Part).then_some(true),
                notice: (entry.kind == Kind::Notice).then_some(true),
                line: entry.text,
            })
        };
        let (logs, lines) = (None, lines.into_iter().filter_map(line).collect());
        self.reply(&LogsReply { logs, lines }, true, Vec::new())
            .await
    }
}

/// Which lines are wanted.
fn query(call: &LogsCall) -> Result<Query, Refusal> {
    let wrong = |why: String| Refusal::from(Error::invalid(vec![why]));
    if call.targets.len() > MAX_TARGETS {
        return Err(wrong(format!("name {MAX_TARGETS} logs at most")));
    }
    let grep = call.grep.as_deref().map(logs::pattern).transpose();
    Ok(Query {
        since: call.since.map(logs::time),
        until: call.until.map(logs::time),
        tail: call.tail,
        grep: grep.map_err(|why| wrong(format!("no pattern to search for: {why}")))?,
    })
}

impl Reader {
    /// Begins to read the logs that are wanted and are not read yet. Of what is `new` to somebody who follows,
    /// all lines are.
    async fn look_for_logs(
        mut self,
        generations: &Arc<Generations>,
        new: bool,
    ) -> Result<Self, Refusal> {
        let generations = Arc::clone(generations);
        let found = move || {
            let wanted = wanted(&generations, &self.settings, &self.call);
            let names = match wanted {
                // What is not declared any more goes on to be read.
                Err(_) if new => return Ok(self),
                other => other?,
            };
            let known: BTreeSet<&LogName> = self.names.iter().collect();
            let names: Vec<LogName> = names.into_iter().filter(|n| !known.contains(n)).collect();
            self.add(names, new).map(|()| self)
        };
        logs::blocking(found).await.ok_or_else(ended)?
    }

    fn add(&mut self, names: Vec<LogName>, new: bool) -> Result<(), Refusal> {
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let places = Arc::clone(self.watch.readers()).try_acquire_many_owned(count);
        match places {
            Ok(places) => self.places.push(places),
            // Who follows goes on with what there is.
            Err(_) if new => return Ok(()),
            Err(_) => {
                let message = format!(
                    "{count} logs are more than can be read now, {MAX_READ} at most at once: name some"
                );
                return Err(Error::Busy {
                    message,
                    ends: None,
                }
                .into());
            }
        }
        let of = self.names.len() + names.len();
        for name in names {
            let path = logs::path(&self.settings, &name.pod, &name.container);
            let mut query = Query {
                tail: self.query.tail.filter(|_| !new),
                ..self.query.clone()
            };
            let number = self.names.len();
            let folder = self.settings.log_dir(&name.pod);
            if self.call.previous == Some(true) {
                let Some(of_run) = query.of_previous_run(&path) else {
                    continue;
                };
                query = of_run;
            }
            let added = self.merge.add(path, Arc::new(query), of);
            added.map_err(|error| refused(&name, &error))?;
            self.folders.entry(folder).or_default().1.push(number);
            self.names.push(name);
        }
        Ok(())
    }

    /// Before logs are read: what is written meanwhile wakes the wait behind it. With `all`, also those that
    /// nobody notified of are read.
    fn mark_seen(&mut self, all: bool) {
        for (folder, (followed, numbers)) in &mut self.folders {
            let changed = followed.as_ref().and_then(Followed::has_changed);
            match (followed.as_mut(), changed) {
                // What is written from here on is a change again; not to mark it otherwise loses none.
                (Some(followed), Some(true)) => followed.mark_seen(),
                (Some(_), Some(false)) => {}
                _ => *followed = self.watch.follow(folder),
            }
            if all || changed != Some(false) {
                numbers.iter().for_each(|number| self.merge.wake(*number));
            }
        }
    }

    async fn next(mut self) -> Result<(Self, merge::Lines, bool), Refusal> {
        let read = move || {
            let (lines, at_end) = self.merge.next();
            (self, lines, at_end)
        };
        logs::blocking(read).await.ok_or_else(ended)
    }

    /// Waits until there may be more.
    async fn next_write(&mut self) {
        let is_watched = |(followed, _): &(Option<Followed>, Vec<usize>)| followed.is_some();
        let limit = match self.folders.values().all(is_watched) {
            true => RECHECK_PERIOD,
            false => POLL_PERIOD,
        };
        let changes = self.folders.values_mut();
        let changes =
            changes.filter_map(|(followed, _)| Some(followed.as_mut()?.changed().boxed()));
        let changes: Vec<_> = changes.collect();
        if changes.is_empty() {
            return sleep(limit).await;
        }
        if timeout(limit, select_all(changes)).await.is_ok() {
            // A log that is written line by line is read in blocks.
            sleep(DEBOUNCE).await;
        }
    }
}

fn ended() -> Refusal {
    let (what, why) = ("read the log".to_owned(), "its reader ended".to_owned());
    Error::failed(what, why).into()
}

fn refused(name: &LogName, error: &io::Error) -> Refusal {
    let what = format!("read the log of {}/{}", name.pod, name.container);
    let why = error.to_string();
    Error::failed(what, why).into()
}

/// Whose logs a call is about, each once, in the order of their names.
fn wanted(
    generations: &Generations,
    settings: &Settings,
    call: &LogsCall,
) -> Result<BTreeSet<LogName>, Refusal> {
    let (_, graph) = generations.current()?;
    let mut found = BTreeSet::new();
    if call.targets.is_empty() {
        if let Some(stack) = &call.stack {
            generations.known_stack(stack)?;
        }
        let of_stack = |pod: &&Name| match call.stack.as_deref() {
            Some(stack) => pod.stack() == Some(stack),
            None => true,
        };
        for pod in graph.pods().filter(of_stack) {
            let name = |container| LogName {
                pod: pod.to_string(),
                container,
            };
            found.extend(declared(&graph, pod).into_iter().map(name));
        }
        return Ok(found);
    }
    for target in &call.targets {
        let (pod, container) = match target.split_once('/') {
            Some((pod, container)) => (pod, Some(container)),
            None => (target.as_str(), None),
        };
        found.extend(of_target(generations, settings, &graph, (pod, container))?);
    }
    Ok(found)
}

/// The containers of a pod, those that run before them among them.
fn declared(graph: &Graph, pod: &Name) -> Vec<String> {
    let containers = graph.containers(pod).map(|(name, ..)| name.to_string());
    let init = graph.init(pod).map(|(name, ..)| name.to_string());
    containers.chain(init).collect()
}

fn of_target(
    generations: &Generations,
    settings: &Settings,
    graph: &Graph,
    (pod, container): (&str, Option<&str>),
) -> Result<Vec<LogName>, Refusal> {
    if let Some(run) = generations.run_named(graph, pod, container) {
        return Err(Error::Failed {
            what: format!("read the log of {}", run.container),
            why: "it is run by hand (`tank run`): what it prints goes to whoever runs it, and into no log"
                .to_owned(),
            help: None,
        }
        .into());
    }
    let (pod, known) = match generations.declared(graph, pod) {
        Ok(pod) => {
            let known = declared(graph, &pod);
            (pod, known)
        }
        // One that is gone has its logs until they are collected.
        Err(unknown) => match Name::of_pod(pod.strip_prefix(':').unwrap_or(pod)) {
            Ok(pod) => match logs::logged(settings, pod.as_str()) {
                logged if logged.is_empty() => return Err(unknown.into()),
                logged => (pod, logged.into_iter().collect()),
            },
            Err(_) => return Err(unknown.into()),
        },
    };
    let name = |container: String| LogName {
        pod: pod.to_string(),
        container,
    };
    let Some(wanted) = container else {
        return Ok(known.into_iter().map(name).collect());
    };
    let is_known = known.iter().any(|known| known == wanted);
    if is_known || logs::logged(settings, pod.as_str()).contains(wanted) {
        return Ok(vec![name(wanted.to_owned())]);
    }
    Err(Error::NoSuchContainer {
        pod: pod.to_string(),
        container: Some(wanted.to_owned()),
        known,
    }
    .into())
}
