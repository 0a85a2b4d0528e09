//! Pods that find each other by name, whoever dies meanwhile and whoever is in the way.

#[path = "names/attacks.rs"]
mod attacks;
#[path = "names/outlives.rs"]
mod outlives;
#[path = "names/stacks.rs"]
mod stacks;

use serde_json::{Value, json};
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
};
use tank_tests::{Host, RUN, eventually, repo, sleeper};

/// The bridge's own addresses.
const SERVER: &str = "10.90.0.1";
const SERVER_V6: &str = "fd74:616e:6b00::1";

/// Where a test's own servers are.
const UPSTREAM: &str = "192.0.2.53";
const UPSTREAM_2: &str = "192.0.2.54";

/// A process that is ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn script() -> PathBuf {
    repo().join("tests/tests/names/dns.py")
}

/// The script in the network of a pod. Empty: of the host.
fn python(host: &Host, pod: &str, args: &[&str]) -> Command {
    let mut command = if pod.is_empty() {
        host.inside("python3")
    } else {
        let mut command = Command::new("nsenter");
        let target = format!("--target={}", host.pid(pod, "app"));
        command.args([&target, "--net", "--", "python3"]);
        command
    };
    command.arg(script()).args(args).stdin(Stdio::null());
    command
}

fn output(mut command: Command) -> String {
    let output = command.output().expect("python3");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(
        output.status.success(),
        "{text} {}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// What a pod is answered.
fn ask(host: &Host, pod: &str, args: &[&str]) -> Value {
    let text = output(python(host, pod, &[&["ask"], args].concat()));
    serde_json::from_str(&text).expect("JSON")
}

/// The addresses that a pod is answered, in order; none where there is no answer.
fn addresses(host: &Host, pod: &str, name: &str) -> Vec<String> {
    let answer = ask(host, pod, &[SERVER, name, "A"]);
    let answers = answer["answers"].as_array().into_iter().flatten();
    let text = |address: &Value| address.as_str().expect("a text").to_owned();
    answers.map(text).collect()
}

/// The addresses of a pod: IPv4, then IPv6.
fn of_pod(host: &Host, pod: &str) -> (String, String) {
    let view = host.pod(pod);
    let addresses: Vec<&str> = view["addresses"]
        .as_array()
        .expect("addresses")
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let of = |v6: bool| addresses.iter().find(|one| one.contains(':') == v6);
    let text = |address: Option<&&str>| (*address.expect("of each family")).to_owned();
    (text(of(false)), text(of(true)))
}

/// A host with servers of its own, which its resolver file names.
fn host_with_upstreams() -> (Host, [Process; 2]) {
    let mut host = Host::without_daemon();
    host.write(
        "resolv.conf",
        &format!("nameserver {UPSTREAM}\nsearch lan\n"),
    );
    sh(
        &host,
        &format!(
            "mount --bind {0}/resolv.conf /etc/resolv.conf && 
             ip addr add {UPSTREAM}/32 dev lo && ip addr add {UPSTREAM_2}/32 dev lo",
            host.dir.display()
        ),
    );
    let upstreams = [(UPSTREAM, "53"), (UPSTREAM_2, "54")].map(|(address, number)| {
        let log = host.dir.join(format!("asked.{number}"));
        let log_name = log.display().to_string();
        let mut command = python(&host, "", &["serve", address, &log_name, number]);
        let server = Process(command.spawn().expect("a server"));
        eventually("the server is there", || {
            log.exists() && fs::read(&log).is_ok_and(|log| !log.is_empty())
        });
        server
    });
    host.start_daemon();
    (host, upstreams)
}

/// Takes what [`host_with_upstreams`] made away again.
fn finish(host: Host, upstreams: [Process; 2]) {
    drop(upstreams);
    sh(&host, "umount /etc/resolv.conf");
    host.finish();
}

/// What one of the servers was asked.
fn asked(host: &Host, number: u8) -> String {
    fs::read_to_string(host.dir.join(format!("asked.{number}"))).unwrap_or_default()
}

fn sh(host: &Host, script: &str) {
    let status = host.inside("sh").args(["-c", script]).status();
    assert!(status.expect("sh").success(), "{script}");
}

/// The pids of the name server's processes, with their cgroups.
fn name_servers(host: &Host) -> Vec<u32> {
    let groups = host.cgroups().into_iter();
    let groups = groups.filter(|group| group.to_string_lossy().contains("/_names/"));
    let mut pids: Vec<u32> = groups
        .flat_map(|group| {
            let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
            text.lines()
                .filter_map(|pid| pid.parse().ok())
                .collect::<Vec<u32>>()
        })
        .collect();
    pids.sort_unstable();
    pids.dedup();
    pids
}

fn name_server(host: &Host) -> u32 {
    match name_servers(host)[..] {
        [pid] => pid,
        ref others => panic!("{others:?}"),
    }
}

/// A pod that serves a page which says its name.
fn page(pod: &str, more: &str) -> String {
    format!(
        "pods.{pod} = {{ containers.app = {{ image = \"oci:./busybox\", stop.signal = \"SIGKILL\",
             command = [\"/bin/httpd\", \"-f\", \"-p\", \"80\", \"-h\", \"/www\"],
             files.\"/www/index.html\".text = \"this is {pod}\" }}, {more} }},"
    )
}

#[test]
fn pods_find_each_other_by_name() {
    let host = Host::new();
    host.switch(&format!(
        "{{ {} {} }}",
        page(
            "db",
            "hostname = \"front.example\", aliases = { database = {}, \"db.example.org\" = {} }"
        ),
        sleeper("web")
    ));
    let names = [
        "db",
        "db.tank.internal",
        "front.example",
        "database",
        "db.example.org",
        "DB",
    ];
    for name in names {
        assert_eq!(
            host.exec("web", &format!("wget -qO- http://{name}/")),
            "this is db",
            "{name}"
        );
    }
    let ((db, db_v6), (web, _)) = (of_pod(&host, "db"), of_pod(&host, "web"));
    for server in [SERVER, SERVER_V6] {
        for options in [&[][..], &["tcp"], &["edns=1232"], &["tcp", "edns=4096"]] {
            let ask = |name, kind| ask(&host, "web", &[&[server, name, kind], options].concat());
            let v4 = ask("db.tank.internal", "A");
            assert_eq!(v4["answers"], json!([db]), "{server} {options:?}");
            assert_eq!(
                (&v4["authoritative"], &v4["ttl"]),
                (&json!(true), &json!(5))
            );
            assert_eq!(
                v4["edns"],
                json!(options.iter().any(|option| option.starts_with("edns")))
            );
            assert_eq!(ask("db", "AAAA")["answers"], json!([db_v6]));
            let nothing = ask("nobody.tank.internal", "A");
            assert_eq!(
                (&nothing["code"], &nothing["soa"]),
                (&json!(3), &json!(true))
            );
            let other = ask("db", "TXT");
            assert_eq!(
                (&other["code"], &other["answers"], &other["soa"]),
                (&json!(0), &json!([]), &json!(true))
            );
            assert_eq!(ask("db", "ANY")["code"], 5);
            assert_eq!(ask("db", "AXFR")["code"], 5);
        }
    }
    let reverse = |address: &str| {
        let mut parts: Vec<&str> = address.split('.').collect();
        parts.reverse();
        ask(
            &host,
            "db",
            &[SERVER, &format!("{}.in-addr.arpa", parts.join(".")), "PTR"],
        )
    };
    assert_eq!(reverse(&web)["answers"], json!(["web.tank.internal"]));
    assert_eq!(reverse("10.90.77.77")["code"], 3);
    // The host itself may ask, too.
    assert_eq!(addresses(&host, "", "db"), [db]);
    assert_eq!(
        host.exec("web", "cat /etc/resolv.conf | head -3"),
        format!("nameserver {SERVER}\nnameserver {SERVER_V6}\nsearch tank.internal")
            + &host_search()
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.finish();
}

/// The search domains of the machine that the test runs on, which its hosts share.
fn host_search() -> String {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("search "));
    lines
        .next_back()
        .map(|domains| format!(" {}", domains.trim()))
        .unwrap_or_default()
}

#[test]
fn a_name_of_several_leads_to_those_that_are_ready_in_turn() {
    let host = Host::new();
    let replica = |pod: &str| {
        format!(
            "pods.{pod} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN},
                 readiness = {{ exec = [\"/bin/test\", \"!\", \"-e\", \"/off\"], period = \"100ms\" }} }},
                 aliases.api = {{}} }},"
        )
    };
    let config = format!(
        "{{ {} {} {} }}",
        replica("one"),
        replica("two"),
        sleeper("web")
    );
    host.switch(&config);
    let (one, two) = (of_pod(&host, "one").0, of_pod(&host, "two").0);
    eventually("both are answered", || {
        addresses(&host, "web", "api").len() == 2
    });
    let turns: Vec<String> = (0..4)
        .map(|_| addresses(&host, "web", "api").remove(0))
        .collect();
    assert_eq!((&turns[0], &turns[1]), (&turns[2], &turns[3]));
    assert_ne!(turns[0], turns[1]);
    host.exec("two", "touch /off");
    eventually("the one that is not ready is left out", || {
        addresses(&host, "web", "api") == [one.clone()]
    });
    // Its own name is its own, ready or not.
    assert_eq!(addresses(&host, "web", "two"), std::slice::from_ref(&two));
    host.exec("one", "touch /off");
    eventually("nobody is ready", || {
        addresses(&host, "web", "api").is_empty()
    });
    assert_eq!(
        ask(&host, "web", &[SERVER, "api", "A"])["code"],
        0,
        "the name is known"
    );
    host.exec("two", "rm /off");
    eventually("it is back", || {
        addresses(&host, "web", "api") == [two.clone()]
    });
    host.finish();
}

#[test]
fn names_change_in_place() {
    let host = Host::new();
    let config = |more: &str| {
        format!(
            "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, {more} }} }}"
        )
    };
    host.switch(&config(""));
    let (pid, server) = (host.pid("web", "app"), name_server(&host));
    let more = "aliases.site = {}, extra_hosts = { build = \"10.0.0.7\", host = \"host-gateway\" },
                dns = { search.a = \"example.org\", options.ndots = \"2\" }";
    host.write("more.ncl", &config(more));
    let diff = host.tank(&["diff", "more.ncl"]).ok();
    assert!(diff.contains("answer names: site, web"), "{diff}");
    assert!(
        diff.contains("dns.options.ndots") && diff.contains("extra_hosts.build"),
        "{diff}"
    );
    host.tank(&["switch", "more.ncl"]).ok();
    assert_eq!(host.pid("web", "app"), pid, "the container was disturbed");
    assert_eq!(name_server(&host), server);
    assert_eq!(addresses(&host, "web", "site"), [of_pod(&host, "web").0]);
    let hosts = host.exec("web", "cat /etc/hosts");
    assert!(
        hosts.contains("10.0.0.7\tbuild") && hosts.contains(&format!("{SERVER}\thost\n")),
        "{hosts}"
    );
    let resolver = host.exec("web", "cat /etc/resolv.conf");
    assert!(
        resolver.contains("search tank.internal example.org\noptions ndots:2"),
        "{resolver}"
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.switch(&config(""));
    assert_eq!(
        ask(&host, "web", &[SERVER, "site.tank.internal", "A"])["code"],
        3
    );
    assert_eq!(host.pid("web", "app"), pid);
    host.finish();
}

#[test]
fn other_names_are_asked_of_the_hosts_servers() {
    let (host, upstreams) = host_with_upstreams();
    let own = format!(
        "pods.own = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, dns.servers.mine = \"{UPSTREAM_2}\" }},"
    );
    host.switch(&format!("{{ {} {own} }}", sleeper("web")));
    let answer = |pod: &str, name: &str| ask(&host, pod, &[SERVER, name, "A"])["answers"].clone();
    assert_eq!(answer("web", "www.example.org"), json!(["198.51.100.53"]));
    assert_eq!(
        answer("own", "www.example.org"),
        json!(["198.51.100.54"]),
        "its own server, and not the cache of others"
    );
    let names_of_pods = asked(&host, 53) + &asked(&host, 54);
    assert!(!names_of_pods.contains("tank.internal"), "{names_of_pods}");
    // What was answered holds for a while, in any case and over either way.
    let before = asked(&host, 53).lines().count();
    assert_eq!(answer("web", "WWW.example.org"), json!(["198.51.100.53"]));
    assert_eq!(
        ask(&host, "web", &[SERVER_V6, "www.example.org", "A", "tcp"])["answers"],
        json!(["198.51.100.53"])
    );
    assert_eq!(asked(&host, 53).lines().count(), before);
    // What does not fit is fetched over TCP, and handed on that way.
    let short = ask(&host, "web", &[SERVER, "big.example.org", "A"]);
    assert_eq!(
        (&short["truncated"], &short["answers"]),
        (&json!(true), &json!([]))
    );
    let whole = ask(&host, "web", &[SERVER, "big.example.org", "A", "tcp"]);
    assert_eq!(whole["answers"].as_array().map(Vec::len), Some(100));
    assert!(asked(&host, 53).contains("tcp big.example.org"));
    // A server that lies: another number, another question, noise; then the truth.
    assert_eq!(answer("web", "lie.example.org"), json!(["198.51.100.53"]));
    assert_eq!(
        ask(&host, "web", &[SERVER, "gone.example.org", "A"])["code"],
        3
    );
    assert_eq!(
        ask(&host, "web", &[SERVER, "refused.example.org", "A"])["code"],
        5
    );
    assert_eq!(
        ask(&host, "web", &[SERVER, "silent.example.org", "A"])["code"],
        2
    );
    // Nothing of a reverse lookup of the pods' networks gets out.
    ask(&host, "web", &[SERVER, "9.9.90.10.in-addr.arpa", "PTR"]);
    assert!(!asked(&host, 53).contains("90.10.in-addr"));
    finish(host, upstreams);
}

#[test]
fn the_hosts_resolver_file_counts_as_it_is() {
    let (host, [first, second]) = host_with_upstreams();
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let pid = host.pid("web", "app");
    let answer = |name: &str| ask(&host, "web", &[SERVER, name, "A"])["answers"].clone();
    assert_eq!(answer("a.example.org"), json!(["198.51.100.53"]));
    // Written in place, as the file is mounted.
    host.write(
        "resolv.conf",
        &format!("nameserver {UPSTREAM_2}\nsearch other\n"),
    );
    eventually("the other server is asked", || {
        answer("a.example.org") == json!(["198.51.100.54"])
    });
    eventually("the pod looks in the other domain", || {
        host.exec("web", "cat /etc/resolv.conf")
            .contains("search tank.internal other")
    });
    assert_eq!(host.pid("web", "app"), pid);
    // Where the first one is gone the second is asked, the first time after a while.
    host.write(
        "resolv.conf",
        &format!("nameserver {UPSTREAM}\nnameserver {UPSTREAM_2}\n"),
    );
    drop(first);
    eventually("the second server is asked", || {
        answer("b.example.org") == json!(["198.51.100.54"])
    });
    assert_eq!(answer("c.example.org"), json!(["198.51.100.54"]));
    drop(second);
    sh(&host, "umount /etc/resolv.conf");
    host.finish();
}

/// WordPress-like: a site that finds its database by the name of the service, and by its alias.
#[test]
fn a_compose_project_finds_its_services_as_it_did() {
    let host = Host::new();
    let compose = r#"
name: project
services:
  my_db:
    image: oci:./busybox
    container_name: project_db_1
    entrypoint: ["/bin/httpd", "-f", "-p", "80", "-h", "/www"]
    stop_signal: SIGKILL
    restart: always
    configs: [{ source: page, target: /www/index.html }]
    networks:
      back: { aliases: [database, db.internal.example] }
  site:
    image: oci:./busybox
    entrypoint: ["/bin/sh", "-c", "trap 'exit 0' TERM USR1; while true; do sleep 0.1; done"]
    restart: always
    links: ["my_db:mysql"]
    networks: [back]
    extra_hosts: ["build:10.0.0.7", "host.docker.internal:host-gateway"]
    dns_search: [example.org]
networks: { back: {} }
configs: { page: { content: "the database" } }
"#;
    host.write("compose.yaml", compose);
    let imported = host.tank(&["import", "compose.yaml"]);
    host.write("pods.ncl", &imported.ok());
    host.tank(&["switch", "pods.ncl"]).ok();
    for name in [
        "my_db",
        "my-db",
        "project_db_1",
        "database",
        "db.internal.example",
        "mysql",
    ] {
        assert_eq!(
            host.exec("project:site", &format!("wget -qO- http://{name}/")),
            "the database",
            "{name}"
        );
    }
    let hosts = host.exec("project:site", "cat /etc/hosts");
    let resolver = host.exec("project:site", "cat /etc/resolv.conf");
    assert!(
        resolver.contains("search tank.internal example.org"),
        "{resolver}"
    );
    // The host is where its name server is, on the project's own network.
    let mut servers = resolver
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver "));
    let gateway = servers.next().expect("a server");
    assert!(gateway.starts_with("10.91."), "{resolver}");
    assert!(
        hosts.contains("10.0.0.7\tbuild")
            && hosts.contains(&format!("{gateway}\thost.docker.internal")),
        "{hosts}"
    );
    host.finish();
}
