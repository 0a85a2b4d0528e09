//! A pod that sends as somebody else: raw frames, as a program with CAP_NET_RAW or the root of the
//! pod's network can make them, from beside its victims on the same bridge.

use super::*;
use std::collections::BTreeMap;
use tank_tests::packets::HEADERS;

/// Writes every frame that comes by to a file, in hexadecimal digits, until it is ended.
const SNIFFER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
out = open(sys.argv[2], "w")
open(sys.argv[3], "w").close()
while True:
    out.write(s.recv(4096).hex() + "\n")
    out.flush()
"#;

/// Behind [`HEADERS`]: sends frames, and prints of each its name and what it is known by: its name, which is in it within what
/// its headers say is its length (the bridge may cut off the rest), or all of it. `own` is what a pod may
/// send.
pub const FRAMES: &str = r#"
own_mac, own4, own6, near_mac, near4, near6, host4, host6 = sys.argv[1:9]
mac = lambda text: bytes.fromhex(text.replace(":", ""))
v4 = lambda text: ipaddress.IPv4Address(text).packed
v6 = lambda text: ipaddress.IPv6Address(text).packed
current = ""
name = lambda: b"<" + current.encode() + b">"
ALL, ALL6 = "ff:ff:ff:ff:ff:ff", "33:33:00:00:00:01"
def link_local(m):
    b = mac(m)
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + bytes([b[0] ^ 2]) + b[1:3] + b"\xff\xfe" + b[3:]))
def eth(source, kind, payload, to=ALL):
    return mac(to) + mac(source) + struct.pack("!H", kind) + payload
def ip4(source, to, protocol, payload):
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 1, 0, 64, protocol, 0, v4(source), v4(to))
    return head[:10] + struct.pack("!H", sum16(head)) + head[12:] + payload
def udp(a, b):
    return struct.pack("!HHHH", a, b, 8 + len(name()), 0) + name()
def ip6(source, to, protocol, payload, before=b""):
    return struct.pack("!IHBB16s16s", 6 << 28, len(before + payload), 0 if before else protocol, 255, v6(source), v6(to)) + before + payload
