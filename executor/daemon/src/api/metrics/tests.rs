//! What is served, and that what is shipped beside it asks for nothing else.

use super::{is_here, render::*};
use crate::{events::Kind, generations::backups::Shown, observe::PodUsage, reconcile::Telemetry};
use std::{collections::BTreeSet, time::Duration};
use tank_model::{Name, Outcome, VolumeId, spec::Backup};
use tank_proto::varlink::{ContainerStatus, Pod, State};
use tank_sys::{cgroup::Usage, route::Counters};

/// A host on which everything there is has a value.
fn sample() -> Sample {
    let pod = |name: &str, state| Pod {
        name: name.to_owned(),
        state,
        addresses: Vec::new(),
        published: Vec::new(),
        containers: vec![ContainerStatus {
            name: "app".to_owned(),
            image: String::new(),
            digest: None,
            state: State::Running,
            pid: Some(7),
            status: None,
            restarts: 2,
            started: None,
            ready: true,
            stopped: None,
            stopped_by: None,
            run_by: None,
        }],
        reason: None,
        policies: None,
        interfaces: None,
    };
    let usage = Usage {
        cpu: Some(1_500_000),
        memory: Some(4_096),
        inactive: Some(96),
        memory_limit: Some(8_192),
        memory_pressure: Some(1_250),
        oom_kills: Some(1),
        read: Some(10),
        written: Some(20),
        pids: Some(3),
        pids_limit: Some(12),
    };
    let name = |name: &str| Name::of_pod(name).expect("a name");
    let passes = Telemetry::default();
    passes.add_pass(Duration::from_millis(20), true);
    passes.repairs.inc();
    passes.steps.inc_by(3);
    let backup: Backup =
        serde_json::from_str(r#"{"to":"/backups","every":"1h","keep":3}"#).expect("a backup");
    Sample {
        pods: vec![
            pod("web", State::Running),
            pod("shop:db", State::Degraded),
            pod("stranger", State::Undeclared),
        ],
        usage: vec![PodUsage {
            pod: name("shop:db"),
            usage: Some(usage.clone()),
            traffic: Some(Counters {
                received: 100,
                sent: 200,
            }),
            containers: vec![(name("app"), usage)],
        }],
        generation: Some((7, Outcome::Good)),
        events: [(Kind::Failed, 3)].into(),
        passes,
        backups: vec![Shown {
            pod: name("shop:db"),
            volume: name("data"),
            id: VolumeId::Own(name("shop:db"), name("data")),
            backup,
            newest: Some(1_800_000_000_500),
            count: 1,
            running: false,
            hangs: None,
            failed: Some(("no space".to_owned(), 2, 0)),
            next: None,
        }],
        disk: Some((1_000, 400)),
    }
}

#[test]
fn a_sample_is_open_metrics() {
    let text = render(&sample()).expect("a text");
    // Within one name the order is nobody's.
    let is_zero = |line: &&str| line.starts_with("tank_events_total") && line.ends_with(" 0.0");
    let mut lines: Vec<&str> = text.lines().filter(|line| !is_zero(line)).collect();
    let is_about = |line: &&str| line.starts_with('#');
    for values in lines.chunk_by_mut(|one, other| is_about(one) == is_about(other)) {
        if !values.iter().any(is_about) {
            values.sort_unstable();
        }
    }
    insta::assert_snapshot!("metrics", lines.join("\n"));
    assert!(text.ends_with("# EOF\n"), "{text}");
    // What nobody has declared makes no label.
    assert!(!text.contains("stranger"), "{text}");
}

/// The names that a text asks for.
fn names(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_part(c));
    let ours = words.filter(|word| word.starts_with("tank_"));
    ours.map(str::to_owned).collect()
}

/// Each metric that the dashboard and the alerts ask for is served by this name, and each that is served is asked for by one of them.
#[test]
fn the_dashboard_and_the_alerts_ask_for_what_is_served() {
    let package = std::env::var("CARGO_MANIFEST_DIR").expect("run by cargo");
    let read = |file: &str| {
        let path = format!("{package}/../../packaging/{file}");
        std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let (dashboard, rules) = (read("grafana/tank.json"), read("prometheus/tank.rules.yml"));
    let _: serde_json::Value = serde_json::from_str(&dashboard).expect("JSON");
    let text = render(&sample()).expect("a text");
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let served: BTreeSet<String> = lines
        .filter_map(|line| line.split(['{', ' ']).next())
        .map(str::to_owned)
        .collect();
    let asked: BTreeSet<String> = names(&dashboard).union(&names(&rules)).cloned().collect();
    let missing: Vec<&String> = asked.difference(&served).collect();
    assert!(missing.is_empty(), "nobody serves {missing:?}");
    assert!(names(&rules).len() >= 8 && names(&dashboard).len() >= 12);
}

#[test]
fn a_request_for_loopback_names_this_host() {
    for here in [
        "localhost",
        "localhost:9464",
        "127.0.0.1:9464",
        "[::1]:9464",
        "::1",
    ] {
        assert_eq!(is_here(here), here != "::1", "{here}");
    }
    for elsewhere in [
        "attacker.example:9464",
        "localhost.attacker.example",
        "",
        "[x]:1",
    ] {
        assert!(!is_here(elsewhere), "{elsewhere}");
    }
}
