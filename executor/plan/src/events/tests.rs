//! Events are remembered within bounds, fairly, and found again.

use super::*;

fn event(time: u64, kind: Kind, pod: Option<&str>, message: &str) -> Event {
    Event::new(time, kind, pod.into(), message.to_owned())
}

fn remembered(history: &History) -> Vec<(String, u64)> {
    let events = history.events();
    events
        .map(|event| (event.message.clone(), event.count))
        .collect()
}

/// What programs filter by, and what is on disk.
#[test]
fn the_words_of_kinds_are_pinned() {
    let words: Vec<&str> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    insta::assert_snapshot!("kinds", words.join("\n"));
    let mut sorted = words.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(words, sorted, "each once, in order");
    for kind in Kind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(*kind));
        let json = serde_json::to_string(kind).expect("encodes");
        assert_eq!(json, format!("\"{kind}\""));
    }
    let wrong = "failled".parse::<Kind>().expect_err("no kind").to_string();
    assert_eq!(
        wrong,
        "`failled` is no kind of event: did you mean `failed`?"
    );
    let none = "x".repeat(40).parse::<Kind>().expect_err("no kind");
    assert!(
        none.to_string().contains("there are adopted, backup,"),
        "{none}"
    );
}

#[test]
fn what_repeats_itself_is_one_and_pushes_nothing_out() {
    let mut history = History::default();
    let mut add = |kind, pod, message: &str| drop(history.add(event(1, kind, pod, message)));
    add(Kind::Step, Some("web"), "start web/app");
    for _ in 0..MAX_EVENTS {
        add(Kind::Step, Some("a"), "connect pod a");
        add(Kind::Step, None, "publish ports");
    }
    let count = MAX_EVENTS as u64;
    let expected = [
        ("start web/app", 1),
        ("connect pod a", count),
        ("publish ports", count),
    ];
    let expected = expected.map(|(message, count)| (message.to_owned(), count));
    // One that always says something else pushes out its own.
    for number in 0..2 * MAX_EVENTS {
        add(Kind::Unhealthy, Some("b"), &number.to_string());
    }
    let all = remembered(&history);
    assert_eq!((all.len(), &all[..3]), (MAX_EVENTS, &expected[..]));
    // With something between, it is another one.
    let mut history = History::default();
    for message in ["ready", "unready", "ready", "ready"] {
        for pod in ["a", "b"] {
            history.add(event(1, Kind::Ready, Some(pod), message));
        }
    }
    let of_each = [("ready", 1), ("unready", 1), ("ready", 2)].into_iter();
    let both = of_each.flat_map(|(message, count)| [0, 1].map(|_| (message.to_owned(), count)));
    assert_eq!(remembered(&history), both.collect::<Vec<_>>());
}

/// Two hundred pods that each end and are started again, forever, beside one that has said something once.
#[test]
fn a_flood_is_bounded_and_forgets_nobody_quiet() {
    let mut history = History::default();
    history.add(event(0, Kind::Volume, Some("quiet"), "once"));
    for round in 0..40u64 {
        for pod in 0..200 {
            let pod = format!("pod-{pod}");
            let of = Some(pod.as_str());
            history.add(event(round, Kind::Exited, of, "container app ended"));
            let long = format!("start {round} {}", "x".repeat(2 * MAX_MESSAGE));
            history.add(event(round, Kind::Step, of, &long));
        }
    }
    let bytes: usize = history.events().map(|event| event.message.len()).sum();
    assert!(history.events().count() <= MAX_EVENTS);
    assert!(bytes <= MAX_BYTES, "{bytes}");
    assert_eq!(remembered(&history)[0], ("once".to_owned(), 1));
    let longest = history.events().map(|event| event.message.len()).max();
    assert_eq!(longest, Some(MAX_MESSAGE));
}

#[test]
fn a_message_is_cut_between_characters() {
    let long = "ü".repeat(MAX_MESSAGE);
    let cut = event(0, Kind::Note, None, &long).message;
    assert!(cut.len() <= MAX_MESSAGE && cut.ends_with("ü…"), "{cut}");
}

/// What is written down of a repeated event stands for what was written of it before.
#[test]
fn a_history_is_the_same_after_it_was_written_down() {
    let mut history = History::default();
    let mut written = Vec::new();
    for time in 0..5 {
        let added = history.add(event(time, Kind::Failed, None, "no pass"));
        if added.is_milestone() {
            written.push(serde_json::to_string(&added).expect("encodes"));
        }
    }
    let web = Subject {
        uid: Some(1000),
        generation: Some(7),
        ..Subject::container("blog:web", "app")
    };
    let last = history.add(Event::new(9, Kind::Exited, web, "ended".to_owned()));
    written.push(serde_json::to_string(&last).expect("encodes"));
    assert_eq!(
        written,
        [
            r#"{"time":0,"kind":"failed","message":"no pass"}"#,
            r#"{"time":1,"kind":"failed","message":"no pass","count":2,"since":0}"#,
            r#"{"time":3,"kind":"failed","message":"no pass","count":4,"since":0}"#,
            r#"{"time":9,"kind":"exited","pod":"blog:web","container":"app","generation":7,"uid":1000,"message":"ended"}"#,
        ]
    );
    let mut again = History::default();
    for line in written {
        again.restore(serde_json::from_str(&line).expect("decodes"));
    }
    let all: Vec<(String, u64)> = remembered(&again);
    assert_eq!(all, [("no pass".to_owned(), 4), ("ended".to_owned(), 1)]);
    assert_eq!(again.events().last(), Some(&last));
}

#[test]
fn a_filter_admits_what_is_asked_for() {
    let mut repeated = event(50, Kind::Failed, Some("shop:db"), "d");
    (repeated.count, repeated.first) = (3, Some(10));
    let past = vec![
        event(10, Kind::Exited, Some("web"), "a"),
        event(20, Kind::Failed, None, "b"),
        event(30, Kind::Failed, Some("shop:web"), "c"),
        repeated,
    ];
    let chosen = |filter: Filter, tail| {
        let chosen = filter.select(past.clone(), tail).into_iter();
        chosen.map(|event| event.message).collect::<String>()
    };
    let all = Filter::default;
    let with = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    assert_eq!(chosen(all(), None), "abcd");
    assert_eq!(chosen(all(), Some(2)), "cd");
    assert_eq!(chosen(all(), Some(0)), "");
    let pods = with(&["web", "shop:db"]);
    assert_eq!(chosen(Filter { pods, ..all() }, None), "ad");
    let kinds = [Kind::Exited].into();
    assert_eq!(chosen(Filter { kinds, ..all() }, None), "a");
    let stack = Some("shop".to_owned());
    assert_eq!(chosen(Filter { stack, ..all() }, Some(1)), "d");
    let since = Some(30);
    assert_eq!(chosen(Filter { since, ..all() }, None), "cd");
    let until = Some(15);
    assert_eq!(chosen(Filter { until, ..all() }, None), "ad");
}
