use super::*;
use crate::{
    flows::Flow,
    health::PATIENCE,
    model::{apply, inputs},
    observed::{FailedStep, Pod, State, Unresponsive},
    target::TargetError,
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};
use tank_model::Config;

const NOW: u64 = 1_000_000;

/// What is planned, and what waits until when, for the pod `web`, which is unresponsive.
fn planned(
    declared: bool,
    unresponsive: Unresponsive,
    failures: Vec<FailedStep>,
) -> (Vec<String>, Vec<Option<u64>>) {
    let mut config = serde_json::json!({ "pods": {} });
    if declared {
        config["pods"]["web"] =
            serde_json::json!({ "network": "none", "containers": { "app": { "image": "x" } } });
    }
    let config: Config = serde_json::from_value(config).expect("a configuration");
    let mut inputs = inputs(&config);
    inputs.previous = Some(inputs.graph.clone());
    let web = Pod {
        unresponsive: Some(unresponsive),
        ..Pod::default()
    };
    let pods = BTreeMap::from([(Name::new("web").expect("a name"), web)]);
    let observed = Observed {
        now: NOW,
        pods,
        failures,
        ..Observed::default()
    };
    let (plan, report) = plan(&inputs.target(), &observed);
    let steps = plan.steps.iter().map(|step| step.step.to_string());
    let until = report.waiting.iter().map(|waiting| waiting.until);
    (steps.collect(), until.collect())
}

#[test]
fn a_shim_that_says_nothing_is_waited_for_let_run_on_or_replaced() {
    let silent = |since| Unresponsive::Silent { since };
    assert_eq!(
        planned(true, silent(NOW - SILENCE + 1), vec![]),
        (vec![], vec![Some(NOW + 1)])
    );
    let replaced = [
        "sweep what is left of pod web",
        "create pod web",
        "start web/app",
    ]
    .map(str::to_owned);
    assert_eq!(
        planned(true, silent(NOW - SILENCE), vec![]),
        (replaced.to_vec(), vec![])
    );
    assert_eq!(
        planned(true, Unresponsive::Busy, vec![]),
        (vec![], vec![None])
    );
    assert_eq!(
        planned(
            true,
            Unresponsive::Unreadable { why: String::new() },
            vec![]
        ),
        (vec![], vec![Some(NOW + shims::READ_AGAIN)])
    );
    // However long it was stopped, what runs in it need not end; unless that is in vain.
    let resumed = vec!["resume the shim of pod web".to_owned()];
    assert_eq!(
        planned(true, Unresponsive::Halted { since: 0 }, vec![]),
        (resumed.clone(), vec![None])
    );
    let step = Step::ResumeShim {
        pod: Name::new("web").expect("a name"),
    };
    let in_vain = FailedStep {
        step: step.id(),
        count: PATIENCE,
        at: 0,
        why: String::new(),
    };
    let halted = planned(true, Unresponsive::Halted { since: 0 }, vec![in_vain]);
    assert_eq!(halted, (replaced.to_vec(), vec![]));
    // What has to go anyway is not waited for, but let run on, so that it may end as it should.
    assert_eq!(
        planned(false, silent(NOW), vec![]),
        (replaced[..1].to_vec(), vec![])
    );
    assert_eq!(
        planned(false, Unresponsive::Halted { since: 0 }, vec![]),
        (resumed, vec![])
    );
}

fn steps(plan: &Plan) -> Vec<String> {
    let steps = plan.steps.iter();
    steps.map(|planned| planned.step.to_string()).collect()
}

