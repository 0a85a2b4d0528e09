//! A pod, or a neighbour, that means ill.

use super::{
    Process, SERVER, addresses, ask, asked, finish, host_with_upstreams, name_server, name_servers,
    of_pod, output, python, sh,
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    fs,
    process::{Child, Command, Stdio},
};
use tank_tests::{Host, eventually, sleeper};

#[test]
fn it_can_do_nothing_but_answer() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let server = name_server(&host);
    let status = fs::read_to_string(format!("/proc/{server}/status")).expect("its status");
    let field = |name: &str| {
        let line = status
            .lines()
            .find(|line| line.starts_with(&format!("{name}:")));
        let line = line.unwrap_or_else(|| panic!("{name}: {status}"));
        line.split_whitespace()
            .skip(1)
            .collect::<Vec<_>>()
            .join(" ")
    };
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("Threads"), "1");
    // An id that no pod has, and no user of the host.
    let id = 0x7000_0000u32.to_string();
    assert_eq!(field("Uid"), [id.as_str(); 4].join(" "));
    assert_eq!(field("Gid"), [id.as_str(); 4].join(" "));
    assert_eq!(field("Groups"), "");
    // Its root is empty, and what it has open are sockets and what it waits with.
    let root = fs::read_dir(format!("/proc/{server}/root")).expect("its root");
    assert_eq!(root.count(), 0);
    for entry in fs::read_dir(format!("/proc/{server}/fd")).expect("its descriptors") {
        let link = fs::read_link(entry.expect("one").path()).unwrap_or_default();
        let link = link.display().to_string();
        let kinds = ["socket:", "anon_inode:[event", "/dev/null", "pipe:"];
        let own = link.ends_with("/names.err");
        assert!(
            own || kinds.iter().any(|kind| link.starts_with(kind)),
            "{link}"
        );
    }
    let limits = fs::read_to_string(format!("/proc/{server}/limits")).expect("its limits");
    let processes = limits
        .lines()
        .find(|line| line.starts_with("Max processes"));
    assert!(
        processes.is_some_and(|line| line.split_whitespace().nth(2) == Some("0")),
        "{limits}"
    );
    let socket = fs::metadata(host.dir.join("run/names.sock")).expect("its socket");
    assert_eq!(
        std::os::unix::fs::PermissionsExt::mode(&socket.permissions()) & 0o777,
        0o600
    );
    host.finish();
}

#[test]
fn a_neighbour_is_not_answered() {
    let host = Host::new();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    // It routes to the bridge's address, and the host has an address on its link.
    let neighbour = host
        .inside("unshare")
        .args(["--net", "sleep", "600"])
        .stdin(Stdio::null())
        .spawn()
        .expect("unshare");
    let neighbour = Process(neighbour);
    let pid = neighbour.0.id().to_string();
    // When it sleeps, it is in a network of its own: before, it is still in another.
    eventually("the neighbour is there", || {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm == "sleep\n")
    });
    sh(
        &host,
        &format!(
            "ip link add out0 type veth peer name eth0 netns {pid} && ip addr add 192.0.2.1/24 dev out0 && \
             ip link set out0 up && nsenter --target={pid} --net sh -c 'ip addr add 192.0.2.2/24 dev eth0 && \
             ip link set eth0 up && ip route add 10.90.0.0/16 via 192.0.2.1'"
        ),
    );
    let from = |args: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args([&format!("--target={pid}"), "--net", "--", "python3"]);
        command.arg(super::script()).arg("ask").args(args);
        output(command)
    };
    for options in [&[][..], &["tcp"]] {
        let args = [&[SERVER, "web", "A", "source=192.0.2.2"], options].concat();
        assert_eq!(from(&args), "\"nothing\"", "{options:?}");
    }
    assert_eq!(addresses(&host, "web", "web"), [of_pod(&host, "web").0]);
    drop(neighbour);
    sh(&host, "ip link del out0 2>/dev/null || true");
    host.finish();
}

#[test]
fn who_floods_fills_its_own_lane_and_no_other() {
    let host = Host::new();
    host.switch(&format!(
        "{{ {} {} {} }}",
        sleeper("bad"),
        sleeper("worse"),
        sleeper("quiet")
    ));
    let server = name_server(&host);
    // The lane of a client is settled by its address: those of one lane share what it holds.
    let lane = |pod: &str| -> usize {
        let address: std::net::Ipv4Addr = of_pod(&host, pod).0.parse().expect("an address");
        u32::from(address) as usize % tank_proto::names::LANES
    };
    assert!(lane("quiet") != lane("bad") && lane("quiet") != lane("worse"));
    let quiet = of_pod(&host, "quiet").0;
    // Datagrams as fast as it can; and connections that say a byte and wait.
    let mut flood = python(&host, "bad", &["flood", SERVER, "8"]);
    let flood = Process(flood.stdout(Stdio::null()).spawn().expect("python3"));
    let mut slow = python(&host, "worse", &["slow", SERVER, "600", "20"]);
    let slow = Process(slow.stdout(Stdio::null()).spawn().expect("python3"));
    // A resolver asks again where an answer is late.
    for round in 0..10 {
        let options = if round % 2 == 0 { &[][..] } else { &["tcp"] };
        let args = [&[SERVER, "quiet", "A", "tries=3"], options].concat();
        let answer = ask(&host, "quiet", &args);
        assert_eq!(answer["answers"], json!([quiet]), "{round}: {answer}");
    }
    drop((flood, slow));
    assert_eq!(name_server(&host), server, "it did not live through it");
    host.finish();
}

