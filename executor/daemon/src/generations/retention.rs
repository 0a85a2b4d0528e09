//! Which generations may go, and what goes with them. Pure: data in, data out.

use crate::store::{
    Removal,
    leases::{Leases, projects::volume_of},
};
use std::collections::{BTreeMap, BTreeSet};
use tank_model::{Generation, Name, Outcome, generation::last_good, graph::Survey};

/// The history of a host.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub current: Option<u64>,
    /// Every generation and how it went.
    pub generations: BTreeMap<u64, (Generation, Outcome)>,
    pub pins: BTreeSet<u64>,
}

/// Which of them are kept beside those that have to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// So many of the newest.
    pub keep: u64,
    /// Those that are not older than this, in milliseconds. None: their age does not count.
    pub keep_for: Option<u64>,
}

/// Why a generation is never deleted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Needed {
    Current,
    /// A change that is on its way.
    Pending,
    /// It is what the host is put back to if the change on its way does not become healthy.
    Parent(u64),
    /// Volumes become what it left, on the way to that generation.
    Data(u64),
    Pinned,
}

impl History {
    /// The generations that nobody may delete, each with one reason.
    pub fn needed(&self) -> BTreeMap<u64, Needed> {
        let mut needed: BTreeMap<u64, Needed> =
            self.pins.iter().map(|pin| (*pin, Needed::Pinned)).collect();
        let Some(current) = self.current else {
            return needed;
        };
        let pending = |number: &u64| {
            let found = self.generations.get(number);
            found.filter(|(_, outcome)| *outcome == Outcome::Pending)
        };
        // One that another one has just taken the place of is given its outcome after that.
        for number in [current.saturating_sub(1), current] {
            if let Some((generation, _)) = pending(&number) {
                if let Some(parent) = generation.parent {
                    needed.insert(parent, Needed::Parent(number));
                }
                let sources = generation.data.values().flat_map(BTreeMap::values);
                needed.extend(sources.map(|from| (*from, Needed::Data(number))));
                needed.insert(number, Needed::Pending);
            }
        }
        needed.insert(current, Needed::Current);
        needed
    }

    /// The generations that a policy lets go at the time `now`. The one that a rollback leads to stays.
    pub fn outdated(&self, policy: Policy, now: u64) -> BTreeSet<u64> {
        let needed = self.needed();
        let back = self.current.and_then(|current| {
            let read = |number: u64| {
                Ok::<_, std::convert::Infallible>(self.generations.get(&number).cloned())
            };
            let Ok(back) = last_good(current, false, read);
            back.map(|back| back.number)
        });
        let newest = usize::try_from(policy.keep).unwrap_or(usize::MAX);
        let is_old = |generation: &Generation| {
            let age = now.saturating_sub(generation.time);
            policy.keep_for.is_none_or(|keep_for| age > keep_for)
        };
        let beyond = self.generations.iter().rev().skip(newest);
        let old = beyond.filter(|(number, (generation, _))| {
            !needed.contains_key(number) && back != Some(**number) && is_old(generation)
        });
        old.map(|(number, _)| *number).collect()
    }

    /// The same history without some.
    #[must_use]
    pub fn without(mut self, gone: &BTreeSet<u64>) -> Self {
        self.generations.retain(|number, _| !gone.contains(number));
        self.pins.retain(|number| !gone.contains(number));
        self
    }
}

/// Whether a lease belongs to what kept generations name, or to a pod that is there.
fn is_leased(lease: &str, pods: &BTreeSet<Name>, networks: &BTreeSet<Name>) -> bool {
    let is = |names: &BTreeSet<Name>, text: &str| names.iter().any(|name| name.as_str() == text);
    if let Some(network) = lease.strip_prefix("net/").filter(|_| !lease.contains('@')) {
        return match network.split_once('/') {
            Some((network, pod)) => is(networks, network) && is(pods, pod),
            None => is(networks, network),
        };
    }
    let pod = lease.split_once('/').map_or(lease, |(pod, _)| pod);
    is(pods, pod)
}

/// The leases of what no kept generation names and what is not there. `there`: pods that are, and are not as a kept
/// generation declares them.
pub fn free_leases(leases: &Leases, survey: &Survey, there: &BTreeSet<Name>) -> BTreeSet<String> {
    let pods: BTreeSet<Name> = survey.pods.union(there).cloned().collect();
    let mut networks = survey.networks.clone();
    // On which networks a pod is that no generation names any more is not known.
    let on = |lease: &str| {
        let (network, pod) = lease.strip_prefix("net/")?.split_once('/')?;
        let is_there = there.iter().any(|name| name.as_str() == pod);
        Name::of_pod(network).ok().filter(|_| is_there)
    };
    networks.extend(leases.keys().filter_map(|lease| on(lease)));
    networks.extend(Name::of_pod(DEFAULT_NETWORK));
    let free = leases
        .keys()
        .filter(|lease| !is_leased(lease, &pods, &networks) && volume_of(lease).is_none());
    free.cloned().collect()
}

