//! The arguments: every command and option there is.

mod backup;
mod bundle;
mod by_hand;
mod copy;
#[cfg(test)]
mod documented;
mod exec;
mod forward;
mod image;
mod list;
mod logs;
mod paged;
mod run;
mod stats;

pub use backup::Backups;
pub use bundle::Import;
pub use by_hand::{Restart, Selection, Start, Stop};
pub use copy::{Copy, Files};
pub use exec::{Exec, How};
pub use forward::{PortForward, Ports};
pub use image::Images;
pub use list::List;
pub use logs::{Logs, Tail};
pub use run::Run;
pub use stats::{Events, Stats};

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use tank_model::{Name, NameError};

/// NixOS generations for containers.
///
/// Pods are declared in Nickel; a switch makes the host what is declared, as a numbered generation
/// that can be gone back to.
#[derive(Parser, Debug)]
#[command(
    name = "tank",
    version,
    propagate_version = true,
    disable_help_subcommand = true
)]
pub struct Args {
    /// The daemon's socket.
    #[arg(long, global = true, env = "TANK_SOCKET", default_value = tank_proto::varlink::SOCKET)]
    pub socket: PathBuf,
    /// Print JSON for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// Print what is longer than the terminal at once, without a pager (`TANK_PAGER`, `PAGER`, `less`).
    #[arg(long, global = true)]
    pub no_pager: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Check a configuration: types, contracts, and whether its parts fit together.
    Check(Configuration),
    /// Compile a configuration; print its root hash, its nodes, or a picture of them.
    Build {
        #[command(flatten)]
        source: Configuration,
        /// Draw the graph.
        #[arg(long, value_enum, conflicts_with = "canonical")]
        graph: Option<Drawing>,
        /// Print the canonical bytes, as the daemon and `tankd --seed` read them.
        #[arg(long)]
        canonical: bool,
    },
    /// Write down which digests the image tags stand for now, in `tank.lock` beside the
    /// configuration.
    Lock {
        /// Nickel, YAML, JSON or TOML files, merged in this order.
        #[arg(default_value = "pods.ncl")]
        files: Vec<PathBuf>,
        #[command(flatten)]
        overrides: Overrides,
        /// Ask again for tags that are locked already: those of one pod, or all.
        #[arg(long, value_name = "POD", num_args = 0..=1, default_missing_value = "")]
        update: Option<String>,
        /// Change nothing; end with 1 if the lock does not fit the configuration.
        #[arg(long, conflicts_with = "update")]
        check: bool,
    },
    /// Write a first configuration, with comments.
    Init {
        /// Where to.
        #[arg(default_value = "pods.ncl")]
        file: PathBuf,
        /// Overwrite what is there.
        #[arg(long)]
        force: bool,
    },
    /// Turn a Compose file, Kubernetes manifests or Quadlet units into Nickel.
    Import {
        /// What to read.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// What they are; guessed from their names and contents unless given.
        #[arg(long, value_enum)]
        from: Option<Dialect>,
        /// Write to this file; standard output unless given.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Overwrite that file.
        #[arg(long, requires = "output")]
        force: bool,
        /// The stack that they become, in place of the one they name; a Compose project without a
        /// name is called after its folder.
        #[arg(long, value_parser = stack)]
        stack: Option<Name>,
        /// End with 1 if anything could not be mapped.
        #[arg(long)]
        strict: bool,
    },
    /// Print what a field is for, or what an error code means.
    Doc {
        /// A field (`pods.containers.limits`, `web.app.env`), a contract (`Limits`) or a helper
        /// (`tank.replicas`).
        #[arg(conflicts_with = "error")]
        field: Option<String>,
        /// A code as it is printed with an error: `tank::mount::unknown_volume`.
        #[arg(long, value_name = "CODE")]
        error: Option<String>,
        /// Print the folder with `tank.ncl`, for an editor's NICKEL_IMPORT_PATH.
        #[arg(long, conflicts_with_all = ["field", "error"])]
        import_path: bool,
    },
    /// Show which line set a running value, what it overrode, and the generation it came with.
    Why {
        /// `web.app.env.LOG`, or the whole path.
        field: String,
    },
    /// Show what a switch would do; without files, how the host differs from the current
    /// generation.
    Diff {
        files: Vec<PathBuf>,
        #[command(flatten)]
        overrides: Overrides,
        /// As of `switch`.
        #[arg(long, value_parser = stack, requires = "files")]
        stack: Option<Name>,
        /// As of `switch`.
        #[arg(long, value_name = "DIR", conflicts_with_all = ["files", "set", "apply"])]
        host: Option<PathBuf>,
        /// Show what `apply` would do with these files instead.
        #[arg(long, requires = "files")]
        apply: bool,
        /// As of `switch` and `apply`.
        #[arg(long, requires = "files")]
        replace: bool,
        /// End with 2 if there is anything to do.
        #[arg(long)]
        exit_code: bool,
        /// Write what the plan was made from to this file, as JSON (`-`: print it, and nothing
        /// else): what was observed, and what is declared, with texts of files and variables, and
        /// no secret. `CONTRIBUTING.md` says how to plan from it again.
        #[arg(long, value_name = "FILE")]
        observed: Option<PathBuf>,
    },
    /// Make the host what a configuration says, as a new generation; if it does not become healthy,
    /// go back. Pods of the stack that it does not name are removed; those of other stacks stay.
    Switch {
        #[command(flatten)]
        source: Configuration,
        #[command(flatten)]
        change: ChangeArgs,
        /// Carry out this plan (as `diff` named it), or nothing.
        #[arg(long, value_name = "HASH")]
        plan: Option<String>,
        /// Take over a stack whose pods came from other files.
        #[arg(long)]
        replace: bool,
    },
    /// Show, compare, go back to, pin and delete generations.
    #[command(subcommand)]
    Generations(Generations),
    /// List the pods, desired beside observed: `blog:web` is the pod `web` of the stack `blog`. Or
    /// the networks, with their subnets and who is on them.
    #[command(visible_alias = "ls")]
    List(List),
    /// Show one pod with its configuration.
    Get { pod: String },
    /// Show the daemon and its host at a glance.
    Status,
    /// Add or change the pods of a file and leave all others, and their images, as they are, as a
    /// new generation.
    Apply {
        /// Nickel, YAML, JSON or TOML files, merged in this order.
        #[arg(required = true)]
        files: Vec<PathBuf>,
        #[command(flatten)]
        overrides: Overrides,
        /// The stack that the pods belong to, unless the files say so themselves.
        #[arg(long, value_parser = stack)]
        stack: Option<Name>,
        #[command(flatten)]
        change: ChangeArgs,
        /// Carry out this plan (as `diff --apply` named it), or nothing.
        #[arg(long, value_name = "HASH")]
        plan: Option<String>,
        /// Take over pods of the same name that came from other files.
        #[arg(long)]
        replace: bool,
    },
    /// Remove pods, a network or a shared volume that no pod uses, or a stack, as a new generation. What is in volumes stays.
    #[command(visible_alias = "rm")]
    Delete {
        /// Pods, all in one change, or one `networks.NAME` or `volumes.NAME`.
        #[arg(value_name = "POD", required_unless_present = "stack")]
        pods: Vec<String>,
        /// All that this stack declares.
        #[arg(long, value_parser = stack, conflicts_with = "pods")]
        stack: Option<Name>,
    },
    /// Stop pods or containers by hand. They stay so until they are started, or a switch to their pod.
    Stop(Stop),
    /// Start what was stopped by hand, has ended, or waits for its next restart; wait until it is ready.
    Start(Start),
    /// Stop and start pods or containers, of the same generation.
    Restart(Restart),
    /// Say why a pod is in the state it is in: what it waits for, what failed and when it is tried again,
    /// who stopped it; and what to type next.
    Explain {
        /// POD or POD/CONTAINER.
        pod: String,
    },
    /// The volumes that Tank keeps: list, remove, export, import, back up.
    #[command(subcommand, visible_alias = "volumes")]
    Volume(Volumes),
    /// The images of this host: list, inspect, pull, load, save, remove.
    #[command(subcommand)]
    Image(Images),
    /// Run a command in a container. Ctrl-P Ctrl-Q detaches from it.
    Exec(Exec),
    /// Run a command in a container of its own: beside those of a pod, as they are declared, or of an image in a
    /// pod of its own. It ends with its command, and with this one.
    Run(Run),
    #[command(flatten)]
    Files(Files),
    /// Attach to the terminal of a main process. Ctrl-P Ctrl-Q detaches.
    Attach {
        /// POD or POD/CONTAINER.
        target: String,
    },
    /// Connect to ports of a pod from this machine's loopback, until Ctrl-C.
    PortForward(PortForward),
    /// Print what containers printed, several in the order of time.
    Logs(Logs),
    /// Print what happened, also before tankd was started.
    Events(Events),
    /// Show what pods use: processors, memory and whether they wait for it (PSI), disks, network, processes.
    Stats(Stats),
    /// Give this host a user and a password for a registry. They are tried, and kept by the daemon
    /// (`auth.json` in its state folder, for root alone).
    Login {
        /// HOST or HOST:PORT, as images of it begin.
        #[arg(default_value = "docker.io")]
        registry: String,
        /// Who to be; asked for unless given.
        #[arg(short, long, visible_alias = "username")]
        user: Option<String>,
        /// Read the password, or a token in its place, from standard input.
        #[arg(long)]
        password_stdin: bool,
    },
    /// Forget what `login` was given for a registry.
    Logout {
        /// HOST or HOST:PORT.
        #[arg(default_value = "docker.io")]
        registry: String,
    },
    /// Check whether this host has what Tank needs.
    Doctor,
    /// Remove what no generation needs: old generations, and images, layers, logs, scratch folders and
    /// addresses that only they needed. Volumes stay. It is done by itself, too: `keep_generations`,
    /// `keep_for` and `keep_free` in `tank.toml`, which hold here unless something is said.
    Gc {
        /// Show what would be removed, and remove nothing.
        #[arg(long)]
        dry_run: bool,
        /// Keep so many of the newest generations, however new the others are: `keep_for` of `tank.toml` (30 days) does
        /// not hold then. The snapshots of volumes that are kept with those go, too.
        #[arg(long, value_name = "N")]
        keep: Option<u64>,
        /// Remove only generations that are older than this: `12h`, `30d`, `8w`.
        #[arg(long, value_name = "AGE", value_parser = crate::when::age)]
        older_than: Option<tank_model::units::Millis>,
    },
    /// Read all that is kept and compare it with its digests: the database, documents and layers of
    /// images. Ends with 1 if anything is damaged.
    Fsck {
        /// Fetch damaged images again from where they came.
        #[arg(long)]
        repair: bool,
    },
}