def icmp(source, to, kind, body):
    # Its name is an option that nobody knows (RFC 4861, section 4.6).
    units = -(-(2 + len(name())) // 8)
    body += (bytes([253, units]) + name()).ljust(units * 8, b"\0")
    message = struct.pack("!BBH", kind, 0, 0) + body
    head = v6(source) + v6(to) + struct.pack("!II", len(message), 58)
    return message[:2] + struct.pack("!H", sum16(head + message)) + message[4:]
def exact(source, kind, body, *options, before=b""):
    # Nothing of its name is in it: that comes behind what its header says is its length.
    body += b"".join(bytes([option, units]) + mac(m).ljust(units * 8 - 2, b"\0") for option, units, m in options)
    message = struct.pack("!BBH", kind, 0, 0) + body
    head = v6(source) + v6("ff02::1") + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", sum16(head + message)) + message[4:]
    return eth(own_mac, 0x86dd, ip6(source, "ff02::1", 58, message, before), ALL6)
def advertisement(*options, before=b""):
    return exact(own6, 136, b"\xa0\0\0\0" + v6(own6), *options, before=before)
def solicitation(*options, before=b""):
    return exact(own6, 135, bytes(4) + v6(near6), *options, before=before)
def router_solicitation(*options):
    return exact(ll, 133, bytes(4), *options)
def arp(kind, m, a, to):
    return struct.pack("!HHBBH6s4s6s4s", 1, 0x800, 6, 4, kind, mac(m), v4(a), bytes(6), v4(to))
def neighbour(kind, source, target, option_mac, to="ff02::1", before=b""):
    flags = b"\xa0\0\0\0" if kind == 136 else bytes(4)
    option = bytes([2 if kind == 136 else 1, 1]) + mac(option_mac) if source != "::" else b""
    return ip6(source, to, 58, icmp(source, to, kind, flags + v6(target) + option), before)
def message(kind, source, body):
    return ip6(source, "ff02::1", 58, icmp(source, "ff02::1", kind, body))
ll, near_ll = link_local(own_mac), link_local(near_mac)
hop_by_hop = bytes([58, 0, 1, 4, 0, 0, 0, 0])
ra = bytes([64, 0, 0xff, 0xff]) + bytes(8) + bytes([1, 1]) + mac(own_mac)
own = {
    "own-ipv4": lambda: eth(own_mac, 0x800, ip4(own4, near4, 17, udp(9, 9)), near_mac),
    "own-broadcast": lambda: eth(own_mac, 0x800, ip4(own4, "255.255.255.255", 17, udp(9, 9))),
    # A frame of ARP is as long as the shortest one: the name is in what is behind the message.
    "own-arp-request": lambda: eth(own_mac, 0x806, arp(1, own_mac, own4, near4) + name()),
    "own-arp-reply": lambda: eth(own_mac, 0x806, arp(2, own_mac, own4, own4) + name()),
    "own-ipv6": lambda: eth(own_mac, 0x86dd, ip6(own6, near6, 17, udp(9, 9)), near_mac),
    "own-link-local": lambda: eth(own_mac, 0x86dd, ip6(ll, "ff02::1", 17, udp(9, 9)), ALL6),
    "own-advertisement": lambda: advertisement((2, 1, own_mac)),
    "na": lambda: advertisement(),
    "ns": lambda: solicitation(),
    "rs": lambda: router_solicitation(),
    "own-solicitation": lambda: solicitation((1, 1, own_mac)),
    "own-router-solicitation": lambda: router_solicitation((1, 1, own_mac)),
    "own-probe": lambda: exact("::", 135, bytes(4) + v6(ll)),
    "own-probe-nonce": lambda: exact("::", 135, bytes(4) + v6(ll), (14, 1, near_mac)),
}
strange = {
    "ipv4-mac": lambda: eth(near_mac, 0x800, ip4(own4, host4, 17, udp(9, 9))),
    "ipv4-address": lambda: eth(own_mac, 0x800, ip4(near4, host4, 17, udp(9, 9))),
    "ipv4-both": lambda: eth(near_mac, 0x800, ip4(near4, host4, 17, udp(9, 9))),
    "ipv4-host": lambda: eth(own_mac, 0x800, ip4(host4, near4, 17, udp(9, 9)), near_mac),
    "ipv4-elsewhere": lambda: eth(own_mac, 0x800, ip4("192.0.2.7", near4, 17, udp(9, 9)), near_mac),
    "ipv4-none": lambda: eth(own_mac, 0x800, ip4("0.0.0.0", "255.255.255.255", 17, udp(68, 67))),
    "arp-and-more": lambda: eth(own_mac, 0x806, arp(2, own_mac, own4, own4).ljust(46, b"\0") + name(), near_mac),
    "probe-and-more": lambda: exact("::", 135, bytes(4) + v6(ll)).ljust(100, b"\0") + name(),
    "probe-of-options": lambda: eth(own_mac, 0x86dd, neighbour(135, "::", ll, own_mac), ALL6),
    "solicitation-and-more": lambda: solicitation((1, 1, own_mac)) + name(),
    "advertisement-and-more": lambda: advertisement().ljust(100, b"\0") + name(),
    "arp-past-the-bridge-2": lambda: eth(own_mac, 0x806, arp(1, own_mac, "172.31.0.2", host4), "01:80:c2:00:00:02"),
    "arp-past-the-bridge-3": lambda: eth(own_mac, 0x806, arp(1, own_mac, "172.31.0.3", host4), "01:80:c2:00:00:03"),
    "arp-past-the-bridge-e": lambda: eth(own_mac, 0x806, arp(1, own_mac, "172.31.0.14", host4), "01:80:c2:00:00:0e"),
    "own-arp-past-the-bridge": lambda: eth(own_mac, 0x806, arp(1, own_mac, own4, host4), "01:80:c2:00:00:0e"),
    "arp-near": lambda: eth(own_mac, 0x806, arp(2, own_mac, near4, host4)),
    "arp-host": lambda: eth(own_mac, 0x806, arp(2, own_mac, host4, near4)),
    "arp-request-host": lambda: eth(own_mac, 0x806, arp(1, own_mac, host4, near4)),
    "arp-mac-inside": lambda: eth(own_mac, 0x806, arp(2, near_mac, own4, host4)),
    "arp-mac-outside": lambda: eth(near_mac, 0x806, arp(2, own_mac, own4, host4)),
    "arp-probe": lambda: eth(own_mac, 0x806, arp(1, own_mac, "0.0.0.0", near4)),
    "ipv6-mac": lambda: eth(near_mac, 0x86dd, ip6(own6, host6, 17, udp(9, 9)), ALL6),
    "ipv6-address": lambda: eth(own_mac, 0x86dd, ip6(near6, host6, 17, udp(9, 9)), ALL6),
    "ipv6-link-local": lambda: eth(own_mac, 0x86dd, ip6(near_ll, host6, 17, udp(9, 9)), ALL6),
    "ipv6-host": lambda: eth(own_mac, 0x86dd, ip6(host6, near6, 17, udp(9, 9)), near_mac),
    "advertisement-near": lambda: eth(own_mac, 0x86dd, neighbour(136, own6, near6, own_mac), ALL6),
    "advertisement-host": lambda: eth(own_mac, 0x86dd, neighbour(136, ll, host6, own_mac), ALL6),
    "advertisement-hidden": lambda: eth(own_mac, 0x86dd, neighbour(136, own6, near6, own_mac, before=hop_by_hop), ALL6),
    "advertisement-mac": lambda: advertisement((2, 1, near_mac)),
    "advertisement-second": lambda: advertisement((2, 1, own_mac), (2, 1, near_mac)),
    "advertisement-behind-another": lambda: advertisement((253, 1, own_mac), (2, 1, near_mac)),
    "advertisement-long": lambda: advertisement((2, 2, own_mac)),
    "advertisement-behind-a-header": lambda: advertisement((2, 1, near_mac), before=hop_by_hop),
    "advertisement-own-behind-a-header": lambda: advertisement((2, 1, own_mac), before=hop_by_hop),
    "solicitation-mac": lambda: solicitation((1, 1, near_mac)),
    "solicitation-second": lambda: solicitation((1, 1, own_mac), (1, 1, near_mac)),
    "solicitation-behind-a-header": lambda: solicitation(before=hop_by_hop),
    "router-solicitation-mac": lambda: router_solicitation((1, 1, near_mac)),
    "router-solicitation-second": lambda: router_solicitation((14, 1, own_mac), (1, 1, near_mac)),
    "probe-near": lambda: eth(own_mac, 0x86dd, neighbour(135, "::", near_ll, own_mac), ALL6),
    "router": lambda: eth(own_mac, 0x86dd, message(134, ll, ra), ALL6),
    "redirect": lambda: eth(own_mac, 0x86dd, message(137, ll, bytes(4) + v6(ll) + v6("2001:db8::1")), ALL6),
    "query": lambda: eth(own_mac, 0x86dd, message(130, ll, bytes(24)), ALL6),
    "igmp-query": lambda: eth(own_mac, 0x800, ip4(own4, "224.0.0.1", 2, struct.pack("!BBH4s", 0x11, 100, sum16(b"\x11\x64" + bytes(6)), bytes(4)))),
    "igmp-report": lambda: eth(own_mac, 0x800, ip4(own4, "239.1.2.3", 2, struct.pack("!BBH4s", 0x16, 0, 0, v4("239.1.2.3")))),
    "listener-report": lambda: eth(own_mac, 0x86dd, message(143, ll, bytes([0, 0, 0, 1, 4, 0, 0, 0]) + v6("ff15::123")), ALL6),
    "listener-report-none": lambda: eth(own_mac, 0x86dd, message(143, "::", bytes([0, 0, 0, 1, 4, 0, 0, 0]) + v6("ff15::123")), ALL6),
    "listener-report-1": lambda: eth(own_mac, 0x86dd, ip6(ll, "ff15::123", 58, icmp(ll, "ff15::123", 131, bytes(4) + v6("ff15::123")), hop_by_hop), ALL6),
    "listener-done": lambda: eth(own_mac, 0x86dd, message(132, ll, bytes(4) + v6("ff15::123")), ALL6),
    "dhcp-server": lambda: eth(own_mac, 0x800, ip4(own4, "255.255.255.255", 17, udp(67, 68))),
    "dhcp6-server": lambda: eth(own_mac, 0x86dd, ip6(ll, near_ll, 17, udp(547, 546)), near_mac),
    "dhcp-other-port": lambda: eth(own_mac, 0x800, ip4(own4, "255.255.255.255", 17, udp(6767, 68))),
    "dhcp6-other-port": lambda: eth(own_mac, 0x86dd, ip6(ll, near_ll, 17, udp(5470, 546)), near_mac),
    "ethertype": lambda: eth(own_mac, 0x88b5, bytes(50)),
    "vlan": lambda: eth(own_mac, 0x8100, struct.pack("!HH", 7, 0x800) + ip4(near4, host4, 17, udp(9, 9))),
    "vlan-twice": lambda: eth(own_mac, 0x88a8, struct.pack("!HHHH", 7, 0x8100, 7, 0x800) + ip4(own4, host4, 17, udp(9, 9))),
    "kept-by-the-bridge": lambda: eth(near_mac, 0x88cc, bytes(50), "01:80:c2:00:00:0e"),
    "spanning-tree": lambda: eth(near_mac, 0x0027, b"\x42\x42\x03" + bytes(36), "01:80:c2:00:00:00"),
}
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind(("eth0", 0))
is_own = sys.argv[9] == "own"
for current, frame in (own if is_own else strange).items():
    made = frame()
    if name() not in made and not is_own:
        made = made.ljust(60, b"\0") + name()
    s.send(made)
    print(current, (name() if name() in made else made).hex())
"#;

/// Everything that comes by a link of a network, until it is dropped.
pub struct Sniffer {
    _process: Process,
    file: std::path::PathBuf,
}

impl Sniffer {
    pub fn start(host: &Host, name: &str, mut command: Command, link: &str) -> Self {
        let (file, ready) = (
            host.dir.join(format!("{name}.frames")),
            host.dir.join(format!("{name}.ready")),
        );
        let process = Process::start(command.args(["-c", SNIFFER, link]).arg(&file).arg(&ready));
        eventually("it listens", || ready.exists());
        Self {
            _process: process,
            file,
        }
    }

    /// Whether something that holds these bytes came by.
    pub fn has(&self, bytes: &[u8]) -> bool {
        let text = std::fs::read_to_string(&self.file).expect("frames");
        let marker: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        text.contains(&marker)
    }

    /// Those of the frames that came by.
    pub fn received(&self, of: &Frames) -> Frames {
        let text = std::fs::read_to_string(&self.file).expect("frames");
        let is_there = |(_, marker): &(&String, &String)| text.contains(*marker);
        let received = of.iter().filter(is_there);
        received
            .map(|(name, marker)| (name.clone(), marker.clone()))
            .collect()
    }
}

/// Frames by their names, with what they are known by, in hexadecimal digits.
pub type Frames = BTreeMap<String, String>;

/// What [`FRAMES`] prints.
pub fn sent(text: &str) -> Frames {
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    pairs
        .map(|(name, marker)| (name.to_owned(), marker.to_owned()))
        .collect()
}

pub fn python_in(pid: u32) -> Command {
    let mut command = Command::new("nsenter");
    command.args([
        "--net",
        &format!("--target={pid}"),
        "--",
        "/usr/bin/python3",
    ]);
    command
}

#[test]
fn a_pod_sends_as_nobody_else() {
    let host = Host::new();
    host.switch(&format!(
        "{{ {} {} {} }}",
        sleeper("evil"),
        sleeper("near"),
        sleeper("other")
    ));
    let pid = |pod: &str| host.pid(pod, "app") as u32;
    let (evil, near, other) = (pid("evil"), pid("near"), pid("other"));
    let link = |pid: u32| {
        let line = sh_in(pid, "ip -o link show eth0");
        let mut words = line
            .split_whitespace()
            .skip_while(|word| *word != "link/ether");
        words.nth(1).expect("a hardware address").to_owned()
    };
    let ((own4, own6), (near4, near6)) = (addresses(evil), addresses(near));
    let (own_mac, near_mac) = (link(evil), link(near));
    let host6 = sh(
        &host,
        "ip -6 -o addr show dev tank0 scope global | sed 's/.*inet6 \\([^/]*\\).*/\\1/'",
    );
    let sniffers = [
        Sniffer::start(&host, "near", python_in(near), "eth0"),
        Sniffer::start(&host, "other", python_in(other), "eth0"),
        Sniffer::start(&host, "host", host.inside("/usr/bin/python3"), "tank0"),
    ];
    bridged_packets_are_looked_at(&host, false);
    let send = |which: &str| {
        let text = output(python_in(evil).args([
            "-c",
            &[HEADERS, FRAMES].concat(),
            &own_mac,
            &own4,
            &own6,
            &near_mac,
            &near4,
            &near6,
            "10.90.0.1",
            &host6,
            which,
        ]));
        sent(&text)
    };
    // The host has to know whom to take the place of.
    let toward_the_host = || {
        connect_from(near, "10.90.0.1", 9, SHORT);
        sh(&host, &format!("ip neigh show {near4}"))
    };
    eventually("the host knows it", || {
        toward_the_host().contains(&near_mac)
    });
    let strange = send("strange");
    assert!(strange.len() >= 30, "{strange:?}");
    let own = send("own");
    // What may be sent comes after what may not, and is seen.
    let received = |sniffer: &Sniffer| sniffer.received(&own);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while received(&sniffers[0]) != own && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(received(&sniffers[0]), own, "its own frames come by");
    for sniffer in &sniffers {
        assert_eq!(
            sniffer.received(&strange),
            Frames::new(),
            "{}",
            sniffer.file.display()
        );
    }
    // Nobody believes any of it: not the host, not the bridge, not a neighbour.
    let known = |text: &str, mac: &str| text.lines().any(|line| line.contains(mac));
    for (place, entry) in [
        ("the host", sh(&host, &format!("ip neigh show {near4}"))),
        (
            "other",
            sh_in(
                other,
                &format!("ip neigh show {near4}; ip -6 neigh show {near6}"),
            ),
        ),
        ("near", sh_in(near, "ip neigh show 10.90.0.1")),
    ] {
        assert!(!known(&entry, &own_mac), "{place}: {entry}");
    }
    // Nor what comes past the bridge, by its port.
    let all = sh(&host, "ip neigh show");
    assert!(!all.contains("172.31.0."), "{all}");
    assert!(!all.lines().any(|line| line.contains(" dev tk")), "{all}");
    // Nor that its own address is at another's place.
    for (place, entry) in [
        ("the host", sh(&host, &format!("ip -6 neigh show {own6}"))),
        ("other", sh_in(other, &format!("ip -6 neigh show {own6}"))),
    ] {
        assert!(!known(&entry, &near_mac), "{place}: {entry}");
    }
    let evil_port = sh_in(
        evil,
        "ip -o link show eth0 | sed 's/.*eth0@if\\([0-9]*\\):.*/\\1/'",
    );
    let ports = sh(&host, "ip -o link show master tank0");
    let evil_port = ports
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{evil_port}: ")))
        .and_then(|line| line.split('@').next())
        .expect("its port")
        .to_owned();
    let learnt = sh(
        &host,
        &format!("bridge fdb show br tank0 brport {evil_port}"),
    );
    assert!(
        known(&learnt, &own_mac) && !known(&learnt, &near_mac),
        "{learnt}"
    );
    assert_eq!(
        sh_in(near, "ip -6 route show default | grep -c via || true"),
        "1"
    );
    let near_server = listen_in(&host, near, "::", 80);
    for address in [&near4, &near6] {
        assert_eq!(
            connect_from(other, address, 80, PATIENT),
            "served",
            "{address}"
        );
        assert_eq!(connect(&host, address, 80), "served", "{address}");
    }

    // The root of a pod's network that takes another's address, or another place.
    sh_in(
        evil,
        &format!("ip addr add {near4}/32 dev lo; ip -6 addr add {near6}/128 dev lo nodad"),
    );
    let other_server = listen_in(&host, other, "::", 81);
    let (other4, other6) = addresses(other);
    let from = |source: &str, to: &str| {
        let script = "import socket, sys\ntry:\n    c = socket.create_connection((sys.argv[1], 81), timeout=1, source_address=(sys.argv[2], 0))\n    \
                      print(c.recv(100).decode())\nexcept OSError:\n    print('no connection')";
        output(python_in(evil).args(["-c", script, to, source]))
    };
    assert_eq!(from(&own4, &other4), "served");
    assert_eq!(from(&own6, &other6), "served");
    assert_eq!(from(&near4, &other4), "no connection");
    assert_eq!(from(&near6, &other6), "no connection");
    // Another hardware address is none for long.
    sh_in(evil, "ip link set eth0 address 02:00:00:00:00:99");
    eventually("it has its own again", || link(evil) == own_mac);
    drop((sniffers, near_server, other_server));
    host.finish();
}

/// What a pod may send as follows the pods, and those on their way out end as they are used to.
#[test]
fn the_sets_follow_the_pods() {
    let host = Host::new();
    let elements = |set: &str| {
        let text = sh(&host, &format!("nft list set bridge tank {set}"));
        text.matches("02:74:6b").count()
    };
    host.switch(&format!("{{ {} }}", sleeper("web")));
    assert_eq!(
        (elements("macs"), elements("senders4"), elements("senders6")),
        (1, 1, 2)
    );
    // It takes its time to end, and needs the network for it.
    let asked = host.dir.join("asked");
    let out = host.dir.join("out");
    for dir in [&asked, &out] {
        std::fs::create_dir(dir).expect("a folder");
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777)).expect("its mode");
    }
    let slow = format!(
        "pods.slow = {{ containers.app = {{ image = \"oci:./busybox\",
           command = [\"/bin/sh\", \"-c\", \"trap 'ping -c 1 -W 5 10.90.0.1 > /out/ping 2>&1; exit 0' TERM USR1; touch /out/up; while true; do sleep 0.1; done\"],
           capabilities.add = [\"CAP_NET_RAW\"], mounts.out = {{ volume = \"out\", path = \"/out\" }} }}, volumes.out.host = \"{}\" }},",
        out.display()
    );
    host.switch(&format!("{{ {} {slow} }}", sleeper("web")));
    assert_eq!(
        (elements("macs"), elements("senders4"), elements("senders6")),
        (2, 2, 4)
    );
    eventually("it runs", || out.join("up").exists());
    host.switch(&format!("{{ {} }}", sleeper("web")));
    let ping = std::fs::read_to_string(out.join("ping")).expect("what ping says");
    assert!(ping.contains("1 packets received"), "{ping}");
    assert_eq!(
        (elements("macs"), elements("senders4"), elements("senders6")),
        (1, 1, 2)
    );
    assert_eq!(host.tank(&["diff", "--exit-code"]).status, 0);
    // A port without its group, as one that an older Tank made.
    let groups = || {
        sh(
            &host,
            "ip -o link show master tank0 | grep -o 'group [a-z0-9]*'",
        )
    };
    let before = groups();
    assert!(before.starts_with("group 1953"), "{before}");
    sh(
        &host,
        "for port in $(ip -o link show master tank0 | cut -d: -f2 | cut -d@ -f1); do ip link set dev $port group 0; done",
    );
    eventually("it is in its group again", || groups() == before);
    host.finish();
}

/// Joins two groups, notes what is sent to them, and ends when it has heard of both.
const LISTENER: &str = r#"
import select, socket, struct, sys
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
four.bind(("", 7000))
four.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("0.0.0.0"))
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
six.bind(("::", 7000))
index = socket.if_nametoindex("eth0")
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(socket.AF_INET6, "ff15::123") + struct.pack("@I", index))
open(sys.argv[1], "w").close()
heard = set()
while len(heard) < 2:
    ready = select.select([four, six], [], [], 20)[0]
    if not ready:
        sys.exit("heard nothing")
    for s in ready:
        s.recv(100)
        heard.add(s.family.name)
