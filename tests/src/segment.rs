//! A host on a link with a neighbour: who asks from where, and who answers there. Real packets of both
//! families and protocols.

use crate::{Host, eventually, repo};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
};

/// The host's addresses on its uplink, and its neighbour's there.
pub const UPLINK: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub const NEIGHBOUR: [&str; 2] = ["192.0.2.2", "2001:db8::2"];

/// A process that is ended with the test.
pub struct Process(pub Child);

impl Process {
    /// Starts it without an input.
    pub fn start(command: &mut Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().expect("a process"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From where something is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum From {
    Host,
    Pod(&'static str),
    Neighbour,
}

/// A host with an uplink, `up0`, and a neighbour behind it that routes all private networks to the host.
pub struct Segment {
    pub host: Host,
    pub servers: Vec<Process>,
    neighbour: Process,
}

impl Segment {
    /// `called`: whether the rules for IP see what bridges pass on, as where `br_netfilter` is loaded. A
    /// kernel without that module has one way only.
    pub fn new(called: bool) -> Self {
        let host = Host::without_daemon();
        call_for_bridged(&host, called);
        let host = host.started_with(&[]);
        let neighbour = Process::start(host.inside("unshare").args(["--net", "sleep", "3600"]));
        let pid = neighbour.0.id();
        // When it sleeps, it is in a network of its own: before, it is still in others.
        eventually("the neighbour is there", || {
            let comm = std::fs::read_to_string(format!("/proc/{pid}/comm"));
            comm.is_ok_and(|comm| comm == "sleep\n")
        });
        let [[up4, up6], [next4, next6]] = [UPLINK, NEIGHBOUR];
        sh(
            &host,
            &format!(
                "ip link add up0 type veth peer name eth0 netns {pid} && ip link set up0 up &&
                 ip addr add {up4}/24 dev up0 && ip addr add {up6}/64 dev up0 nodad &&
                 nsenter --target={pid} --net sh -c 'ip link set lo up && ip link set eth0 up &&
                   ip addr add {next4}/24 dev eth0 && ip addr add {next6}/64 dev eth0 nodad &&
                   ip route add 10.0.0.0/8 via {up4} && ip -6 route add fd00::/8 via {up6}'"
            ),
        );
        Self {
            host,
            servers: Vec::new(),
            neighbour,
        }
    }

    /// Has somebody answer on a port, by TCP and UDP, with the address of whoever asks.
    pub fn serve(&mut self, from: From, port: &str) {
        let ready = format!("serving-{}", self.servers.len());
        let ready = self.host.dir.join(ready);
        let mut command = self.python(from, "reach/traffic.py");
        let server = Process::start(command.args(["serve", port]).arg(&ready));
        self.servers.push(server);
        eventually("the server is there", || ready.exists());
    }

    /// What each of `asked` (`tcp ADDRESS PORT`) answers: where it was asked from, "refused" or "nothing".
    pub fn ask(&self, from: From, asked: &[String]) -> Vec<String> {
        let mut command = self.python(from, "networks/ask.py");
        let output = command.args(asked).output().expect("python3");
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("a list")
    }

    /// A script of the tests in a network.
    pub fn python(&self, from: From, script: &str) -> Command {
        let mut command = self.inside(from, "python3");
        command
            .arg(repo().join("tests/tests").join(script))
            .stdin(Stdio::null());
        command
    }

    /// A program in a network.
    pub fn inside(&self, from: From, program: &str) -> Command {
        let enter = |pid: String| {
            let mut command = Command::new("nsenter");
            command.args([&format!("--target={pid}"), "--net", "--", program]);
            command
        };
        match from {
            From::Host => self.host.inside(program),
            From::Pod(pod) => enter(self.host.pid(pod, "app").to_string()),
            From::Neighbour => enter(self.neighbour.0.id().to_string()),
        }
    }

    /// The addresses of a pod's links, by their names: IPv4, then IPv6.
    pub fn addresses(&self, pod: &'static str) -> BTreeMap<String, [String; 2]> {
        let mut command = self.inside(From::Pod(pod), "ip");
        let output = command.args(["-j", "address"]).output().expect("ip");
        let links: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let links = links.as_array().expect("links").iter();
        let links = links.filter(|link| link["ifname"] != "lo");
        let of = |link: &Value| {
            let own = link["addr_info"].as_array().cloned().unwrap_or_default();
            let of = |family: &str| {
                let own = own.iter().filter(|own| own["scope"] == "global");
                let mut own = own.filter(|own| own["family"] == family);
                let found = own.next().and_then(|own| own["local"].as_str());
                found.unwrap_or_default().to_owned()
            };
            let name = link["ifname"].as_str().unwrap_or_default().to_owned();
            (name, [of("inet"), of("inet6")])
        };
        links.map(of).collect()
    }

    /// Ends everybody, and expects nothing to be left.
    #[track_caller]
    pub fn finish(self) {
        let Self {
            host,
            servers,
            neighbour,
        } = self;
        drop((neighbour, servers));
        // With its peer's network the link is gone, soon.
        sh(&host, "ip link del up0 2> /dev/null || true");
        host.finish();
    }
}

/// Whether the rules for IP see what bridges pass on, where the kernel has that.
pub fn call_for_bridged(host: &Host, called: bool) {
    let value = u8::from(called);
    sh(
        host,
        &format!(
            "for family in iptables ip6tables; do
               file=/proc/sys/net/bridge/bridge-nf-call-$family
               ! test -e $file || echo {value} > $file
             done"
        ),
    );
}

/// What a script prints in the host's network.
#[track_caller]
pub fn sh(host: &Host, script: &str) -> String {
    let output = host.inside("sh").args(["-c", script]).output().expect("sh");
    assert!(output.status.success(), "{script}: {output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
