//! What a plan's hash covers.

use std::collections::BTreeSet;
use tank_model::Digest;
use tank_plan::{Inputs, Observed, model::inputs, plan};

/// A plan that starts a pod from nothing, after the inputs were changed by `change`.
fn hash_with(change: impl FnOnce(&mut Inputs, &mut serde_json::Value)) -> Digest {
    let app = serde_json::json!({
        "image": "x", "env": { "A": "1" }, "files": { "/a": { "text": "1" } },
        "secrets": { "s": { "file": "/s", "path": "/s" } },
    });
    let mut pods = serde_json::json!({ "web": {
        "containers": { "app": app }, "publish": { "http": { "port": 80 } },
    } });
    let world = |pods: &serde_json::Value| {
        let config = serde_json::json!({ "pods": pods });
        inputs(&serde_json::from_value(config).expect("a configuration"))
    };
    let mut unchanged = world(&pods);
    let before = pods.clone();
    change(&mut unchanged, &mut pods);
    let changed = if pods == before {
        unchanged
    } else {
        world(&pods)
    };
    let host = Observed::default();
    let (plan, report) = plan(&changed.target(), &host);
    assert!(report.is_settled(), "{report:?}");
    // Whatever the root says: what is done is what counts.
    plan.hash(Digest::of(b"root"))
}

#[test]
fn a_plans_hash_changes_when_anything_a_step_would_do_changes() {
    fn image(inputs: &mut Inputs) -> &mut tank_plan::target::ImageConfig {
        inputs.images.values_mut().next().expect("an image")
    }
    type Mutation = fn(&mut Inputs, &mut serde_json::Value);
    let same = hash_with(|_, _| {});
    let changes: [(&str, Mutation); 16] = [
        ("env", |_, pods| {
            pods["web"]["containers"]["app"]["env"]["A"] = "2".into()
        }),
        ("text", |_, pods| {
            pods["web"]["containers"]["app"]["files"]["/a"]["text"] = "2".into()
        }),
        ("mode", |_, pods| {
            pods["web"]["containers"]["app"]["files"]["/a"]["mode"] = "0600".into()
        }),
        ("secret", |_, pods| {
            pods["web"]["containers"]["app"]["secrets"]["s"]["file"] = "/t".into()
        }),
        ("limit", |_, pods| {
            pods["web"]["containers"]["app"]["limits"] = serde_json::json!({ "pids": 7 })
        }),
        ("stop", |_, pods| {
            pods["web"]["containers"]["app"]["stop"] = serde_json::json!({ "signal": "SIGINT" })
        }),
        ("port", |_, pods| {
            pods["web"]["publish"]["http"]["port"] = 81.into()
        }),
        ("hostname", |_, pods| {
            pods["web"]["hostname"] = "other".into()
        }),
        ("command of the image", |inputs, _| {
            image(inputs).cmd.push("more".to_owned())
        }),
        ("environment of the image", |inputs, _| {
            image(inputs).env.push("B=1".to_owned())
        }),
        ("user id of the image", |inputs, _| {
            image(inputs).passwd = "root:x:7:0::/root:".to_owned()
        }),
        ("home of the image's user", |inputs, _| {
            image(inputs).passwd = "root:x:0:0::/home:".to_owned()
        }),
        ("lease", |inputs, _| {
            inputs.leases.values_mut().for_each(|lease| *lease += 1)
        }),
        ("network", |inputs, _| {
            inputs.host.networks = vec!["10.91.0.0/16".parse().expect("a network")]
        }),
        ("bridge", |inputs, _| {
            inputs.host.bridge = "other0".to_owned()
        }),
        ("resolver", |inputs, _| {
            inputs.resolver.host = "nameserver 192.0.2.54".to_owned()
        }),
    ];
    let mut hashes = BTreeSet::from([same]);
    for (what, change) in changes {
        assert!(hashes.insert(hash_with(change)), "{what}");
    }
    assert_eq!(hash_with(|_, _| {}), same);
}

/// What waits is done by a later pass without another plan being shown.
#[test]
fn a_plans_hash_covers_what_waits() {
    let pods = serde_json::json!({
        "db": { "containers": { "app": { "image": "x" } } },
        "web": { "containers": { "app": { "image": "y" } }, "depends_on": { "db": "ready" } },
    });
    let config = serde_json::from_value(serde_json::json!({ "pods": pods }));
    let world = inputs(&config.expect("a configuration"));
    let hash = |inputs: &Inputs| {
        let (plan, report) = plan(&inputs.target(), &Observed::default());
        assert_eq!(report.waiting.len(), 1, "{report:?}");
        plan.hash(Digest::of(b"root"))
    };
    // Of the image of the pod that waits alone.
    let mut changed = world.clone();
    let waiting = world
        .graph
        .images()
        .into_iter()
        .find(|(image, _)| image.to_string().contains('y'));
    let (_, digest) = waiting.expect("its image");
    changed
        .images
        .get_mut(&digest)
        .expect("its configuration")
        .env = vec!["A=1".to_owned()];
    assert_ne!(hash(&world), hash(&changed));
    assert_eq!(hash(&world), hash(&world.clone()));
}
