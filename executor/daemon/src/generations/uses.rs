//! What a change would take away from pods that stay: who uses it, and where that is written.

use super::{Error, request::place};
use std::collections::BTreeSet;
use tank_model::{Config, Name, Scope, check::Problem, provenance::Provenance, spec::Peer};

/// Why a change is refused of which `added` is wrong. None: something else is wrong with it, too.
pub(super) fn refusal(
    (before, after): (&Config, &Config),
    scope: &Scope,
    added: &[Problem],
    lines: &[&Provenance],
) -> Option<Error> {
    let (mut uses, mut users) = (Vec::new(), BTreeSet::new());
    for problem in added {
        let (user, text) = use_of((before, after), problem)?;
        if scope.has(&user) {
            return None;
        }
        let at = place(&problem.path, lines);
        uses.push(at.map_or_else(|| text.clone(), |at| format!("{text} ({at})")));
        users.insert(user);
    }
    let deleted: Vec<&Name> = match scope {
        Scope::Pods(pods) => pods
            .iter()
            .filter(|pod| !after.pods.contains_key(*pod))
            .collect(),
        _ => Vec::new(),
    };
    let all: Vec<String> = deleted
        .iter()
        .copied()
        .chain(&users)
        .map(Name::to_string)
        .collect();
    let way = match deleted.is_empty() {
        true => format!("remove who uses it first: `tank delete {}`", all.join(" ")),
        false => format!("remove who uses it, too: `tank delete {}`", all.join(" ")),
    };
    let help = format!("take that out of its file and switch to the file, or {way}");
    Some(Error::InUse { uses, help })
}

/// Who uses something that is there before and not after, and as what: in words.
fn use_of((before, after): (&Config, &Config), problem: &Problem) -> Option<(Name, String)> {
    let [group, user, field, entry, ..] = problem.path.as_slice() else {
        return None;
    };
    let user = Name::of_pod(user.as_str())
        .ok()
        .filter(|_| group == "pods")?;
    let named = |text: &str| Name::of_pod(text).ok();
    let goes = |pod: &Name| before.pods.contains_key(pod) && !after.pods.contains_key(pod);
    let text = match (problem.code, field.as_str()) {
        ("tank::depends_on::unknown_pod", _) => {
            let other = named(entry).filter(goes)?;
            format!("pod `{user}` depends on `{other}`")
        }
        ("tank::network::unknown", _) => {
            let network = named(entry)?;
            let goes = before.networks.contains_key(&network);
            goes.then(|| format!("pod `{user}` is on the network `{network}`"))?
        }
        ("tank::volume::unknown_shared", _) => {
            let own = after.pods.get(&user)?.volumes.get(&named(entry)?)?;
            let shared = own.shared_of(&user)?;
            let goes = before.volumes.contains_key(&shared);
            goes.then(|| format!("pod `{user}` uses the shared volume `{shared}`"))?
        }
        ("tank::policy::unknown_pod", field) => {
            let spec = after.pods.get(&user)?;
            let peers = match field {
                "allow_from" => spec.allow_from.peers(),
                _ => spec.egress.peers(),
            };
            match peers?.get(entry.parse::<usize>().ok()?)? {
                Peer::Pod(other) if goes(other) => {
                    format!("pod `{user}` names `{other}` in its `{field}`")
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    Some((user, text))
}
