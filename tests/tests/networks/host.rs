//! What there is of networks on the host: exactly what is declared, whatever somebody changes and
//! whoever ends, and nothing when they are gone.

use super::*;
use std::time::{Duration, Instant};
use tank_tests::{RUN, words};

/// The bridges of networks, by what their descriptions say.
fn bridges(host: &Host) -> BTreeMap<String, String> {
    let links: Value =
        serde_json::from_str(&sh(host, "ip -j link show type bridge")).expect("JSON");
    let links = links.as_array().expect("links").iter();
    let described = links.filter_map(|link| {
        let network = link["ifalias"].as_str()?.strip_prefix("Tank's network ")?;
        Some((network.to_owned(), link["ifname"].as_str()?.to_owned()))
    });
    described.collect()
}

fn settled(host: &Host) -> bool {
    host.tank(&["--json", "diff"]).json()["steps"] == json!([])
}

// long: one look after the other
#[test]
fn networks_are_what_is_declared_and_nothing_is_left() {
    let site = Segment::new(false);
    let before = links(&site.host);
    let forwards = || sh(&site.host, "cat /proc/sys/net/ipv4/ip_forward");
    assert_eq!(forwards(), "0\n");
    let (networks, pods) = pods();
    switch(&site.host, &networks, &pods);
    let there = bridges(&site.host);
    assert_eq!(there.keys().collect::<Vec<_>>(), ["back", "far", "front"]);
    for (network, bridge) in &there {
        assert_eq!(bridge.len(), 14, "{bridge}");
        let localnet = format!("/proc/sys/net/ipv4/conf/{bridge}/route_localnet");
        let localnet = sh(&site.host, &format!("cat {localnet}"));
        assert_eq!(localnet.trim() == "1", network != "back", "{network}");
        let own: Value =
            serde_json::from_str(&sh(&site.host, &format!("ip -j addr show {bridge}")))
                .expect("JSON");
        let own = own[0]["addr_info"].as_array().expect("addresses").iter();
        let own = own.filter(|own| own["scope"] == "global");
        let lengths: Vec<u64> = own.filter_map(|own| own["prefixlen"].as_u64()).collect();
        assert_eq!(lengths, [24, 64], "{network}");
    }
    // The ports of each pod, on the bridges of its networks and in groups of their own.
    let mut groups = BTreeSet::new();
    for (network, bridge) in &there {
        let text = sh(&site.host, &format!("ip -j -d link show master {bridge}"));
        let ports: Value = serde_json::from_str(&text).expect("JSON");
        let ports = ports.as_array().expect("ports");
        let on = PODS
            .iter()
            .filter(|pod| networks_of(pod).contains(&network.as_str()));
        assert_eq!(ports.len(), on.count(), "{network}: {text}");
        for port in ports {
            assert!(groups.insert(port["group"].to_string()), "{text}");
            assert_eq!(
                port["linkinfo"]["info_slave_data"]["hairpin"], true,
                "{text}"
            );
        }
    }
    // Routes inside: over the first network that leads further, and none from an internal one.
    let routes = |pod: &'static str, family: &str| -> Vec<Value> {
        let mut command = site.inside(From::Pod(pod), "ip");
        let output = command
            .args([family, "-j", "route", "show", "default"])
            .output();
        serde_json::from_slice(&output.expect("ip").stdout).unwrap_or_default()
    };
    for (family, place) in [("-4", 0), ("-6", 1)] {
        assert_eq!(routes("db", family), Vec::<Value>::new());
        let api = routes("api", family);
        assert_eq!(api.len(), 1, "{api:?}");
        assert_eq!(api[0]["dev"], "eth1");
        assert_eq!(
            api[0]["gateway"],
            first_of(&site.addresses("api")["eth1"][place])
        );
    }
    let list = site.host.pod("api");
    let own: Vec<String> = site.addresses("api").into_values().flatten().collect();
    assert_eq!(list["addresses"], json!(own));
    assert!(
        settled(&site.host),
        "{:?}",
        site.host.tank(&["diff"]).stdout
    );
    // One network less: its bridge goes, the others stay.
    let rest: Vec<_> = pods
        .iter()
        .filter(|(pod, _)| *pod != "far")
        .cloned()
        .collect();
    switch(&site.host, &networks, &rest);
    let without: Vec<String> = bridges(&site.host).into_keys().collect();
    assert_eq!(without, ["back", "front"]);
    assert!(settled(&site.host));
    switch(&site.host, &json!({}), &[]);
    assert_eq!(links(&site.host), before);
    assert_eq!(forwards(), "0\n");
    let tables = sh(&site.host, "nft list tables");
    assert!(!tables.contains("tank"), "{tables}");
    site.finish();
}