#[test]
fn what_can_t_be_started_ends_nothing_that_runs() {
    let config = |user: &str| -> Config {
        let app = serde_json::json!({ "image": "x", "user": user });
        let pod = serde_json::json!({ "network": "none", "containers": { "app": app } });
        serde_json::from_value(serde_json::json!({ "pods": { "web": pod } })).expect("a pod")
    };
    let mut host = Observed {
        now: NOW,
        ..Observed::default()
    };
    let before = inputs(&config("root"));
    apply(&plan(&before.target(), &host).0, &mut host);
    let mut after = inputs(&config("nobody-knows"));
    after.previous = Some(before.graph.clone());
    let (none, report) = plan(&after.target(), &host);
    assert_eq!(steps(&none), Vec::<String>::new());
    assert!(matches!(report.blocked[0].why, TargetError::NoUser { .. }));
    assert!(!report.is_settled() && report.wake_at().is_none());
    // With its image's own user it goes on.
    for image in after.images.values_mut() {
        image.passwd.push_str("nobody-knows:x:7:7::/:\n");
    }
    let (some, report) = plan(&after.target(), &host);
    assert_eq!(steps(&some), ["stop web/app", "start web/app"]);
    assert!(report.is_settled());
    // What ended is not started from an image that is gone.
    let mut before = before;
    before.images.clear();
    let run = host
        .pods
        .values_mut()
        .flat_map(|pod| pod.containers.values_mut());
    run.for_each(|found| found.state = State::Exited { status: 1, at: NOW });
    let (none, report) = plan(&before.target(), &host);
    assert_eq!(steps(&none), Vec::<String>::new());
    let why = "can't start web/app: use the image x: it is not on this host";
    assert_eq!(report.blocked[0].to_string(), why);
}

#[test]
fn a_secret_belongs_to_whom_the_image_calls_so() {
    let config = |owner: Option<&str>| -> Config {
        let mut secret = serde_json::json!({ "file": "/etc/hostname", "path": "/run/db" });
        if let Some(owner) = owner {
            secret["owner"] = owner.into();
        }
        let app = serde_json::json!({ "image": "x", "secrets": { "db": secret } });
        let pod = serde_json::json!({ "network": "none", "containers": { "app": app } });
        serde_json::from_value(serde_json::json!({ "pods": { "web": pod } })).expect("a pod")
    };
    let name = |text: &str| Name::new(text).expect("a name");
    let (web, app) = (name("web"), name("app"));
    let owner = |owner: Option<&str>| {
        let mut inputs = inputs(&config(owner));
        for image in inputs.images.values_mut() {
            image.passwd.push_str("db:x:70:71::/:\nfar:x:70000:1::/:\n");
            image.group.push_str("keys:x:9:\n");
        }
        let spec = inputs.target().container(&web, &app);
        spec.map(|spec| spec.secret_owners.get(&name("db")).copied())
            .map_err(|error| error.to_string())
    };
    assert_eq!(owner(None), Ok(None));
    assert_eq!(owner(Some("db")), Ok(Some((70, 71))));
    assert_eq!(owner(Some("db:keys")), Ok(Some((70, 9))));
    assert_eq!(owner(Some("999:1000")), Ok(Some((999, 1000))));
    let why = "find the owner of the secret `db`: the image has no user `nobody` in /etc/passwd";
    assert_eq!(owner(Some("nobody")), Err(why.to_owned()));
    let why = "find the owner of the secret `db`: user `far` is outside the 65536 ids of a pod";
    assert_eq!(owner(Some("far")), Err(why.to_owned()));
}

/// The inputs for pods on the bridge that publish these ports.
fn bridged(pods: &[(&str, serde_json::Value)]) -> crate::Inputs {
    let pod = |publish: &serde_json::Value| serde_json::json!({ "containers": { "app": { "image": "x" } }, "publish": publish });
    let pods: BTreeMap<&str, _> = pods.iter().map(|(name, port)| (*name, pod(port))).collect();
    let config = serde_json::json!({ "pods": pods });
    inputs(&serde_json::from_value(config).expect("a configuration"))
}

