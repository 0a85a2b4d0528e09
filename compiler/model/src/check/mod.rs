//! The checks that cross fields: what a contract on one field cannot see.
//!
//! They run twice, over the same data: in the compiler, which has the spans to point with, and in
//! the daemon, which trusts no client. All problems are found at once, in the order of their paths.
//!
//! * `pod`: what is a pod's own. `network`: its interfaces and ports. `networks`: those it shares.
//! * `container`: what a container runs, limits and may do. `mounts`: what it sees, and where.
//!   `probe`: how it is asked for its health.
//! * `shared`: volumes that pods share. `backup`: when volumes are written into archives.
//! * `across`: what two pods cannot both have.

mod across;
mod backup;
mod container;
mod exposure;
mod mounts;
mod network;
mod networks;
mod pod;
mod probe;
mod shared;

pub use across::{HOST_BY_ADDRESS, HOST_MAY};
pub use mounts::MAX_MOUNTS;
pub use networks::{wrong_address, wrong_subnet};

use crate::{name::nearest, spec::Config, stack::Scope, unsupported};

/// One mistake, with the field at fault.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Stable, of the form `tank::mount::unknown_volume`.
    pub code: &'static str,
    /// The field, as its path from the top of the configuration.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
    /// Another field that matters, with its role.
    pub related: Option<(Vec<String>, &'static str)>,
}

/// A program of the host has a port that is to be published. This and the next five are codes of what only
/// whoever knows the host finds.
pub const HOST_PORT: &str = "tank::host::port";
/// A network can't be made on this host.
pub const HOST_NETWORK: &str = "tank::host::network";
/// An interface of a pod's own can't be connected on this host.
pub const HOST_NIC: &str = "tank::host::nic";
/// The host can't get a container's image.
pub const HOST_IMAGE: &str = "tank::host::image";
/// The size of a volume can't be limited on the file system that it is on.
pub const HOST_VOLUME: &str = "tank::host::volume";
/// The folder that backups of a volume go to can't be used.
pub const HOST_BACKUP: &str = "tank::host::backup";

/// Every problem of what one source declares. A field of a feature that this version lacks has that
/// one problem and no other. Pods of other stacks are not known here: that they are there is not
/// asked.
pub fn check(config: &Config) -> Vec<Problem> {
    all(config, &Scope::Host, Extent::Source)
}

/// Every problem of a whole host. Of two pods that can't both have something, the one that `scope`
/// means is at fault: the other was there before.
pub fn check_host(config: &Config, scope: &Scope) -> Vec<Problem> {
    all(config, scope, Extent::Host)
}

/// Whether a configuration has the pods of all stacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    Source,
    Host,
}

fn all(config: &Config, scope: &Scope, extent: Extent) -> Vec<Problem> {
    let mut problems = unsupported::problems(config);
    let mut others = fields(config, scope, extent);
    others.retain(|found| {
        !problems
            .iter()
            .any(|unsupported| found.path.starts_with(&unsupported.path))
    });
    problems.append(&mut others);
    problems.sort_by(|a, b| (&a.path, a.code).cmp(&(&b.path, b.code)));
    problems
}

/// The problems of every field, those of features that this version lacks included.
fn fields(config: &Config, scope: &Scope, extent: Extent) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, pod) in &config.pods {
        Pass {
            problems: &mut problems,
            at: path(["pods", name.as_str()]),
        }
        .pod(name, pod, (config, extent));
    }
    networks::networks(config, scope, &mut problems);
    shared::volumes(config, scope, &mut problems);
    shared::sizes(config, &mut problems);
    across::published_twice(config, scope, &mut problems);
    across::addresses_twice(config, scope, &mut problems);
    across::unknown_peers(config, extent == Extent::Host, &mut problems);
    across::peers_apart(config, extent == Extent::Host, &mut problems);
    across::dependency_cycles(config, scope, &mut problems);
    problems
}

fn path<'a>(parts: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    parts.into_iter().map(str::to_owned).collect()
}

/// The fields below one place of the configuration.
struct Pass<'a> {
    problems: &'a mut Vec<Problem>,
    at: Vec<String>,
}

impl Pass<'_> {
    /// Adds a problem with a field below this place.
    fn report(
        &mut self,
        code: &'static str,
        field: &[&str],
        message: String,
        help: impl Into<String>,
    ) {
        let mut path = self.at.clone();
        path.extend(field.iter().map(|part| (*part).to_owned()));
        self.problems.push(Problem {
            code,
            path,
            message,
            help: help.into(),
            related: None,
        });
    }

    /// Adds another field of the pod to the last problem.
    fn relate(&mut self, field: &[&str], role: &'static str) {
        let mut path = self.at.clone();
        path.extend(field.iter().map(|part| (*part).to_owned()));
        if let Some(last) = self.problems.last_mut() {
            last.related = Some((path, role));
        }
    }

    fn relative(&mut self, field: &[&str], given: &str) {
        let message = format!("`{given}` is no absolute path");
        self.report(
            "tank::path::relative",
            field,
            message,
            "begin it with `/` and leave out `.`, `..` and `//`",
        );
    }
}

/// Whether a path is absolute and without NUL and empty, `.` or `..` components: such a path is the
/// only spelling of its place.
fn is_absolute(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else {
        return false;
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    path.len() < 4096
        && !path.contains('\0')
        && (rest.is_empty() || rest.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

/// A help text with the candidate nearest to `word`, or `otherwise` when none is near.
fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
    otherwise: &str,
) -> String {
    nearest(word, candidates).map_or_else(
        || otherwise.to_owned(),
        |near| format!("did you mean `{near}`?"),
    )
}

#[cfg(test)]
mod tests;
