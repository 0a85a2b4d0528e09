//! What belongs to no connection is not translated: it would leave with a pod's own address.

use super::{
    RUN, addresses, output,
    spoof::{Sniffer, python_in},
};
use std::time::Duration;
use tank_tests::{
    eventually,
    packets::HEADERS,
    segment::{From, NEIGHBOUR, Segment},
};

/// Sends packets that belong to no connection, and one that begins one, behind them; each has its name in
/// it, behind [`HEADERS`]: `LINK OWN4 OWN6 TO4 TO6 MAC`.
const PACKETS: &str = r#"
link, own4, own6, to4, to6, mac = sys.argv[1:]
def tcp(a, b, flags, name, wrong=0):
    segment = struct.pack("!HHIIBBHHH", 4000, 4001, 1, 1, 0x50, flags, 1000, 0, 0) + name
    total = sum16(pseudo(a, b, 6, len(segment)) + segment) ^ wrong
    return ip(a, b, 6, segment[:16] + struct.pack("!H", total) + segment[18:])
def udp(a, b, name):
    datagram = struct.pack("!HHHH", 4000, 4001, 8 + len(name), 0) + name
    total = sum16(pseudo(a, b, 17, len(datagram)) + datagram)
    return ip(a, b, 17, datagram[:6] + struct.pack("!H", total) + datagram[8:])
def discovery(a, b, kind, name):
    message = struct.pack("!BBHI", kind, 0, 0, 0) + ipaddress.ip_address(b).packed + name
    total = sum16(pseudo(a, b, 58, len(message)) + message)
    return ip(a, b, 58, message[:2] + struct.pack("!H", total) + message[4:])
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
s.bind((link, 0))
own = s.getsockname()[4]
frames = []
for family, a, b in (("4", own4, to4), ("6", own6, to6)):
    kind = 0x800 if family == "4" else 0x86dd
    frames += [(kind, tcp(a, b, 3, b"<syn-fin-%s>" % family.encode())), (kind, tcp(a, b, 4, b"<reset-%s>" % family.encode()))]
    frames += [(kind, tcp(a, b, 2, b"<sum-%s>" % family.encode(), 1))]
frames += [(0x86dd, discovery(own6, to6, 135, b""))]
frames += [(0x800, udp(own4, to4, b"<last-4>")), (0x86dd, udp(own6, to6, b"<last-6>"))]
for kind, packet in frames:
    s.send(bytes.fromhex(mac.replace(":", "")) + own + struct.pack("!H", kind) + packet)
"#;

#[test]
fn nothing_leaves_with_a_pods_own_address() {
    let site = Segment::new(false);
    site.host.switch(&format!(
        "{{ pods.web.containers.app = {{ image = \"oci:./busybox\", {RUN} }} }}"
    ));
    let web = u32::try_from(site.host.pid("web", "app")).expect("a pid");
    let (own4, own6) = addresses(web);
    let sniffer = Sniffer::start(
        &site.host,
        "neighbour",
        site.inside(From::Neighbour, "/usr/bin/python3"),
        "eth0",
    );
    let [to4, to6] = NEIGHBOUR;
    output(python_in(web).args([
        "-c",
        &[HEADERS, PACKETS].concat(),
        "eth0",
        &own4,
        &own6,
        to4,
        to6,
        "02:74:6b:ff:00:01",
    ]));
    for last in ["<last-4>", "<last-6>"] {
        eventually(last, || sniffer.has(last.as_bytes()));
    }
    std::thread::sleep(Duration::from_millis(200));
    for name in ["syn-fin", "reset", "sum"] {
        for family in ["4", "6"] {
            let name = format!("<{name}-{family}>");
            assert!(!sniffer.has(name.as_bytes()), "{name} left");
        }
    }
    let octets = |address: &str| match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(v4)) => v4.octets().to_vec(),
        Ok(std::net::IpAddr::V6(v6)) => v6.octets().to_vec(),
        Err(error) => panic!("{address}: {error}"),
    };
    for own in [&own4, &own6] {
        assert!(!sniffer.has(&octets(own)), "something left with {own}");
    }
    drop(sniffer);
    site.finish();
}
