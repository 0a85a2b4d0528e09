//! Through the table of rules, edited or alike.

use super::{spoof::python_in, *};

/// Tank compares the table's content, so it finds and undoes every edit.
#[test]
fn an_edited_table_is_put_right_whatever_its_comments_say() {
    let host = Host::new();
    host.switch(&format!(
        "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }},
             publish.a = {{ port = 18080, to = 80 }}, publish.b = {{ port = 18081, to = 81 }} }} }}"
    ));
    let sound = table(&host);
    let load = |text: &str| {
        // That of the bridge stays: `nft` before 1.0.8 has no words for the target of a neighbour's
        // message, and loads none.
        let end = text.find("table bridge").unwrap_or(text.len());
        let text = &text[..end];
        host.write("edited.nft", &format!("delete table inet tank\n{text}\n"));
        sh(&host, &format!("nft -f {}/edited.nft", host.dir.display()));
    };
    let swapped = {
        let mut lines: Vec<&str> = sound.lines().collect();
        let rules: Vec<usize> = (0..lines.len())
            .filter(|at| lines[*at].contains("dnat ip to"))
            .collect();
        lines.swap(rules[0], rules[1]);
        lines.join("\n")
    };
    let first = |from: &str, to: &str| sound.replacen(from, to, 1);
    let edits = [
        ("a guard that accepts", first(" drop ", " accept ")),
        ("a guard for less", first("127.0.0.0/8", "127.0.0.0/16")),
        ("a port that leads elsewhere", first(" . 80,", " . 8,")),
        (
            "a chain that comes later",
            first("priority raw", "priority 50"),
        ),
        ("a chain that drops", first("policy accept", "policy drop")),
        ("rules in another order", swapped),
        (
            "a rule more",
            first("\t\tiifname", "\t\ttcp dport 9 accept\n\t\tiifname"),
        ),
        ("a rule twice", {
            let line = sound
                .lines()
                .find(|line| line.contains("dnat ip to"))
                .expect("a rule");
            first(line, &format!("{line}\n{line}"))
        }),
    ];
    for (what, text) in edits {
        assert_ne!(text, sound, "{what}: nothing is edited");
        load(&text);
        eventually(what, || table(&host) == sound);
    }
    for (what, command) in [
        (
            "a table that sleeps",
            "nft 'add table inet tank { flags dormant; }'",
        ),
        ("a chain more", "nft add chain inet tank mine"),
        (
            "a set more",
            "nft 'add set inet tank mine { type ipv4_addr; }'",
        ),
        (
            "a sender more",
            "nft add element bridge tank senders4 '{ 0x746b0002 . 02:74:6b:00:00:02 . 10.90.0.9 }'",
        ),
        ("no senders", "nft flush set bridge tank senders6"),
        ("no ports", "nft flush map inet tank loopback4"),
        (
            "a port more",
            "nft add element inet tank any4 '{ tcp . 9 : 10.90.0.2 . 9 }'",
        ),
        ("no table of the bridge", "nft delete table bridge tank"),
    ] {
        sh(&host, command);
        // One of them may not be there at the moment.
        let listed = "nft list table inet tank || true; nft list table bridge tank || true";
        eventually(what, || sh(&host, listed) == sound);
    }
    host.finish();
}

