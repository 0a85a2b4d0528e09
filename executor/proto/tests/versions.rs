//! What shims of older versions say is still understood. The lines are as they were sent, and are
//! never edited: a new version gets a file of its own.

use tank_proto::shim::{FromShim, Setup, StartSpec, VERSION};

#[test]
fn every_message_of_version_1_is_understood() {
    let lines = include_str!("fixtures/shim-1.jsonl").lines();
    for line in lines.clone() {
        let message: FromShim =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        // Nothing of it is dropped: what is understood is what was said.
        let again = serde_json::to_value(&message).expect("encodes");
        assert_eq!(
            again,
            serde_json::from_str::<serde_json::Value>(line).expect("JSON"),
            "{line}"
        );
    }
    assert_eq!(lines.count(), 9);
    const {
        assert!(
            VERSION >= 2,
            "the lines of a version that is no longer the newest stay"
        )
    };
}

#[test]
fn every_message_of_version_3_is_understood() {
    let lines = include_str!("fixtures/shim-3.jsonl").lines();
    for line in lines.clone() {
        let message: FromShim =
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
        assert!(
            !matches!(message, FromShim::Answer(_)),
            "it has no id: {line}"
        );
        let again = serde_json::to_value(&message).expect("encodes");
        assert_eq!(
            again,
            serde_json::from_str::<serde_json::Value>(line).expect("JSON"),
            "{line}"
        );
    }
    assert_eq!(lines.count(), 13);
    const {
        assert!(
            VERSION >= 4,
            "the lines of a version that is no longer the newest stay"
        )
    };
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