/// What a pod is on that names no network.
const DEFAULT_NETWORK: &str = "default";

/// What of a store nothing kept needs: nodes of these `candidates` that are in no kept graph and are no kept
/// generation's lines.
pub fn unneeded(
    kept: &History,
    survey: &Survey,
    candidates: impl IntoIterator<Item = tank_model::Digest>,
) -> BTreeSet<tank_model::Digest> {
    let generations = kept.generations.values();
    let lines: BTreeSet<_> = generations
        .filter_map(|(generation, _)| generation.provenance)
        .collect();
    let is_needed = |hash: &tank_model::Digest| survey.nodes.contains(hash) || lines.contains(hash);
    let candidates = candidates.into_iter();
    candidates.filter(|hash| !is_needed(hash)).collect()
}

/// Removals of no more than `most` nodes each: first the generations with everything that is not a node, then what is
/// left of the nodes. A node that nothing needs is no harm.
pub fn in_batches(removal: Removal, most: usize) -> Vec<Removal> {
    let mut nodes = removal.nodes.into_iter();
    let mut batches = vec![Removal {
        nodes: nodes.by_ref().take(most).collect(),
        ..Removal {
            generations: removal.generations,
            leases: removal.leases,
            ..Removal::default()
        }
    }];
    loop {
        let next: BTreeSet<_> = nodes.by_ref().take(most).collect();
        if next.is_empty() {
            return batches;
        }
        batches.push(Removal {
            nodes: next,
            ..Removal::default()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::{Failed, Good, Pending, RolledBack};
    use tank_model::Digest;

    /// Generations from 1 on: the content of each, and how it went. Each is a day younger than the one before; the
    /// newest was made just now.
    fn history(all: &[(&str, Outcome)], pins: &[u64]) -> History {
        let count = all.len() as u64;
        let generations = all.iter().zip(1..).map(|((content, outcome), number)| {
            let generation = Generation {
                number,
                root: Digest::of(content.as_bytes()),
                parent: (number > 1).then(|| number - 1),
                time: NOW - (count - number) * DAY,
                uid: 0,
                source: String::new(),
                provenance: Some(Digest::of(&number.to_be_bytes())),
                rollback: None,
                data: BTreeMap::new(),
            };
            (number, (generation, *outcome))
        });
        History {
            current: Some(count).filter(|count| *count > 0),
            generations: generations.collect(),
            pins: pins.iter().copied().collect(),
        }
    }

    const DAY: u64 = 86_400_000;
    const NOW: u64 = 1_000 * DAY;

    fn outdated(history: &History, keep: u64, days: Option<u64>) -> Vec<u64> {
        let policy = Policy {
            keep,
            keep_for: days.map(|days| days * DAY),
        };
        history.outdated(policy, NOW).into_iter().collect()
    }

    #[test]
    fn the_newest_stay_and_those_that_are_young() {
        let all = [
            ("a", Good),
            ("b", Good),
            ("c", Good),
            ("d", Good),
            ("e", Good),
        ];
        let history = history(&all, &[]);
        assert_eq!(outdated(&history, 5, None), [] as [u64; 0]);
        assert_eq!(outdated(&history, 3, None), [1, 2]);
        // One rollback is always there.
        assert_eq!(outdated(&history, 1, None), [1, 2, 3]);
        assert_eq!(outdated(&history, 0, None), [1, 2, 3]);
        // Of those that are not among the newest only those go that are old enough.
        assert_eq!(outdated(&history, 2, Some(3)), [1]);
        assert_eq!(outdated(&history, 2, Some(4)), [] as [u64; 0]);
        assert_eq!(outdated(&history, 0, Some(0)), [1, 2, 3]);
    }

    #[test]
    fn what_is_needed_stays_whatever_is_asked() {
        let all = [
            ("a", Good),
            ("b", Good),
            ("c", Failed),
            ("d", Good),
            ("e", Pending),
        ];
        let pinned = history(&all, &[2]);
        assert_eq!(
            pinned.needed(),
            BTreeMap::from([
                (2, Needed::Pinned),
                (4, Needed::Parent(5)),
                (5, Needed::Current)
            ])
        );
        assert_eq!(outdated(&pinned, 0, None), [1, 3]);
        // The one before was ended by this one, and is not marked yet.
        let all = [("a", Good), ("b", Good), ("c", Pending), ("b", Pending)];
        let ended = history(&all, &[]);
        let expected = [
            (2, Needed::Parent(3)),
            (3, Needed::Parent(4)),
            (4, Needed::Current),
        ];
        assert_eq!(ended.needed(), BTreeMap::from(expected));
        // What volumes become on the way is there until the way is over.
        let all = [("a", Good), ("b", Good), ("c", Good), ("a", Pending)];
        let mut with_data = history(&all, &[]);
        let name = |text: &str| Name::new(text).expect("a name");
        let wanted = BTreeMap::from([(name("data"), 1)]);
        if let Some((pending, _)) = with_data.generations.get_mut(&4) {
            pending.data.insert(name("db"), wanted);
        }
        let expected = [
            (1, Needed::Data(4)),
            (3, Needed::Parent(4)),
            (4, Needed::Current),
        ];
        assert_eq!(with_data.needed(), BTreeMap::from(expected));
        if let Some((_, outcome)) = with_data.generations.get_mut(&4) {
            *outcome = Good;
        }
        assert_eq!(with_data.needed(), BTreeMap::from([(4, Needed::Current)]));
        // What was put back is not gone to; the newest good one that differs is.
        let all = [("a", Good), ("b", Good), ("c", RolledBack), ("b", Good)];
        assert_eq!(outdated(&history(&all, &[]), 1, None), [2, 3]);
        assert_eq!(outdated(&history(&[], &[]), 0, None), [] as [u64; 0]);
        // A clock that was set back makes nothing old.
        let young = history(&[("a", Good), ("b", Good), ("c", Good)], &[]);
        let policy = Policy {
            keep: 0,
            keep_for: Some(DAY),
        };
        assert!(young.outdated(policy, 5).is_empty());
    }

    #[test]
    fn leases_stay_with_what_is_named_or_there() {
        let name = |text: &str| Name::of_pod(text).expect("a name");
        let mut survey = Survey::default();
        survey.pods = BTreeSet::from([name("web"), name("blog:db")]);
        survey.networks = BTreeSet::from([name("back")]);
        let there = BTreeSet::from([name("leaving")]);
        let names = [
            "web",
            "blog:db",
            "leaving",
            "gone",
            "net/back",
            "net/back/web",
            "net/back/gone",
            "net/old",
            "net/old/web",
            "net/was",
            "net/was/leaving",
            "net/default",
            "net/default/web",
            "web/eth0@10.0.0.0/25/24",
            "gone/eth0@10.0.0.0/25/24",
            "net/eth0@10.0.0.0/25/24",
        ];
        let leases: Leases = names.iter().map(|name| ((*name).to_owned(), 7)).collect();
        let free = free_leases(&leases, &survey, &there);
        let expected = [
            "gone",
            "gone/eth0@10.0.0.0/25/24",
            "net/back/gone",
            // A pod that is called `net`, which no generation names.
            "net/eth0@10.0.0.0/25/24",
            "net/old",
            "net/old/web",
        ];
        assert_eq!(
            free.iter().map(String::as_str).collect::<Vec<_>>(),
            expected
        );
    }

    #[test]
    fn nodes_go_that_no_kept_graph_and_no_kept_generation_has() {
        let kept = history(&[("a", Good), ("b", Good)], &[]).without(&BTreeSet::from([1]));
        let mut survey = Survey::default();
        survey.nodes.insert(Digest::of(b"node"));
        let lines = |number: u64| Digest::of(&number.to_be_bytes());
        let all = [
            Digest::of(b"node"),
            Digest::of(b"other"),
            lines(1),
            lines(2),
        ];
        let gone = unneeded(&kept, &survey, all);
        assert_eq!(gone, BTreeSet::from([Digest::of(b"other"), lines(1)]));
        let removal = Removal {
            generations: BTreeSet::from([1]),
            nodes: (0..7_u8).map(|i| Digest::of(&[i])).collect(),
            leases: BTreeSet::from(["gone".to_owned()]),
        };
        let batches = in_batches(removal.clone(), 3);
        let sizes: Vec<usize> = batches.iter().map(|batch| batch.nodes.len()).collect();
        assert_eq!(sizes, [3, 3, 1]);
        assert_eq!(batches[0].generations, removal.generations);
        assert_eq!(batches[0].leases, removal.leases);
        let nodes: BTreeSet<Digest> = batches
            .iter()
            .flat_map(|batch| batch.nodes.clone())
            .collect();
        assert_eq!(nodes, removal.nodes);
        assert_eq!(in_batches(Removal::default(), 3), [Removal::default()]);
    }
}
