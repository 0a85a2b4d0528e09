//! How containers ended last, out of what has happened.

use super::{Event, Kind};
use std::collections::BTreeMap;
use tank_model::Name;

/// How a container ended last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastEnd {
    /// A sentence of the event that says so.
    pub how: String,
    /// What a probe had found of the same run before: why it was ended.
    pub probe: Option<String>,
    /// When, in milliseconds since the Unix epoch.
    pub time: u64,
}

/// The last end of each container of a pod. `events`: the oldest first.
pub fn last_ends<'a>(
    pod: &str,
    events: impl Iterator<Item = &'a Event>,
) -> BTreeMap<Name, LastEnd> {
    let mut ends: BTreeMap<Name, LastEnd> = BTreeMap::new();
    // What probes have found of a run that has not ended yet.
    let mut found: BTreeMap<Name, String> = BTreeMap::new();
    for event in events.filter(|event| event.of.pod.as_deref() == Some(pod)) {
        let container = event.of.container.as_deref();
        let Some(name) = container.and_then(|name| Name::new(name).ok()) else {
            continue;
        };
        match event.kind {
            Kind::Unhealthy => drop(found.insert(name, event.message.clone())),
            Kind::Ready => drop(found.remove(&name)),
            Kind::Exited => {
                let probe = found.remove(&name);
                let (how, time) = (event.message.clone(), event.time);
                ends.insert(name, LastEnd { how, probe, time });
            }
            _ => {}
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Subject;

    fn event(time: u64, kind: Kind, container: &str, message: &str) -> Event {
        let of = Subject::container("web", container);
        Event::new(time, kind, of, message.to_owned())
    }

    #[test]
    fn an_end_has_what_a_probe_had_found_of_that_run_and_of_no_other() {
        let other = Event::new(
            9,
            Kind::Exited,
            Subject::container("db", "app"),
            "another pod's".to_owned(),
        );
        let all = [
            event(
                1,
                Kind::Unhealthy,
                "app",
                "container app: it does not answer any more",
            ),
            event(
                2,
                Kind::Exited,
                "app",
                "container app was killed by SIGKILL",
            ),
            event(
                3,
                Kind::Exited,
                "side",
                "container side ended with status 1",
            ),
            other,
        ];
        let ends = last_ends("web", all.iter());
        let of = |name: &str| ends.get(&Name::new(name).expect("a name")).cloned();
        assert_eq!(
            of("app"),
            Some(LastEnd {
                how: "container app was killed by SIGKILL".to_owned(),
                probe: Some("container app: it does not answer any more".to_owned()),
                time: 2,
            })
        );
        assert_eq!(of("side").and_then(|end| end.probe), None);
        assert_eq!(ends.len(), 2);
        // The next run ended by itself.
        let again = [
            all.as_slice(),
            &[event(
                10,
                Kind::Exited,
                "app",
                "container app ended with status 3",
            )],
        ]
        .concat();
        let ends = last_ends("web", again.iter());
        let app = ends.get(&Name::new("app").expect("a name"));
        assert_eq!(
            app.map(|end| (end.time, end.probe.clone())),
            Some((10, None))
        );
    }
}