print(sorted(heard))
"#;

const SPEAKER: &str = r#"
import socket, struct, time
four = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
six = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
for _ in range(10):
    four.sendto(b"x", ("239.1.2.3", 7000))
    six.sendto(b"x", ("ff15::123", 7000))
    time.sleep(0.1)
"#;

/// Nobody on the bridge learns who listens to a group, and nobody has to: a pod that asks, as a router
/// of multicast would, takes no group from the others.
#[test]
fn what_is_for_a_group_reaches_whoever_listens() {
    let host = Host::new();
    host.switch(&format!(
        "{{ {} {} {} }}",
        sleeper("evil"),
        sleeper("near"),
        sleeper("other")
    ));
    let pid = |pod: &str| host.pid(pod, "app") as u32;
    let (evil, near, other) = (pid("evil"), pid("near"), pid("other"));
    assert_eq!(
        sh(
            &host,
            "ip -d -o link show tank0 | grep -o 'mcast_snooping [01]'"
        )
        .trim(),
        "mcast_snooping 0"
    );
    let mac = sh_in(
        evil,
        "ip -o link show eth0 | sed 's/.*link\\/ether \\([^ ]*\\).*/\\1/'",
    );
    let ((own4, own6), (near4, near6)) = (addresses(evil), addresses(near));
    let mut asked = python_in(evil);
    asked.args([
        "-c",
        &[HEADERS, FRAMES].concat(),
        mac.trim(),
        &own4,
        &own6,
        "02:74:6b:00:00:09",
        &near4,
        &near6,
        "10.90.0.1",
        &near6,
        "strange",
    ]);
    assert!(output(&mut asked).contains("igmp-query"));
    let ready = host.dir.join("joined");
    let listener = python_in(near)
        .args(["-c", LISTENER])
        .arg(&ready)
        .stdout(Stdio::piped())
        .spawn()
        .expect("a listener");
    eventually("it has joined", || ready.exists());
    for speaker in [other, evil] {
        output(python_in(speaker).args(["-c", SPEAKER]));
    }
    let heard: Ended = listener.wait_with_output().expect("its end").into();
    assert_eq!(heard.ok().trim(), "['AF_INET', 'AF_INET6']");
    host.finish();
}