#[test]
fn pods_on_their_way_out_may_send_until_they_are_gone() {
    let none = serde_json::json!({});
    let (both, mut one) = (
        bridged(&[("a", none.clone()), ("b", none.clone())]),
        bridged(&[("a", none)]),
    );
    // As whoever plans has them: of whom nothing is known, nobody is let near.
    one.leases = both.leases.clone();
    let mut host = Observed::default();
    let (first, _) = plan(&both.target(), &host);
    apply(&first, &mut host);
    let mut target = one.target();
    target.previous = Some(&both.graph);
    let (second, _) = plan(&target, &host);
    let tables: Vec<(StepId, usize)> = second
        .steps
        .iter()
        .enumerate()
        .filter_map(|(id, planned)| match &planned.step {
            Step::EnsureFirewall { table } => {
                let macs = table.sets.iter().find(|set| set.name == "macs");
                Some((id, macs.map_or(0, |set| set.elements.len())))
            }
            _ => None,
        })
        .collect();
    let stopped = second
        .steps
        .iter()
        .position(|planned| matches!(planned.step, Step::StopSandbox { .. }))
        .expect("it is removed");
    // What is there holds both: it is replaced once, at the end.
    let [(id, senders)] = tables[..] else {
        panic!("{tables:?}")
    };
    assert_eq!(senders, 1);
    assert!(second.steps[id].after.contains(&stopped));
    apply(&second, &mut host);
    assert!(plan(&target, &host).0.is_empty());
}

#[test]
fn the_hosts_settings_are_changed_in_order_and_given_back() {
    let (web, none) = (bridged(&[("web", serde_json::json!({}))]), bridged(&[]));
    let mut web = web;
    web.host
        .networks
        .push("fd00::/64".parse().expect("a network"));
    let setting = |path: &str, value: &str| (path.to_owned(), value.to_owned());
    let mut host = Observed::default();
    host.network.settings = [
        setting("net/ipv4/ip_forward", "1"),
        setting("net/ipv6/conf/all/forwarding", "0"),
        setting("net/ipv6/conf/eth0/accept_ra", "1"),
    ]
    .into();
    host.network.advertised = ["eth0".to_owned()].into();
    host.network.links = ["eth0".to_owned(), "eth1".to_owned()].into();
    let before = host.network.clone();
    let (first, _) = plan(&web.target(), &host);
    let sets = |plan: &Plan| {
        let found = plan.steps.iter().find_map(|planned| match &planned.step {
            Step::EnsureFirewall { table } => Some(table.sets.clone()),
            _ => None,
        });
        let names = found
            .into_iter()
            .flatten()
            .map(|set| (set.name, set.elements.len()));
        names.collect::<BTreeMap<_, _>>()
    };
    let found = sets(&first);
    assert_eq!(found.get("apart4"), None, "it forwarded IPv4 before");
    assert_eq!(found.get("apart6"), Some(&2));
    let settings: Vec<String> = first
        .steps
        .iter()
        .filter_map(|planned| match &planned.step {
            Step::EnsureBridge { bridge } => Some(bridge.settings.clone()),
            _ => None,
        })
        .flatten()
        .map(|setting| format!("{}={}", setting.path, setting.value))
        .collect();
    assert_eq!(
        settings,
        [
            "net/ipv4/conf/tank0/arp_ignore=1",
            "net/ipv4/conf/tank0/route_localnet=1",
            "net/ipv4/ip_forward=1",
            "net/ipv6/conf/eth0/accept_ra=2",
            "net/ipv6/conf/all/forwarding=1",
        ]
    );
    apply(&first, &mut host);
    // As it is observed then: nobody is listened to who was not before.
    host.network.advertised.clear();
    assert!(plan(&web.target(), &host).0.is_empty());
    // Another link of somebody else changes nothing of that.
    host.network.links.insert("docker0".to_owned());
    assert!(plan(&web.target(), &host).0.is_empty());
    // Somebody who sets it back is overruled while it is needed.
    let forwards = "net/ipv6/conf/all/forwarding".to_owned();
    host.network.settings.insert(forwards, "0".to_owned());
    let (repair, _) = plan(&web.target(), &host);
    assert!(!repair.is_empty());
    apply(&repair, &mut host);
    let (end, _) = plan(&none.target(), &host);
    apply(&end, &mut host);
    assert_eq!(host.network.settings, before.settings);
    assert!(host.network.changed.is_empty());
    assert!(plan(&none.target(), &host).0.is_empty());
}

