//! The floors inside a crate: which module may name which.

use crate::source::{SourceFile, of_crate};
use std::collections::{BTreeMap, BTreeSet};
use tank_tests::repo;

/// The floors of `tankd`, top first. A module names modules of its own floor's folder and of the
/// floors below; two modules that stand on one floor do not name each other.
const FLOORS: [&[&str]; 7] = [
    &["main"],
    &["api"],
    &["generations"],
    &["reconcile"],
    &["observe", "probe", "actuate"],
    &["pods"],
    &["store"],
];

/// What every floor may name. These name no floor, and each other only without a circle.
const LEAVES: [&str; 13] = [
    "cache",
    "dirty",
    "events",
    "faults",
    "figures",
    "hooks",
    "ownership",
    "rules",
    "settings",
    "supervisor",
    "sysctls",
    "timings",
    "trash",
];

/// The floor of a module, counted from the top.
fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Why `from` may not name `to`, if it may not.
fn forbidden(from: &str, to: &str) -> Option<String> {
    if from == to || LEAVES.contains(&to) {
        return None;
    }
    let Some(below) = floor(to) else {
        return Some(format!("`{to}` stands on no floor: give it one in FLOORS"));
    };
    match floor(from) {
        None => Some(format!(
            "`{from}` may be named by every floor and names none"
        )),
        Some(above) if above < below => None,
        Some(above) if above == below => Some("they stand on one floor".to_owned()),
        Some(_) => Some("the arrow points up".to_owned()),
    }
}

/// The top module that a path leads into. What is no module is in the crate's root file.
fn top<'a>(path: &'a [String], modules: &BTreeSet<String>) -> &'a str {
    path.first()
        .filter(|first| modules.contains(*first))
        .map_or("main", String::as_str)
}

fn tops(sources: &[SourceFile]) -> BTreeSet<String> {
    let tops = sources.iter().filter_map(|source| source.module.first());
    tops.cloned().collect()
}

#[test]
fn the_daemon_has_floors() {
    let sources = of_crate(&repo(), "executor/daemon");
    let modules = tops(&sources);
    let places = FLOORS.into_iter().flatten().chain(&LEAVES).copied();
    let mut wrong: Vec<String> = places
        .filter(|place| *place != "main" && !modules.contains(*place))
        .map(|place| format!("`{place}` has a place and is no module"))
        .collect();
    let placed = |module: &String| floor(module).is_some() || LEAVES.contains(&module.as_str());
    let homeless = modules.iter().filter(|module| !placed(module));
    wrong.extend(homeless.map(|module| format!("`{module}` has no place: FLOORS or LEAVES")));
    for source in &sources {
        let from = top(&source.module, &modules);
        for reference in source.references() {
            let to = top(&reference.path, &modules);
            if let Some(why) = forbidden(from, to) {
                wrong.push(format!(
                    "{}:{}: {from} → {}: {why}",
                    source.path.display(),
                    reference.line,
                    reference.path.join("::"),
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "{} are wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    assert_acyclic(&arrows(&sources, |from| LEAVES.contains(&from)));
}

#[test]
fn the_kernel_room_has_no_circles() {
    assert_acyclic(&arrows(&of_crate(&repo(), "executor/sys"), |_| true));
}

/// From each top module, to those it names and where.
type Arrows = BTreeMap<String, BTreeMap<String, String>>;

fn arrows(sources: &[SourceFile], is_meant: impl Fn(&str) -> bool) -> Arrows {
    let modules = tops(sources);
    let mut arrows = Arrows::new();
    for source in sources {
        let from = top(&source.module, &modules);
        for reference in source.references() {
            let to = top(&reference.path, &modules);
            // The root names its modules and holds what they share.
            if ![from, to].contains(&"main") && from != to && is_meant(from) && is_meant(to) {
                let place = format!("{}:{}", source.path.display(), reference.line);
                let of_module = arrows.entry(from.to_owned()).or_default();
                of_module.entry(to.to_owned()).or_insert(place);
            }
        }
    }
    arrows
}

#[track_caller]
fn assert_acyclic(arrows: &Arrows) {
    for start in arrows.keys() {
        let mut way = vec![start.as_str()];
        let mut seen = BTreeSet::new();
        if returns(arrows, &mut way, &mut seen) {
            let places: Vec<String> = way
                .windows(2)
                .map(|pair| format!("{} → {} ({})", pair[0], pair[1], arrows[pair[0]][pair[1]]))
                .collect();
            panic!("a circle: {}", places.join(", "));
        }
    }
}

/// Whether a way leads back to where it began; if so, `way` is it.
fn returns<'a>(arrows: &'a Arrows, way: &mut Vec<&'a str>, seen: &mut BTreeSet<&'a str>) -> bool {
    let Some(targets) = way.last().and_then(|last| arrows.get(*last)) else {
        return false;
    };
    for target in targets.keys() {
        if target == way[0] {
            way.push(target);
            return true;
        }
        if seen.insert(target) {
            way.push(target);
            if returns(arrows, way, seen) {
                return true;
            }
            way.pop();
        }
    }
    false
}

#[test]
fn arrows_up_and_across_are_refused() {
    assert_eq!(forbidden("api", "store"), None);
    assert_eq!(forbidden("pods", "events"), None);
    assert_eq!(forbidden("observe", "observe"), None);
    for (from, to) in [
        ("store", "pods"),
        ("observe", "actuate"),
        ("events", "store"),
        ("pods", "main"),
        ("api", "nowhere"),
    ] {
        assert!(forbidden(from, to).is_some(), "{from} → {to}");
    }
}

#[test]
#[should_panic(expected = "a → b (x), b → c (y), c → a (z)")]
fn circles_are_found() {
    let arrow = |from: &str, to: &str, place: &str| {
        (
            from.to_owned(),
            BTreeMap::from([(to.to_owned(), place.to_owned())]),
        )
    };
    assert_acyclic(&Arrows::from([
        arrow("a", "b", "x"),
        arrow("b", "c", "y"),
        arrow("c", "a", "z"),
    ]));
}
