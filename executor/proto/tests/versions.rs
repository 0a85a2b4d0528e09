//! What shims of older versions say is still understood. The lines are as they were sent, and are
//! never edited: a new version gets a file of its own.

use tank_proto::shim::{Answer, FailureKind, FromShim, Reply, Setup, StartSpec, VERSION};

/// Each line is understood, and nothing of it dropped: what is understood is what was sent.
fn understood(lines: &str) -> Vec<FromShim> {
    let each = lines.lines().map(|line| {
        let message: FromShim =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        let again = serde_json::to_value(&message).expect("encodes");
        let sent: serde_json::Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(again, sent, "{line}");
        message
    });
    each.collect()
}

#[test]
fn every_message_of_version_1_is_understood() {
    let messages = understood(include_str!("fixtures/shim-1.jsonl"));
    assert_eq!(messages.len(), 9);
    const {
        assert!(
            VERSION >= 2,
            "the lines of a version that is no longer the newest stay"
        )
    };
}

#[test]
fn every_message_of_version_3_is_understood() {
    let messages = understood(include_str!("fixtures/shim-3.jsonl"));
    let has_id = |message: &FromShim| matches!(message, FromShim::Answer(_));
    assert!(!messages.iter().any(has_id), "{messages:?}");
    assert_eq!(messages.len(), 13);
    const {
        assert!(
            VERSION >= 4,
            "the lines of a version that is no longer the newest stay"
        )
    };
}

#[test]
fn every_message_of_version_7_is_understood() {
    let messages = understood(include_str!("fixtures/shim-7.jsonl"));
    assert_eq!(messages.len(), 17);
    const {
        assert!(
            VERSION == 7,
            "a new version gets a file of its own; these lines stay"
        )
    };
}

/// What a shim of the next version says more is no reason not to understand the rest: an older `tankd` takes it over.
#[test]
fn what_a_newer_shim_says_more_is_left_out() {
    fn more(value: &mut serde_json::Value) {
        let unknown = serde_json::json!({ "of": [1, null, "a newer version"] });
        value["newer"] = unknown.clone();
        for container in value["containers"].as_array_mut().into_iter().flatten() {
            container["newer"] = unknown.clone();
        }
        // To look is to make.
        let object = value.as_object_mut().expect("an object");
        object.retain(|_, value| !value.is_null());
    }
    for line in include_str!("fixtures/shim-7.jsonl").lines() {
        let known: FromShim = serde_json::from_str(line).expect("a message");
        let mut newer: serde_json::Value = serde_json::from_str(line).expect("JSON");
        more(&mut newer);
        let understood: FromShim =
            serde_json::from_value(newer.clone()).unwrap_or_else(|e| panic!("{e}: {newer}"));
        assert_eq!(understood, known, "{newer}");
    }
    // Why it failed is said more finely.
    let failed = r#"{"id":9,"reply":"failed","what":"start","why":"no","kind":"too_hot"}"#;
    let failed: FromShim = serde_json::from_str(failed).expect("a message");
    let FromShim::Answer(Answer {
        id: 9,
        reply: Reply::Failed(failure),
    }) = failed
    else {
        panic!("{failed:?}");
    };
    assert_eq!(failure.kind, FailureKind::Other);
    // What is not known at all is an error, and no other message.
    for unknown in [
        r#"{"id":9,"reply":"moved","to":"x"}"#,
        r#"{"event":"warmed","container":"app"}"#,
    ] {
        serde_json::from_str::<FromShim>(unknown).expect_err(unknown);
    }
}

#[test]
fn what_version_1_did_not_send_has_a_default() {
    let setup = r#"{"pod":"a","sandbox":"x","hostname":"a","id_base":1,"own_network":true,"sysctls":[],"socket":"/s",
        "log_dir":"/l","attach_on":"/r","cgroup":[]}"#;
    let setup: Setup = serde_json::from_str(setup).expect("a set-up");
    assert_eq!(setup.nofile, None);
    let start = r#"{"name":"app","hash":"x","attempt":0,"argv":["/bin/true"],"env":[],"cwd":"/","user":{"uid":0,"gid":0,
        "groups":[]},"tty":false,"read_only":false,"bounding":[],"ambient":[],"stop_signal":15,"stop_timeout":1,"root":0,
        "mounts":[],"files":null,"cgroup":[]}"#;
    let start: StartSpec = serde_json::from_str(start).expect("a specification");
    assert!(start.ulimits.is_empty() && start.devices.is_empty());
}
