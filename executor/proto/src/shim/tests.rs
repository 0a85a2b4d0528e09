use super::*;

#[test]
fn a_failure_of_any_length_fits_into_a_packet() {
    for text in [
        "x".repeat(70_000),
        "\u{1}".repeat(70_000),
        "\u{1F600}".repeat(20_000),
        "short".to_owned(),
    ] {
        let failure = Failure {
            what: text.clone(),
            why: text.clone(),
            kind: FailureKind::Other,
        }
        .bounded();
        let answer = FromShim::Answer(Answer {
            id: u64::MAX,
            reply: Reply::Failed(failure.clone()),
        });
        assert!(serde_json::to_vec(&answer).expect("encodes").len() < 32 << 10);
        assert!(text.starts_with(failure.what.split('\u{2026}').next().unwrap_or_default()));
        assert_eq!(failure.what == text, text.len() <= MAX_FAILURE);
    }
}

#[test]
fn an_id_is_ignored_by_who_does_not_know_it() {
    let call = Call {
        id: Some(7),
        request: Request::Signal {
            container: "app".to_owned(),
            signal: 15,
        },
    };
    let text = serde_json::to_string(&call).expect("encodes");
    assert_eq!(
        text,
        r#"{"id":7,"op":"signal","container":"app","signal":15}"#
    );
    assert_eq!(
        serde_json::from_str::<Request>(&text).expect("version 3 reads it"),
        call.request
    );
    let state = serde_json::to_string(&Call {
        id: Some(8),
        request: Request::State,
    })
    .expect("encodes");
    assert_eq!(
        serde_json::from_str::<Request>(&state).expect("version 3 reads it"),
        Request::State
    );
    // And a `tankd` of version 3 sends none.
    let call: Call = serde_json::from_str(r#"{"op":"state"}"#).expect("version 4 reads it");
    assert_eq!(
        call,
        Call {
            id: None,
            request: Request::State
        }
    );
}