#[test]
fn long_names_and_ipv6_do_not_make_rules_alike() {
    let host = Host::new();
    sh(
        &host,
        "ip addr add 2001:db8:1111:2222:3333:4444:5555:6666/64 dev lo nodad",
    );
    let (pod, publish) = ("p".repeat(63), "n".repeat(62));
    let container = format!("containers.app = {{ image = \"oci:./busybox\", {RUN} }}");
    let address = "address = \"2001:db8:1111:2222:3333:4444:5555:6666\"";
    host.switch(&format!(
        "{{ pods.{pod} = {{ {container}, publish = {{
             {publish}1 = {{ port = 18080, to = 80, {address} }}, {publish}2 = {{ port = 18080, to = 80 }},
             {publish}3 = {{ port = 18081, to = 18080, {address} }}, {publish}4 = {{ port = 18081, to = 18081, {address}, protocol = 'udp }},
             {publish}5 = {{ port = 18082, to = 18081, address = \"::\" }} }} }} }}"
    ));
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    let listed = table(&host);
    let ports = |protocol: &str| listed.matches(&format!("{protocol} . 1808")).count();
    assert_eq!((ports("tcp"), ports("udp")), (4, 1), "{listed}");
    host.finish();
}

/// The rules with their handles, without elements: the kernel gives a rule that is written anew
/// another one.
fn handles(host: &Host) -> String {
    let text = sh(
        host,
        "nft -a list table inet tank; nft -a list table bridge tank",
    );
    let lines = text.lines().filter(|line| line.contains("# handle"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A line is sent over it, and comes back.
const ECHO: &str = r#"
import socket, sys, threading
s = socket.create_server(("::", 80), family=socket.AF_INET6, dualstack_ipv6=True)
open(sys.argv[1], "w").close()
def answer(c):
    with c:
        for line in c.makefile("rb"):
            c.sendall(sys.argv[2].encode() + b" " + line)
while True:
    c, _ = s.accept()
    threading.Thread(target=answer, args=(c,), daemon=True).start()
"#;

/// Opens one connection and sends a line for each line it reads.
const TALKER: &str = r#"
import socket, sys
c = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=20)
back = c.makefile("rb")
for line in sys.stdin:
    c.sendall(line.encode())
    print(back.readline().decode().strip(), flush=True)
"#;

/// One connection that stays open.
struct Talker {
    process: Child,
    answers: std::io::BufReader<std::process::ChildStdout>,
}

impl Talker {
    fn start(mut command: Command, address: &str, port: u16) -> Self {
        let mut process = command
            .args(["-c", TALKER, address, &port.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a client");
        let answers = std::io::BufReader::new(process.stdout.take().expect("its answers"));
        Self { process, answers }
    }

    fn says(&mut self, word: &str) -> String {
        use std::io::{BufRead, Write};
        let input = self.process.stdin.as_mut().expect("its input");
        writeln!(input, "{word}").expect("a line");
        let mut answer = String::new();
        self.answers.read_line(&mut answer).expect("an answer");
        answer.trim().to_owned()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn echo(host: &Host, pod: &str) -> Process {
    let ready = host.dir.join(format!("echo-{pod}"));
    let _ = std::fs::remove_file(&ready);
    let mut command = python_in(host.pid(pod, "app") as u32);
    let process = Process::start(command.args(["-c", ECHO]).arg(&ready).arg(pod));
    eventually("it listens", || ready.exists());
    process
}

/// Only what differs is sent: the rules stay the very same, another's table too, and connections
/// through published ports live through a hundred changes of other ports.
#[test]
fn a_change_of_ports_touches_no_rule_and_no_connection() {
    let host = Host::new();
    let near = neighbour(&host, "lan0", 2);
    let config = |port: u16| {
        format!(
            "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }},
                  publish = {{ own = {{ port = 18080, to = 80 }}, all = {{ port = 18081, to = 80, address = [\"0.0.0.0\", \"::\"] }} }} }},
               pods.other = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }},
                  publish.p = {{ port = {port}, to = 80, address = [\"0.0.0.0\", \"::\"], protocol = 'both }} }} }}"
        )
    };
    host.switch(&config(19000));
    sh(
        &host,
        "nft 'add table inet other; add set inet other s { type ipv4_addr; elements = { 10.9.9.9 }; }
              add chain inet other c { type filter hook forward priority 5; }; add rule inet other c ip saddr @s drop'",
    );
    let others = || sh(&host, "nft -a list table inet other");
    let server = echo(&host, "web");
    let mut talkers = vec![
        Talker::start(host.inside("/usr/bin/python3"), "127.0.0.1", 18080),
        Talker::start(host.inside("/usr/bin/python3"), "10.90.0.1", 18081),
        Talker::start(python_in(near.pid()), "192.0.2.1", 18081),
        Talker::start(python_in(near.pid()), "2001:db8:2::1", 18081),
    ];
    let (before, before_others) = (handles(&host), others());
    for change in 1..=100u16 {
        host.switch(&config(19000 + change));
        if change % 5 == 0 {
            for talker in &mut talkers {
                assert_eq!(
                    talker.says(&format!("change-{change}")),
                    format!("web change-{change}")
                );
            }
        }
    }
    assert_eq!(handles(&host), before, "no rule was written anew");
    assert_eq!(others(), before_others);
    let listed = table(&host);
    assert_eq!(listed.matches(" . 19100 :").count(), 4, "{listed}");
    assert_eq!(listed.matches(" . 19099 :").count(), 0, "{listed}");
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    drop((server, talkers, near));
    sh(
        &host,
        "nft delete table inet other; ip link del lan0 2>/dev/null || true",
    );
    host.finish();
}

/// Somebody else who changes rules all the time, his own or Tank's, keeps nobody from publishing.
#[test]
fn a_race_for_the_rules_ends_in_the_right_ones() {
    let host = Host::new();
    let config = |port: u16| {
        format!(
            "{{ pods.web = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, publish.p = {{ port = {port}, to = 80 }} }} }}"
        )
    };
    host.switch(&config(19000));
    let (web, _) = addresses(host.pid("web", "app") as u32);
    let noise = Process::start(host.inside("sh").args([
        "-c",
        "while true; do nft 'add table ip noise; delete table ip noise'
           nft 'add element inet tank any4 { tcp . 9 : 10.90.255.9 . 9 }' 2>/dev/null; sleep 0.1; done",
    ]));
    for change in 1..=20 {
        host.switch(&config(19000 + change));
        let listed = sh(&host, "nft list map inet tank loopback4");
        assert!(
            listed.contains(&format!("tcp . {} : {web} . 80", 19000 + change)),
            "{listed}"
        );
        assert_eq!(listed.matches(&web).count(), 1, "{listed}");
    }
    drop(noise);
    eventually("what is not Tank's is gone", || {
        !sh(&host, "nft list map inet tank any4").contains("10.90.255.9")
    });
    sh(&host, "nft delete table ip noise 2>/dev/null || true");
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    host.finish();
}

/// One transaction moves a port: no request is refused, new ones go to the new pod, and a connection
/// that is open stays with the old one until it ends.
#[test]
fn a_port_moves_to_another_pod_and_no_request_is_lost() {
    let host = Host::new();
    let near = neighbour(&host, "lan0", 2);
    let pod = |name: &str, publish: &str| {
        format!(
            "pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, {publish} }},"
        )
    };
    let at = "publish.http = { port = 18080, to = 80, address = [\"0.0.0.0\", \"::\"] }";
    let config = |owner: &str| {
        let of = |name: &str| pod(name, if name == owner { at } else { "" });
        format!("{{ {} {} }}", of("blue"), of("green"))
    };
    host.switch(&config("blue"));
    let servers = [echo(&host, "blue"), echo(&host, "green")];
    let mut open = [
        Talker::start(python_in(near.pid()), "192.0.2.1", 18080),
        Talker::start(python_in(near.pid()), "2001:db8:2::1", 18080),
        Talker::start(host.inside("/usr/bin/python3"), "127.0.0.1", 18080),
    ];
    for talker in &mut open {
        assert_eq!(talker.says("before"), "blue before");
    }
    // Requests by the hundred, each over a connection of its own, from two families.
    let (count, stop) = (host.dir.join("requests"), host.dir.join("stop"));
    let script = r#"
import socket, sys, os, time
seen, failed, n = {}, [], 0
while not os.path.exists(sys.argv[2]):
    for address in ("192.0.2.1", "2001:db8:2::1"):
        n += 1
        try:
            c = socket.create_connection((address, 18080), timeout=10)
            c.sendall(b"x\n")
            who = c.makefile().readline().split()[0]
            c.close()
            seen[who] = seen.get(who, 0) + 1
            last = who
        except (OSError, IndexError) as error:
            failed.append(repr(error))
    with open(sys.argv[1] + ".new", "w") as f:
        f.write("%d %s %s" % (n, len(failed), " ".join("%s=%d" % one for one in sorted(seen.items()))))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
print(n, failed, sorted(seen), last)
"#;
    let mut command = python_in(near.pid());
    let requests = command
        .args(["-c", script])
        .args([&count, &stop])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a client");
    let said = |word: &str| {
        std::fs::read_to_string(&count)
            .unwrap_or_default()
            .contains(word)
    };
    eventually("requests reach the first", || said("blue="));
    let first = handles(&host);
    for owner in ["green", "blue", "green"] {
        host.switch(&config(owner));
        // One that is counted now may have been on its way before; the two after it were not.
        let answered = || -> u64 {
            let text = std::fs::read_to_string(&count).unwrap_or_default();
            let by_owner = format!("{owner}=");
            let mut words = text.split(' ');
            let found = words.find_map(|word| word.strip_prefix(&by_owner)?.parse().ok());
            found.unwrap_or(0)
        };
        let before = answered();
        eventually("requests reach the next", || answered() > before + 4);
        for talker in &mut open {
            assert_eq!(
                talker.says(owner),
                format!("blue {owner}"),
                "it was opened to that one"
            );
        }
    }
    std::fs::write(&stop, "").expect("a file");
    let ended: Ended = requests.wait_with_output().expect("its end").into();
    let ended = ended.ok();
    assert!(ended.contains("[] ['blue', 'green'] green"), "{ended}");
    assert_eq!(handles(&host), first, "each move was a change of elements");
    drop((servers, open, near));
    sh(&host, "ip link del lan0 2>/dev/null || true");
    host.finish();
}

/// One request after the other, each over a connection of its own: whose answers, and what failed.
const REQUESTS: &str = r#"
import os, sys, urllib.request
seen, failed, n = [], [], 0
while not os.path.exists(sys.argv[2]):
    n += 1
    try:
        who = urllib.request.urlopen("http://192.0.2.1:18080/", timeout=10).read().decode().strip()
        if who not in seen[-1:]:
            seen.append(who)
    except OSError as error:
        failed.append(repr(error))
    with open(sys.argv[1] + ".new", "w") as f:
        f.write("%d %s" % (n, " ".join(seen)))
    os.rename(sys.argv[1] + ".new", sys.argv[1])
print(failed, seen)
"#;

/// A port moves to a pod that is made in the same switch: not before that is ready, and never if
/// that never is.
#[test]
fn a_port_waits_until_the_new_pod_is_ready_and_no_request_is_lost() {
    let host = Host::new();
    let near = neighbour(&host, "lan0", 2);
    let pod = |name: &str, takes: &str, publish: &str| {
        format!(
            "pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\",
                 command = [\"/bin/sh\", \"-c\", \"trap 'exit 0' TERM USR1; sleep {takes} & wait; httpd -p 80 -h /www; sleep 1000 & wait\"],
                 files.\"/www/index.html\".text = \"{name}\",
                 readiness = {{ tcp.port = 80, period = \"50ms\" }} }}, {publish} }},"
        )
    };
    let at = "publish.http = { port = 18080, to = 80, address = \"0.0.0.0\" }";
    host.switch(&format!("{{ {} }}", pod("old", "0", at)));
    let (count, stop) = (host.dir.join("requests"), host.dir.join("stop"));
    let requests = python_in(near.pid())
        .args(["-c", REQUESTS])
        .args([&count, &stop])
        .stdout(Stdio::piped())
        .spawn()
        .expect("a client");
    let said = || std::fs::read_to_string(&count).unwrap_or_default();
    let answered = || -> u64 {
        let text = said();
        let first = text.split(' ').next().unwrap_or_default();
        first.parse().unwrap_or_default()
    };
    eventually("requests reach the old pod", || said().contains("old"));
    let first = handles(&host);
    // One that never gets ready: the port has not moved when everything is put back.
    let (old, sound) = (pod("old", "0", ""), table(&host));
    host.write(
        "never.ncl",
        &format!("{{ {old} {} }}", pod("never", "1000", at)),
    );
    let begun = answered();
    let ended = host.tank(&["switch", "never.ncl", "--timeout", "2s"]);
    assert_eq!(ended.status, 3, "{}", ended.stderr);
    eventually("requests go on", || answered() > begun + 10);
    eventually("the rules are as they were", || table(&host) == sound);
    // One that takes its time, and the plan says what waits for what.
    host.write("new.ncl", &format!("{{ {old} {} }}", pod("new", "2", at)));
    let plan = host.tank(&["diff", "new.ncl"]).ok();
    for line in [
        "0.0.0.0:18080 from anywhere \u{2192} new:80 once new is ready, old until then",
        "later  0.0.0.0:18080: leads to old until new is ready",
    ] {
        assert!(plan.contains(line), "{line}: {plan}");
    }
    host.tank(&["switch", "new.ncl"]).ok();
    let moved = sh(&host, "nft list map inet tank any4");
    let (new, _) = addresses(host.pid("new", "app") as u32);
    assert!(moved.contains(&format!("18080 : {new} . 80")), "{moved}");
    eventually("requests reach the new pod", || said().ends_with("new"));
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    std::fs::write(&stop, "").expect("a file");
    let ended: Ended = requests.wait_with_output().expect("its end").into();
    assert_eq!(ended.ok().trim(), "[] ['old', 'new']");
    assert_eq!(handles(&host), first, "each move was a change of elements");
    drop(near);
    sh(&host, "ip link del lan0 2>/dev/null || true");
    host.finish();
}