#[test]
fn addresses_stay_over_restarts_and_with_generations_that_name_them() {
    let mut site = Segment::new(false);
    let (networks, mut pods) = pods();
    pods[5].1["networks"]["front"] = json!({});
    switch(&site.host, &networks, &pods);
    let all = |site: &Segment| -> BTreeMap<&str, BTreeMap<String, [String; 2]>> {
        PODS.iter().map(|pod| (*pod, site.addresses(pod))).collect()
    };
    let before = all(&site);
    let pids: Vec<i64> = PODS.iter().map(|pod| site.host.pid(pod, "app")).collect();
    site.host.kill_daemon();
    site.host.start_daemon();
    assert_eq!(all(&site), before);
    let same: Vec<i64> = PODS.iter().map(|pod| site.host.pid(pod, "app")).collect();
    assert_eq!(same, pids, "nothing was started again");
    assert!(settled(&site.host));
    // Gone, and here again: a generation names them still.
    switch(&site.host, &json!({}), &[]);
    switch(&site.host, &networks, &pods);
    assert_eq!(all(&site), before);
    // As after a boot: every pod is another one.
    switch(&site.host, &json!({}), &[]);
    site.host.kill_daemon();
    site.host.start_daemon();
    switch(&site.host, &networks, &pods);
    assert_eq!(all(&site), before);
    // A network that says something else replaces the pods on it, and no others.
    let pids = |site: &Segment| -> BTreeMap<&str, i64> {
        PODS.iter()
            .map(|pod| (*pod, site.host.pid(pod, "app")))
            .collect()
    };
    let before = pids(&site);
    let mut changed = networks.clone();
    changed["front"] = json!({ "subnets": ["10.55.0.0/24", "fd55::/64"] });
    switch(&site.host, &changed, &pods);
    let after = pids(&site);
    let replaced: Vec<&str> = PODS
        .into_iter()
        .filter(|pod| before[pod] != after[pod])
        .collect();
    assert_eq!(replaced, ["api", "web"]);
    assert!(site.addresses("web")["eth0"][0].starts_with("10.55.0."));
    let bridge = bridges(&site.host)["front"].clone();
    let own = sh(&site.host, &format!("ip -4 -brief addr show {bridge}"));
    assert!(own.trim_end().ends_with("10.55.0.1/24"), "{own}");
    site.finish();
}

#[test]
fn static_addresses_are_had_and_leased_ones_avoid_them() {
    let site = Segment::new(false);
    let networks = json!({ "small": { "subnets": ["10.66.0.0/29", "fd66::/64"] } });
    let at = |own: Value| json!({ "networks": { "small": own } });
    let mut pods = vec![("fixed", at(json!({ "addresses": ["10.66.0.4"] })))];
    pods.extend(["a", "b", "c", "d"].map(|pod| (pod, at(json!({})))));
    switch(&site.host, &networks, &pods);
    let own = site.addresses("fixed")["eth0"].clone();
    assert_eq!(own[0], "10.66.0.4");
    assert!(own[1].starts_with("fd66::"));
    let others: BTreeSet<String> = ["a", "b", "c", "d"]
        .map(|pod| site.addresses(pod)["eth0"][0].clone())
        .into();
    let left = ["10.66.0.2", "10.66.0.3", "10.66.0.5", "10.66.0.6"];
    assert_eq!(others, left.map(str::to_owned).into());
    // One more has no room; nothing was changed.
    let mut more = pods.clone();
    more.push(("e", at(json!({}))));
    let refused = try_switch(&site.host, &networks, &more);
    let why = "there are more pods on the network `small` than fit";
    assert!(refused.to_string().contains(why), "{refused}");
    assert!(settled(&site.host));
    site.finish();
}

