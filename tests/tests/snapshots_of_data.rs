//! What volumes have over changes of images: kept with the generation that is left, brought back by
//! `generations rollback --with-data`, and never unasked. On XFS and on btrfs, whose files can share what
//! they have, and on one where they can't.
//!
//! [`changes`]: when one is taken. [`rollback`]: what comes back. [`writers`]: what does not. [`killed`]: whatever ends the daemon.

#[path = "snapshots_of_data/changes.rs"]
mod changes;
#[path = "snapshots_of_data/killed.rs"]
mod killed;
#[path = "snapshots_of_data/rollback.rs"]
mod rollback;
#[path = "snapshots_of_data/writers.rs"]
mod writers;

use serde_json::Value;
use tank_tests::{Host, RUN, eventually, images::image, segment::sh};

/// A database of which the second version can't leave alone what the first one wrote.
const OLD: &str = "[ -e /d/row ] || echo one > /d/row";
const NEW: &str = "rm -f /d/row; echo two > /d/new";

fn pod(image: &str, script: &str, more: &str) -> String {
    format!(
        "{{ pods.db = {{ volumes.data = {{ {more} }}, containers.app = {{ image = \"{image}\", stop.signal = \"SIGKILL\",
              command = [\"/bin/sh\", \"-c\", \"{script}; while true; do sleep 0.1; done\"],
              mounts.data = {{ volume = \"data\", path = \"/d\" }} }} }} }}"
    )
}

struct Versions {
    old: String,
    new: String,
}

impl Versions {
    fn new(host: &Host) -> Self {
        Self {
            old: image(host, "old", "file('version', b'1')"),
            new: image(host, "new", "file('version', b'2')"),
        }
    }

    fn old(&self) -> String {
        pod(&self.old, OLD, "")
    }

    fn new_(&self) -> String {
        pod(&self.new, NEW, "")
    }
}

fn on(kind: &str) -> Host {
    let mut host = Host::without_daemon().with_state_on_disk(kind);
    host.start_daemon();
    host
}

/// The volumes of which snapshots are kept, by their generations.
fn kept(host: &Host) -> Vec<(u64, Value)> {
    let list = host.tank(&["--json", "generations", "list"]).json();
    let generations = list["generations"].as_array().expect("generations");
    let with = generations
        .iter()
        .filter(|one| one.get("snapshots").is_some());
    with.map(|one| {
        (
            one["number"].as_u64().expect("a number"),
            one["snapshots"].clone(),
        )
    })
    .collect()
}

/// What of snapshots is on the disk, half of one among it.
fn on_disk(host: &Host) -> Vec<String> {
    let state = host.dir.join("state/volumes/.snapshots");
    let found = sh(
        host,
        &format!(
            "cd {} && find . -mindepth 3 -maxdepth 3 | sort",
            state.display()
        ),
    );
    let all: Vec<String> = found.lines().map(str::to_owned).collect();
    // Who wrote a snapshot stands beside it.
    let of = |path: &str| {
        let (dir, name) = path.rsplit_once('/')?;
        let volume = name.strip_prefix('.')?.strip_suffix(".by")?;
        Some(format!("{dir}/{volume}"))
    };
    let is_own = |path: &String| of(path).is_none_or(|of| !all.contains(&of));
    all.iter().filter(|path| is_own(path)).cloned().collect()
}

fn data(host: &Host) -> String {
    let mut last = String::new();
    eventually("the container has begun", || {
        last = host.exec("db", "cd /d && grep -H . * 2>/dev/null | sort");
        !last.is_empty()
    });
    last
}

fn with_data(host: &Host, number: u64) -> String {
    host.tank(&[
        "generations",
        "rollback",
        &number.to_string(),
        "--with-data",
    ])
    .ok()
}

/// Two versions of a database, and a pod that has nothing to do with them.
fn with_other(versions: &Versions, db: &str) -> String {
    let other = format!(
        "pods.other.containers.app = {{ image = \"{}\", {RUN}, stop.signal = \"SIGKILL\" }}",
        versions.new
    );
    format!("{}, {other} }}", db.strip_suffix('}').expect("a record"))
}

/// Everything that a listing of the host says of a volume, by names from its top.
fn listing(host: &Host) -> String {
    let volume = host.dir.join("state/volumes/db/data");
    sh(
        host,
        &format!(
            "cd {} && find . -printf '%y %m %U:%G %n %s %T@ %P -> %l\\0' | sort -z | tr '\\0' '\\n' && \
             find . -type f -exec md5sum {{}} + | sort && getfattr -R -P -d -m - -e hex . | grep -v '^$' | sort",
            volume.display()
        ),
    )
}
