//! What was open before a policy, in the direction that the policy is not about: whoever was cut off would
//! go on sending, or being sent to.

use super::{RUN, addresses, eventually, spoof::python_in};
use std::time::Duration;
use tank_tests::segment::{From, NEIGHBOUR, Process, Segment, UPLINK};

/// Sends to whoever sent it a datagram, many times a second, for as long as it lives: `PORT READY`.
const STREAMER: &str = r#"
import socket, sys, time
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
s.bind(("::", int(sys.argv[1])))
s.settimeout(0.02)
open(sys.argv[2], "w").close()
known = set()
while True:
    try:
        known.add(s.recvfrom(100)[1])
    except OSError:
        pass
    for address in known:
        try:
            s.sendto(b"x", address)
        except OSError:
            pass
    time.sleep(0.02)
"#;

/// Asks once, and writes a byte to a file for each datagram that comes: `ADDRESS PORT FILE`.
const LISTENER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
s.connect((sys.argv[1], int(sys.argv[2])))
s.send(b"?")
out = open(sys.argv[3], "wb", buffering=0)
while True:
    try:
        out.write(s.recv(100))
    except OSError:
        pass
"#;

fn config(db: &str) -> String {
    let run = |name: &str, rest: &str| {
        format!(
            "pods.{name} = {{ containers.app = {{ image = \"oci:./busybox\", {RUN} }}, {rest} }},"
        )
    };
    let publish = "publish.u = { port = 9000, protocol = 'udp, address = [\"0.0.0.0\", \"::\"] }, ";
    let db = run("db", &format!("{publish}{db}"));
    format!("{{ {db} {} }}", run("web", ""))
}

/// Streams of answers to a neighbour, to another pod, and to the pod itself from the neighbour.
#[test]
fn answers_end_with_the_policy_that_let_them() {
    let mut site = Segment::new(false);
    site.host.switch(&config("allow_from = 'all"));
    let pid = |pod: &str| u32::try_from(site.host.pid(pod, "app")).expect("a pid");
    let (db, web) = (pid("db"), pid("web"));
    let (db4, db6) = addresses(db);
    let file = |name: String| site.host.dir.join(name);
    let python = |from: From| match from {
        From::Pod(_) => python_in(if from == From::Pod("db") { db } else { web }),
        _ => site.inside(from, "/usr/bin/python3"),
    };
    let (mut processes, mut streams) = (Vec::new(), Vec::new());
    for from in [From::Pod("db"), From::Neighbour] {
        let ready = file(format!("streams-{from:?}"));
        let mut command = python(from);
        command.args(["-c", STREAMER, "9000"]).arg(&ready);
        processes.push(Process::start(&mut command));
        eventually("it streams", || ready.exists());
    }
    let asked = [
        (From::Neighbour, UPLINK[0]),
        (From::Neighbour, UPLINK[1]),
        (From::Pod("web"), &db4),
        (From::Pod("web"), &db6),
        (From::Pod("db"), NEIGHBOUR[0]),
        (From::Pod("db"), NEIGHBOUR[1]),
    ];
    for (number, (from, address)) in asked.into_iter().enumerate() {
        let out = file(format!("stream-{number}"));
        let mut command = python(from);
        command.args(["-c", LISTENER, address, "9000"]).arg(&out);
        processes.push(Process::start(&mut command));
        streams.push((format!("{from:?} of {address}"), out));
    }
    let length = |out: &std::path::Path| std::fs::metadata(out).map_or(0, |found| found.len());
    let all_grow = |what: &str| {
        for (stream, out) in &streams {
            let before = length(out);
            eventually(&format!("{what}: {stream}"), || length(out) > before + 3);
        }
    };
    all_grow("before");
    // Who asked is not admitted any more, or the pod may ask nobody. What pods had open to each other
    // passed no rule yet: what comes first is what opens it then.
    for (policy, ended) in [
        ("allow_from = 'none", 0..2),
        ("egress = 'none", 4..6),
        ("allow_from = 'none, egress = 'none", 0..6),
    ] {
        site.host.switch(&config(policy));
        std::thread::sleep(Duration::from_millis(200));
        let streams = &streams[ended];
        let before: Vec<u64> = streams.iter().map(|(_, out)| length(out)).collect();
        std::thread::sleep(Duration::from_secs(1));
        for ((stream, out), before) in streams.iter().zip(before) {
            assert_eq!(length(out), before, "{policy}: {stream} goes on");
        }
        site.host.switch(&config("allow_from = 'all"));
        all_grow("again");
    }
    drop(processes);
    site.servers.clear();
    site.finish();
}