#[test]
fn a_subnet_of_somebody_else_is_refused_before_anything_changes() {
    let site = Segment::new(false);
    sh(&site.host, "ip route add 10.44.0.0/16 via 192.0.2.2");
    let before = links(&site.host);
    let pods = [("web", json!({ "networks": { "net": {} } }))];
    for (subnet, whose) in [
        (
            "192.0.2.128/25",
            "192.0.2.0/24, which is reached by this host's link `up0`",
        ),
        (
            "10.44.7.0/24",
            "10.44.0.0/16, which is reached by this host's link `up0`",
        ),
        (
            "2001:db8::/48",
            "2001:db8::/64, which is reached by this host's link `up0`",
        ),
        ("10.90.9.0/24", "10.90.0.0/16 of the default network"),
    ] {
        let networks = json!({ "net": { "subnets": [subnet] } });
        let refused = try_switch(&site.host, &networks, &pods);
        let problem = refused["parameters"]["problems"][0]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        let expected =
            format!("networks.net.subnets: {subnet} overlaps {whose}; declare another one");
        assert_eq!(problem, expected, "{refused}");
    }
    assert_eq!(links(&site.host), before);
    assert_eq!(site.host.pod("web"), Value::Null);
    site.finish();
}

#[test]
fn whatever_somebody_changes_of_a_network_is_put_back() {
    let site = Segment::new(false);
    let (networks, pods) = pods();
    switch(&site.host, &networks, &pods);
    let there = bridges(&site.host);
    let (back, front) = (&there["back"], &there["front"]);
    let pid = site.host.pid("api", "app");
    let inside = |script: &str| format!("nsenter --target={pid} --net {script}");
    let [v4, v6] = site.addresses("api")["eth1"].clone();
    let gateway = first_of(&v4);
    let picture = || {
        let all = [
            "ip -brief addr show type bridge | sort".to_owned(),
            "ip -d link show type bridge_slave | grep -o 'master [^ ]*\\|group [^ ]*\\|hairpin o[nf]*' | sort".to_owned(),
            format!("nsenter --target={pid} --net ip -brief addr | sed 's/@[^ ]*//' | tr -s ' ' | sort"),
            format!("nsenter --target={pid} --net ip route show default"),
            format!("nsenter --target={pid} --net ip -6 route show default | cut -d' ' -f1-5"),
            format!("cat /proc/sys/net/ipv4/conf/{front}/route_localnet || true"),
            "nft list table inet tank; nft list table bridge tank".to_owned(),
        ];
        all.map(|script| sh(&site.host, &script)).to_vec()
    };
    let before = picture();
    for script in [
        format!("ip link set {back} down"),
        format!("ip link del {back}"),
        format!("ip addr flush dev {front} scope global"),
        // Nobody is notified of a setting: it is put back with the next thing.
        format!(
            "echo 0 > /proc/sys/net/ipv4/conf/{front}/route_localnet; ip addr add 10.33.0.1/24 dev {front}"
        ),
        format!(
            "ip link set $(ip -brief link show master {back} | head -1 | cut -d@ -f1) nomaster"
        ),
        format!("ip link set $(ip -brief link show master {back} | head -1 | cut -d@ -f1) group 0"),
        // To another network.
        format!(
            "ip link set $(ip -brief link show master {back} | head -1 | cut -d@ -f1) master {front}"
        ),
        inside("ip link set eth1 down"),
        inside(&format!("ip addr del {v4}/24 dev eth1")),
        inside("ip addr add 10.33.0.2/24 dev eth0"),
        inside(&format!("ip -6 addr del {v6}/64 dev eth1")),
        inside(&format!("ip route del default via {gateway}")),
        inside(&format!(
            "ip route replace default via {}",
            first_of(&site.addresses("api")["eth0"][0])
        )),
        inside("ip link set eth0 address 02:00:00:00:00:07"),
        "nft delete element inet tank internal '{ \"".to_owned() + back + "\" }'",
        "nft flush chain inet tank isolation".to_owned(),
        "ip link add tank-012345678 address 02:74:6b:00:00:99 type bridge".to_owned(),
    ] {
        sh(&site.host, &script);
        let deadline = Instant::now() + Duration::from_secs(30);
        while !settled(&site.host) || picture() != before {
            assert!(
                Instant::now() < deadline,
                "{script}: {:#?} {:#?}",
                before,
                picture()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    site.finish();
}

/// What the host has for something else is no pod's, whatever table says so.
#[test]
fn subnets_that_routes_are_about_are_refused() {
    let site = Segment::new(false);
    sh(
        &site.host,
        "ip route add 10.50.0.0/16 dev up0 table 77 && ip route add blackhole 10.51.0.0/16 &&
         ip -6 route add unreachable fd51::/64",
    );
    let on = |subnet: &str| {
        let networks = json!({ "back": { "subnets": [subnet] } });
        let answer = try_switch(
            &site.host,
            &networks,
            &[("a", json!({ "networks": { "back": {} } }))],
        );
        answer.to_string()
    };
    for (subnet, why) in [
        (
            "10.50.7.0/24",
            "overlaps 10.50.0.0/16, to which this host's routing table 77 leads",
        ),
        (
            "10.51.7.0/24",
            "overlaps 10.51.0.0/16, which this host has a `blackhole` route for",
        ),
        (
            "fd51::/64",
            "overlaps fd51::/64, which this host has an `unreachable` route for",
        ),
    ] {
        let answer = on(subnet);
        assert!(answer.contains(why), "{answer}");
    }
    // So is the default network's, before there is a pod on it.
    sh(&site.host, "ip route add blackhole 10.90.3.0/24");
    let answer = try_switch(&site.host, &json!({}), &[("a", json!({}))]).to_string();
    assert!(
        answer.contains("10.90.0.0/16 of the default network overlaps 10.90.3.0/24"),
        "{answer}"
    );
    sh(&site.host, "ip route del blackhole 10.90.3.0/24");
    switch(&site.host, &json!({}), &[("a", json!({}))]);
    sh(&site.host, "ip route add blackhole 10.90.3.0/24");
    switch(
        &site.host,
        &json!({}),
        &[("a", json!({})), ("b", json!({}))],
    );
    sh(
        &site.host,
        "ip route del blackhole 10.90.3.0/24; ip route del blackhole 10.51.0.0/16; ip -6 route del unreachable fd51::/64",
    );
    site.finish();
}

/// The settings may call the default network's bridge otherwise while pods run: they move, and nothing is
/// left of the other one.
#[test]
fn a_bridge_that_is_called_otherwise_leaves_none_behind() {
    let mut site = Segment::new(false);
    switch(
        &site.host,
        &json!({}),
        &[("a", json!({})), ("b", json!({}))],
    );
    let settings = site.host.dir.join("tank.toml");
    let before = std::fs::read_to_string(&settings).expect("settings");
    let (first, own) = (site.host.pid("a", "app"), site.addresses("a"));
    // What is somebody else's stays, whatever it is called, and whatever hardware address it has.
    sh(
        &site.host,
        "ip link add tank9 type bridge && ip link add br7 address 02:74:6b:ff:00:01 type bridge",
    );
    site.host.kill_daemon();
    std::fs::write(&settings, format!("{before}bridge = \"pods0\"\n")).expect("settings");
    site.host.start_daemon();
    eventually("nothing is left to do", || settled(&site.host));
    let names = sh(
        &site.host,
        "ip -j link show type bridge | grep -o '\"ifname\":\"[a-z0-9]*\"'",
    );
    assert_eq!(
        names,
        "\"ifname\":\"tank9\"\n\"ifname\":\"br7\"\n\"ifname\":\"pods0\"\n"
    );
    assert_eq!(
        (site.host.pid("a", "app"), site.addresses("a")),
        (first, own)
    );
    let b = site.addresses("b")["eth0"][0].clone();
    site.serve(From::Pod("b"), OPEN);
    let own = site.addresses("a")["eth0"][0].clone();
    eventually("a reaches b", || {
        site.ask(From::Pod("a"), &[format!("tcp {b} {OPEN}")]) == [own.clone()]
    });
    let rules = sh(&site.host, "nft list ruleset");
    assert!(!rules.contains("tank0"), "{rules}");
    sh(&site.host, "ip link del tank9; ip link del br7");
    site.finish();
}

/// An address that somebody chose goes from one pod to another when the first is gone.
#[test]
fn a_chosen_address_is_the_next_pods_when_the_first_is_gone() {
    let site = Segment::new(false);
    let networks = json!({ "back": { "subnets": ["10.92.0.0/24", "fd92::/64"] } });
    let on = |v4: &str| {
        let v6 = v4.replace("10.92.0.", "fd92::");
        json!({ "networks": { "back": { "addresses": [v4, v6] } } })
    };
    let near = || ("near", json!({ "networks": { "back": {} } }));
    switch(&site.host, &networks, &[("a", on("10.92.0.50")), near()]);
    // Whoever knows where it is would go on knowing that for an hour, unless he learns otherwise.
    let bridge = bridges(&site.host)["back"].clone();
    let known = |from: From, link: &str| -> BTreeSet<String> {
        let script = format!(
            "for family in ipv4 ipv6; do echo 3600000 > /proc/sys/net/$family/neigh/{link}/base_reachable_time_ms; done
             for address in 10.92.0.50 fd92::50; do
                ip -j neigh show $address dev {link} | grep -q lladdr || echo > /dev/udp/$address/9
                ip -j neigh show $address dev {link} | grep -o '\"lladdr\":\"[0-9a-f:]*'
             done"
        );
        let mut command = site.inside(from, "bash");
        let output = command.args(["-c", &script]).output().expect("bash");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let two = text.lines().map(|line| line.replace("\"lladdr\":\"", ""));
        two.collect()
    };
    let all_know = |pod: &'static str| {
        let own: BTreeSet<String> = [attacks::mac(&site, pod, "eth0")].into();
        eventually("everybody knows where it is", || {
            known(From::Host, &bridge) == own && known(From::Pod("near"), "eth0") == own
        });
    };
    all_know("a");
    switch(&site.host, &networks, &[("b", on("10.92.0.50")), near()]);
    all_know("b");
    let events = site.host.tank(&["--json", "events"]).ok();
    let place = |text: &str| {
        let found = events.lines().position(|line| line.contains(text));
        found.unwrap_or_else(|| panic!("no {text}: {events}"))
    };
    assert!(place("remove pod a") < place("connect pod b"), "{events}");
    assert!(
        events.contains("10.92.0.50 and fd92::50 are of a until that is gone"),
        "{events}"
    );
    // Both at once, each with the other's.
    let both =
        |a: &str, b: &str| switch(&site.host, &networks, &[("b", on(a)), ("c", on(b)), near()]);
    both("10.92.0.50", "10.92.0.51");
    both("10.92.0.51", "10.92.0.50");
    all_know("c");
    assert_eq!(site.addresses("c")["eth0"][0], "10.92.0.50");
    assert!(settled(&site.host));
    site.finish();
}

/// Whoever joins a network of another stack takes no address there that a pod has, declared or not.
#[test]
fn an_address_that_another_stacks_pod_was_leased_is_nobody_elses() {
    let host = Host::new();
    let pod = |name: &str, more: &str| {
        format!(
            "pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, {more} }},"
        )
    };
    let owner = pod("x", "networks.n = {},");
    host.write(
        "owner.ncl",
        &format!("{{ stack = \"owner\", networks.n.subnets = [\"10.91.90.0/24\"], {owner} }}"),
    );
    host.tank(&["switch", "owner.ncl"]).ok();
    let has = host.pod("owner:x")["addresses"][0].clone();
    let has = has.as_str().expect("an address");
    let runs = host.traces();
    let joins = |own: &str| {
        let joined = format!("networks.\"owner:n\".addresses = [\"{own}\"],");
        format!("{{ stack = \"other\", {} }}", pod("t", &joined))
    };
    host.write("other.ncl", &joins(has));
    let refused = host.tank(&["switch", "other.ncl"]);
    let why = format!(
        "pods.other:t.networks.owner:n.addresses: {has} is leased to `owner:x` of another stack; choose another one"
    );
    assert!(
        refused.status == 1 && words(&refused.stderr).contains(&why),
        "{refused:?}"
    );
    assert_eq!(host.traces(), runs);
    assert_eq!(host.pod("owner:x")["addresses"][0], has);
    // One that nobody has is had.
    let free = match has {
        "10.91.90.9" => "10.91.90.10",
        _ => "10.91.90.9",
    };
    host.write("other.ncl", &joins(free));
    host.tank(&["switch", "other.ncl"]).ok();
    assert_eq!(host.pod("other:t")["addresses"][0], free);
    // Its own stack may: the lease becomes another one.
    let own = format!("networks.n.addresses = [\"{has}\"],");
    let static_one = pod("y", &own);
    host.write(
        "owner.ncl",
        &format!(
            "{{ stack = \"owner\", networks.n.subnets = [\"10.91.90.0/24\"], {owner} {static_one} }}"
        ),
    );
    host.tank(&["switch", "owner.ncl"]).ok();
    assert_eq!(host.pod("owner:y")["addresses"][0], has);
    assert_ne!(host.pod("owner:x")["addresses"][0], has);
    host.finish();
}