/// Who owns a domain says what is answered about it: as much as a message carries, and in names that
/// are short where they are sent and long where they are read.
#[test]
fn answers_that_grow_where_they_are_read_cost_what_they_take() {
    let (host, upstreams) = host_with_upstreams();
    host.switch(&format!("{{ {} {} }}", sleeper("bad"), sleeper("quiet")));
    let server = name_server(&host);
    let quiet = of_pod(&host, "quiet").0;
    for name in ["heavy.example.org", "other.heavy.example.org"] {
        assert_eq!(
            output(python(&host, "bad", &["each", SERVER, "150", name])),
            "150"
        );
    }
    assert_eq!(addresses(&host, "quiet", "quiet"), [quiet]);
    assert_eq!(name_server(&host), server, "it did not live through it");
    let status = fs::read_to_string(format!("/proc/{server}/status")).expect("it runs");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|peak| {
        peak.trim()
            .trim_end_matches(" kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    assert!(peak.is_some_and(|kib| kib < 64 << 10), "{peak:?} KiB");
    finish(host, upstreams);
}

/// Servers of the host itself, on all of its addresses.
fn servers_of_the_host(host: &Host) -> [Process; 2] {
    [("0.0.0.0", "4"), ("::", "6")].map(|(address, number)| {
        let log = host.dir.join(format!("asked.{number}"));
        let _ = fs::remove_file(&log);
        let name = log.display().to_string();
        let mut command = python(host, "", &["serve", address, &name, number]);
        let server = Process(command.spawn().expect("a server"));
        eventually("the server is there", || {
            fs::read(&log).is_ok_and(|log| !log.is_empty())
        });
        server
    })
}

/// A query to a server of the host is a message to whoever serves the name: pods that reach nobody outside
/// reach no such server, while there is no name server and while there is one no more.
#[test]
fn no_server_of_the_host_stands_in_for_the_name_server() {
    let host = Host::new();
    let servers = servers_of_the_host(&host);
    host.switch(&format!(
        "{{ networks.back.internal = true, {} {} {} {}
            pods.inner.networks.back = {{}}, pods.other.networks.back = {{}}, pods.mute.egress = 'none }}",
        sleeper("inner"),
        sleeper("other"),
        sleeper("mute"),
        sleeper("plain")
    ));
    // Who they are and whom they ask: the daemon will not be there to say so.
    let resolver = |pod: &str| {
        let text = host.exec(pod, "cat /etc/resolv.conf");
        let servers = text
            .lines()
            .filter_map(|line| line.strip_prefix("nameserver "));
        let servers: Vec<String> = servers.take(2).map(str::to_owned).collect();
        (format!("--target={}", host.pid(pod, "app")), servers)
    };
    let resolvers = ["inner", "mute", "plain"].map(|pod| (pod, resolver(pod)));
    let resolvers = BTreeMap::from(resolvers);
    // Of both families and protocols.
    let ask = |pod: &str, name: &str| -> Vec<Value> {
        let (target, servers) = &resolvers[pod];
        assert_eq!(servers.len(), 2, "{servers:?}");
        let ways = servers
            .iter()
            .flat_map(|server| [(server, "tcp"), (server, "udp")]);
        let asked: Vec<Child> = ways
            .map(|(server, protocol)| {
                let mut command = Command::new("nsenter");
                command
                    .args([target, "--net", "--", "python3"])
                    .arg(super::script());
                // With a source a query waits two seconds, and not eight.
                let any = ["source=0.0.0.0", "source=::"][usize::from(server.contains(':'))];
                command.args(["ask", server, name, "A", any, protocol]);
                command.stdout(Stdio::piped()).spawn().expect("python3")
            })
            .collect();
        let answer = |asked: Child| asked.wait_with_output().expect("it ends").stdout;
        let answers = asked.into_iter().map(answer);
        answers
            .map(|text| serde_json::from_slice(&text).expect("JSON"))
            .collect()
    };
    let kept = |host: &Host, state: &str| {
        for pod in ["inner", "mute"] {
            let name = format!("secret-of-{pod}.example.org");
            assert_eq!(ask(pod, &name), ["nothing"; 4], "{state}: {pod}");
        }
        let asked = asked(host, 4) + &asked(host, 6);
        assert!(!asked.contains("secret"), "{state}: {asked}");
    };
    let of = |pod: &str| json!([of_pod(&host, pod).0]);
    let answers = [
        ("inner", "other", of("other")),
        ("mute", "plain", of("plain")),
        ("plain", "plain", of("plain")),
    ];
    let named = |state: &str| {
        for (pod, name, of) in &answers {
            eventually(&format!("{state}: {pod} is answered"), || {
                ask(pod, name).iter().all(|answer| answer["answers"] == *of)
            });
        }
    };
    let served = |state: &str| {
        eventually(&format!("{state}: the host's servers answer"), || {
            let answers = ask("plain", "plain.example.org").into_iter();
            let mut from = answers.map(|answer| answer["answers"][0].clone());
            from.all(|from| from == "198.51.100.4" || from == "198.51.100.6")
        });
    };
    // The host's servers have the port, and pods that may reach the host reach them.
    kept(&host, "the port is taken");
    served("the port is taken");
    drop(servers);
    // What keeps failing is tried again at once by a switch.
    host.tank(&["switch", "pods.ncl"]).ok();
    named("the port is free");
    // Without a name server, and without whoever would start another one, the port is anybody's.
    let server = name_server(&host);
    let mut host = host;
    host.kill_daemon();
    sh(&host, &format!("kill -9 {server}"));
    eventually("the name server is gone", || name_servers(&host).is_empty());
    kept(&host, "there is no server");
    let servers = servers_of_the_host(&host);
    kept(&host, "the name server is gone");
    served("the name server is gone");
    drop(servers);
    host.start_daemon();
    named("it is back");
    host.finish();
}