#[derive(Subcommand, Debug)]
pub enum Generations {
    /// All generations, oldest first.
    #[command(visible_alias = "ls")]
    List,
    /// One generation with its configuration; the current one unless named.
    Show { number: Option<u64> },
    /// What changed from one generation to another.
    Diff { from: u64, to: u64 },
    /// Go back to a generation, the newest good one that differs unless named: same digests,
    /// nothing evaluated again. Ends a switch that is on its way.
    Rollback {
        to: Option<u64>,
        /// Only the pods of this stack go back; all others stay as they are.
        #[arg(long, value_parser = stack)]
        stack: Option<Name>,
        /// Volumes become what that generation left, as far as there are snapshots. What they are now is
        /// kept as a snapshot.
        #[arg(long)]
        with_data: bool,
        /// Show what it would do, and which data it would bring back; change nothing.
        #[arg(long)]
        dry_run: bool,
        /// With --dry-run: exit with status 2 if anything would be done.
        #[arg(long, requires = "dry_run")]
        exit_code: bool,
    },
    /// Delete generations, all of them or none. Their numbers are not used again. The current one, one
    /// that is on its way, what the host would be put back to, and pinned ones are not deleted.
    #[command(visible_alias = "rm")]
    Delete {
        #[arg(required = true, value_name = "N")]
        numbers: Vec<u64>,
    },
    /// Keep a generation from being deleted, also by `gc`.
    Pin {
        #[arg(value_name = "N")]
        number: u64,
    },
    /// Let a pinned generation be deleted again.
    Unpin {
        #[arg(value_name = "N")]
        number: u64,
    },
    /// Write a generation with its images into one file, which a host without a network runs. Secrets
    /// and volumes are not in it.
    Export {
        #[arg(value_name = "N")]
        number: u64,
        /// Write to this file, which must not exist; `-` and nothing are standard output.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make what `export` wrote the next generation of this host, without asking any registry; if it
    /// does not become healthy, go back.
    Import(Import),
}

#[derive(Subcommand, Debug)]
pub enum Volumes {
    /// All volumes: what they take of the disk, who declares them, when they were used last.
    #[command(visible_alias = "ls")]
    List,
    /// Remove volumes that the current generation does not declare, with all that is in them.
    #[command(visible_alias = "rm")]
    Remove {
        /// Volumes, each as `POD/VOLUME`.
        #[arg(value_name = "VOLUME", required_unless_present = "orphans")]
        volumes: Vec<String>,
        /// All that no generation declares.
        #[arg(long, conflicts_with = "volumes")]
        orphans: bool,
        /// Only what these were before the last `import --replace` or `restore`.
        #[arg(long, conflicts_with = "orphans")]
        replaced: bool,
        /// Say what would be removed.
        #[arg(long)]
        dry_run: bool,
    },
    /// Write a volume into a tar archive, with the ids of the container.
    Export {
        /// The volume, as `POD/VOLUME`.
        volume: String,
        /// Write to this file, which must not exist; standard output unless given.
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Make a volume of a tar archive (plain, or of gzip or zstd): all of it, or nothing is changed.
    Import {
        /// The volume, as `POD/VOLUME`. It need not be declared yet.
        volume: String,
        /// Read from this file; standard input unless given.
        file: Option<PathBuf>,
        /// Put it in the place of what is in the volume now, which is kept beside it.
        #[arg(long)]
        replace: bool,
    },
    #[command(flatten)]
    Backups(Backups),
}

#[derive(ClapArgs, Debug)]
pub struct Configuration {
    /// Nickel, YAML, JSON or TOML files, merged in this order.
    #[arg(default_value = "pods.ncl")]
    pub files: Vec<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// The stack that the pods belong to, unless the files say so themselves.
    #[arg(long, value_parser = stack)]
    pub stack: Option<Name>,
    /// The whole host: a folder with a file (`blog.ncl`) or a sub-folder (`blog/pods.ncl`) for each
    /// stack, and `pods.ncl` for pods that belong to none.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["files", "set", "stack"])]
    pub host: Option<PathBuf>,
}

fn stack(text: &str) -> Result<Name, NameError> {
    Name::new(text)
}

#[derive(ClapArgs, Debug)]
pub struct Overrides {
    /// Override a field: `pods.web.containers.app.image="nginx:1.27"`.
    #[arg(long, value_name = "FIELD=VALUE")]
    pub set: Vec<String>,
}

#[derive(ClapArgs, Debug)]
pub struct ChangeArgs {
    /// How long to wait for health: `30s`, `1m30s`, or a number of seconds.
    #[arg(long, value_parser = crate::when::duration)]
    pub timeout: Option<tank_model::units::Millis>,
    /// Leave a generation that does not become healthy as it is.
    #[arg(long)]
    pub no_rollback: bool,
    /// Show where the time went, down to the groups of system calls.
    #[arg(long)]
    pub timings: bool,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum Listed {
    Pods,
    Networks,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum Drawing {
    Dot,
    Mermaid,
    Svg,
}

#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    Compose,
    Kubernetes,
    Quadlet,
}

fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    if key.is_empty() {
        Err("write KEY=VALUE".to_owned())
    } else {
        Ok((key.to_owned(), value.to_owned()))
    }
}

/// `POD` or `POD/CONTAINER`.
pub fn split_target(target: &str) -> (String, Option<String>) {
    match target.split_once('/') {
        Some((pod, container)) => (pod.to_owned(), Some(container.to_owned())),
        None => (target.to_owned(), None),
    }
}
