//! Addresses and host links of pods that are on their way out.

use super::*;

/// As [`macvlan`], with a main process that says so when it is asked to end, goes on, and serves pages of
/// port 80 meanwhile.
fn lingering(name: &str, own: [&str; 2]) -> String {
    let script =
        "trap 'echo asked to end' TERM USR1; httpd -p 80 -h /; while true; do sleep 0.1; done";
    format!(
        "pods.{name} = {{
            containers.app = {{ image = \"oci:./busybox\", stop.timeout = \"8s\", command = [\"/bin/sh\", \"-c\", \"{script}\"] }},
            network.nics.eth0 = {{ mode = 'macvlan, address = \"{}/24\", addresses.six = \"{}/64\" }},
        }},",
        own[0], own[1]
    )
}

/// Which hardware addresses answer the neighbour's ARP for an address.
fn owners(lan: &Lan, address: &str) -> Vec<String> {
    let found = python(lan.neighbour(), &["who_has", "eth0", NEIGHBOUR[0], address]);
    found.split_whitespace().map(str::to_owned).collect()
}

/// Begins a switch, and returns when the pod `a` was asked to end.
fn begin(host: &Host, config: &str) -> Child {
    host.write("pods.ncl", config);
    let before = log(host);
    let mut switch = host.command(&["switch", "pods.ncl"]);
    let switch = switch.stdout(Stdio::null()).spawn().expect("tank");
    eventually("it is asked to end", || log(host) > before);
    switch
}

/// How often the pod `a` was asked to end. Nobody declares it by then, and its log is asked of nobody.
fn log(host: &Host) -> usize {
    let dir = host.dir.join("state/logs/a");
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let texts = files.filter_map(|file| fs::read(file.path()).ok());
    let count = |text: Vec<u8>| {
        String::from_utf8_lossy(&text)
            .matches("asked to end")
            .count()
    };
    texts.map(count).sum()
}

/// Where in the events of the host one is with this text, the last of them.
fn place(host: &Host, text: &str) -> usize {
    let events = host.tank(&["--json", "events"]).ok();
    let place = events.lines().collect::<Vec<_>>();
    let place = place.iter().rposition(|line| line.contains(text));
    place.unwrap_or_else(|| panic!("no {text}: {events}"))
}

#[test]
fn an_address_is_the_next_pods_when_the_first_is_gone() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    host.switch(&format!("{{ {} }}", lingering("a", A)));
    let (first, _) = interface(pid(&host, "a"), "eth0");
    // The neighbour would go on knowing the first one for an hour.
    let known = |address: &str| {
        let script = format!(
            "for family in ipv4 ipv6; do echo 3600000 > /proc/sys/net/$family/neigh/eth0/base_reachable_time_ms; done
             ip -j neigh show {address} dev eth0 | grep -q lladdr || echo > /dev/udp/{address}/9
             ip -j neigh show {address} dev eth0"
        );
        let mut command = in_network(lan.neighbour(), "bash");
        command.args(["-c", &script]);
        run(command)
    };
    let all_know = |mac: &str| A.iter().all(|address| known(address).contains(mac));
    eventually("the neighbour knows it", || all_know(&first));
    let config = format!("{{ {} }}", macvlan("b", A));
    host.write("next.ncl", &config);
    let plan = host.tank(&["diff", "next.ncl"]).ok();
    let why = "10.77.0.11 and fd77::11 are of a until that is gone";
    assert!(plan.contains(why), "{plan}");
    let mut switch = begin(&host, &config);
    // While it has not ended it is the only one.
    assert_eq!(owners(&lan, A[0]), [first.as_str()]);
    while switch.try_wait().expect("tank").is_none() {
        assert!(owners(&lan, A[0]).len() < 2, "two answer");
    }
    assert!(switch.wait().expect("tank").success());
    let (second, own) = interface(pid(&host, "b"), "eth0");
    assert_eq!(own, ["10.77.0.11/24", "fd77::11/64"]);
    assert!(first != second && owners(&lan, A[0]) == [second.as_str()]);
    eventually("the neighbour knows the other", || all_know(&second));
    assert!(place(&host, "remove pod a") < place(&host, "connect eth0 of pod b"));
    finish(host, lan);
}

#[test]
fn two_pods_exchange_their_addresses() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    let both = |a, b| format!("{{ {} {} }}", macvlan("a", a), macvlan("b", b));
    host.switch(&both(A, B));
    host.switch(&both(B, A));
    let own = |pod| interface(pid(&host, pod), "eth0").1;
    assert_eq!(own("a"), ["10.77.0.12/24", "fd77::12/64"]);
    assert_eq!(own("b"), ["10.77.0.11/24", "fd77::11/64"]);
    for (removed, connected) in [("a", "b"), ("b", "a")] {
        let connected = place(&host, &format!("connect eth0 of pod {connected}"));
        assert!(place(&host, &format!("remove pod {removed}")) < connected);
    }
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    finish(host, lan);
}

/// The host reaches a pod for as long as that is there, and the rules judge what comes from it until then.
#[test]
fn the_hosts_link_stays_until_the_last_pod_is_gone() {
    let (mut host, lan) = host_on_lan();
    host.start_daemon();
    let urls = [
        format!("http://{}/etc/hosts", A[0]),
        format!("http://[{}]/etc/hosts", A[1]),
    ];
    let is_reached = |host: &Host| urls.iter().all(|url| host.get(url).status == 0);
    let links = |host: &Host| {
        on_host(
            host,
            "ip -j route show dev tank-eth0; ip -j -6 route show dev tank-eth0",
        )
    };
    for rest in [macvlan("b", B), String::new(), tank_tests::sleeper("c")] {
        host.switch(&format!("{{ {} {rest} }}", lingering("a", A)));
        eventually("it is reached", || is_reached(&host));
        let switch = begin(&host, &format!("{{ {rest} }}"));
        assert!(is_reached(&host), "{}", links(&host));
        assert!(
            on_host(&host, "nft list table inet tank")
                .contains("nobody but pods comes over a host link")
        );
        let ended = switch.wait_with_output().expect("tank");
        assert!(ended.status.success(), "{ended:?}");
        let is_left = rest.contains("pods.b");
        let text = on_host(&host, "ip -j link show dev tank-eth0 2>/dev/null || true");
        assert_eq!(text.contains("tank-eth0"), is_left);
        if is_left {
            assert!(!links(&host).contains(A[0]) && links(&host).contains(B[0]));
        }
        let rules = on_host(&host, "nft list ruleset");
        assert_eq!(rules.contains("over a host link"), is_left, "{rules}");
        assert!(!rules.contains(A[0]), "{rules}");
        eventually("nothing is left to do", || {
            host.tank(&["diff", "--exit-code"]).status == 0
        });
    }
    finish(host, lan);
}