#[test]
fn a_plan_says_who_reaches_what() {
    let before = bridged(&[(
        "web",
        serde_json::json!({ "a": { "port": 80, "address": "0.0.0.0" }, "b": { "port": 8080, "to": 80 } }),
    )]);
    let after = bridged(&[(
        "web",
        serde_json::json!({
            "b": { "port": 8080, "to": 80 }, "c": { "port": 53, "protocol": "udp", "address": "10.1.2.3" },
            "d": { "port": 1, "address": "::" },
        }),
    )]);
    let words = |inputs: &crate::Inputs, previous: Option<&Graph>, host: &Observed| {
        let mut target = inputs.target();
        target.previous = previous;
        let (plan, _) = plan(&target, host);
        let found = plan
            .steps
            .iter()
            .find(|planned| matches!(planned.step, Step::EnsureFirewall { .. }));
        found
            .map(|planned| planned.why.to_string())
            .unwrap_or_default()
    };
    let mut host = Observed::default();
    let said = words(&before, None, &host);
    assert!(
        said.starts_with("0.0.0.0:80 from anywhere \u{2192} web:80; 127.0.0.1:8080 from this host \u{2192} web:80; "),
        "{said}"
    );
    let (first, _) = plan(&before.target(), &host);
    apply(&first, &mut host);
    let said = words(&after, Some(&before.graph), &host);
    assert!(
        said.starts_with(
            "0.0.0.0:80 no longer leads to web:80; 10.1.2.3:53/udp from anywhere \u{2192} web:53; "
        ),
        "{said}"
    );
    assert_eq!(
        said.matches('\u{2192}').count(),
        1,
        "pods have no IPv6 here: {said}"
    );
}

/// Flows that a daemon before this one was to end, and those past a port that it had just published.
#[test]
fn flows_that_were_left_are_ended_and_no_others() {
    let publish = serde_json::json!({
        "p": { "port": 5000, "to": 80, "address": "0.0.0.0", "protocol": "udp" },
        "q": { "port": 5001, "to": 80, "address": "192.0.2.1", "protocol": "udp" },
    });
    let web = inputs(
        &serde_json::from_value(serde_json::json!({
            "pods": { "web": { "containers": { "app": { "image": "x" } }, "publish": publish } },
        }))
        .expect("a configuration"),
    );
    let mut host = Observed::default();
    let (first, _) = plan(&web.target(), &host);
    apply(&first, &mut host);
    let name = Name::new("web").expect("a name");
    let own = web.target().addresses(&name)[0].addr();
    let flow = |asked: &str, to: Option<(IpAddr, u16)>| Flow {
        asked: asked.parse().expect("an address and a port"),
        to: to.map(SocketAddr::from),
    };
    let other: IpAddr = match own {
        IpAddr::V4(own) => Ipv4Addr::from(u32::from(own) + 1).into(),
        IpAddr::V6(_) => own,
    };
    let elsewhere: IpAddr = Ipv4Addr::new(172, 17, 0, 2).into();
    let stay = [
        flow("198.51.100.1:5000", Some((own, 80))),
        flow("192.0.2.1:5001", Some((own, 80))),
        // Of somebody else's.
        flow("192.0.2.1:5003", Some((elsewhere, 80))),
        flow("192.0.2.1:5004", None),
    ];
    let go = [
        flow("192.0.2.1:5000", Some((other, 80))),
        flow("192.0.2.1:5000", Some((own, 81))),
        flow("198.51.100.1:5001", Some((own, 80))),
        flow("192.0.2.1:5002", Some((own, 80))),
        flow("192.0.2.1:5001", None),
        flow("127.0.0.1:5000", None),
    ];
    host.network.flows = stay.iter().chain(&go).copied().collect();
    let (repair, _) = plan(&web.target(), &host);
    let steps = repair.steps.iter();
    let steps: Vec<String> = steps.map(|planned| planned.step.to_string()).collect();
    let to = format!("end flows of UDP to {own}, {other}");
    assert_eq!(
        steps,
        [to.as_str(), "end flows of UDP to port 5000, port 5001"]
    );
    apply(&repair, &mut host);
    assert_eq!(host.network.flows, stay.into_iter().collect());
    assert!(plan(&web.target(), &host).0.is_empty());
}
