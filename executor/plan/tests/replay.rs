//! What `tank diff --observed` wrote down on a host, planned again here.

use tank_model::Digest;
use tank_plan::{
    Dump, Plan, Step,
    target::{Content, Folder, MountSource},
};

fn dump(text: &str) -> Dump {
    serde_json::from_str(text).expect("a dump")
}

fn lines(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    steps
        .map(|planned| format!("{}: {}", planned.step, planned.why))
        .collect()
}

#[test]
fn a_fresh_host_with_a_table_of_somebody_else() {
    let dump = dump(include_str!("dumps/fresh_host.json"));
    let (plan, report) = dump.plan();
    assert_eq!(
        lines(&plan),
        [
            "publish ports: 0.0.0.0:8080 from anywhere \u{2192} web:80; 121 rules are missing and 2 are not wanted",
            "set up the bridge: pods need it",
            "answer names: db, web: pods find each other by name",
            "create pod db: it is declared",
            "connect pod db: it needs an address",
            "start db/app: it is declared",
            "create pod web: it is declared",
            "connect pod web: it needs an address",
            "start web/app: it is declared",
        ]
    );
    let blocked: Vec<String> = report.blocked.iter().map(ToString::to_string).collect();
    let why = "use the image docker.io/library/busybox:1.37: it is not on this host";
    assert_eq!(blocked, [format!("can't start web/log: {why}")]);
    let starts = plan.steps.iter().find_map(|planned| match &planned.step {
        Step::StartContainer { spec, .. } => Some(spec),
        _ => None,
    });
    let spec = starts.expect("db/app");
    assert_eq!(spec.argv, ["docker-entrypoint.sh", "postgres"]);
    assert_eq!((spec.user.uid, &spec.user.groups), (999, &vec![101]));
    assert_eq!((spec.stop_signal, spec.stop_timeout), (2, 10_000));
    let begins_with = Content {
        image: spec.image.digest,
        path: spec.mounts[0].path.clone(),
    };
    let managed = MountSource::Managed {
        shared: None,
        quota: None,
        folder: Folder::default(),
        content: vec![begins_with],
        writers: [spec.image.digest].into(),
    };
    assert_eq!(spec.mounts[0].source, managed);
    assert_eq!(spec.id_base, 0x7000_0000 + 2 * 65_536);
    assert_eq!(
        spec.files["/etc/resolv.conf"].text,
        "nameserver 10.90.0.1\nnameserver fd74:616e:6b00::1\nsearch tank.internal\n"
    );
    let hosts = &spec.files["/etc/hosts"].text;
    assert!(
        hosts.ends_with("10.90.0.2\tdb\nfd74:616e:6b00::2\tdb\n"),
        "{hosts}"
    );
    // What is written down again is the same.
    let text = serde_json::to_string(&dump).expect("JSON");
    let again = self::dump(&text);
    let root = Digest::of(b"root");
    assert_eq!(again.plan().0.hash(root), plan.hash(root));
}
