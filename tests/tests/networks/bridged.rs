//! What bridges pass on, where the host's rules for IP are called for it (`br_netfilter`).

use super::*;
use std::process::Stdio;

/// Prints who sends to a port of UDP, when it has written that it is there.
const FROM_WHOM: &str = "import socket, sys
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(('', 6666))
server.settimeout(120)
open(sys.argv[1], 'w').write('ready')
print(server.recvfrom(100)[1][0])";

const TO_ALL: &str = "import socket
client = socket.socket(type=socket.SOCK_DGRAM)
client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
client.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b'eth1')
client.sendto(b'?', ('255.255.255.255', 6666))";

/// None of it is given the bridge's address.
#[test]
fn a_broadcast_comes_from_who_sent_it() {
    let site = Segment::new(true);
    let (networks, pods) = pods();
    switch(&site.host, &networks, &pods);
    let ready = site.host.dir.join("receives");
    let mut receiver = site.inside(From::Pod("web"), "python3");
    let receiver = receiver.args(["-c", FROM_WHOM]).arg(&ready);
    let receiver = receiver.stdout(Stdio::piped()).spawn().expect("python3");
    eventually("it receives", || ready.exists());
    let mut sender = site.inside(From::Pod("api"), "python3");
    // The route of a broadcast is the first link's: that of the network of both is the second.
    let sent = sender.args(["-c", TO_ALL]).status().expect("python3");
    assert!(sent.success());
    let output = receiver.wait_with_output().expect("it ends");
    let found = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert_eq!(found, site.addresses("api")["eth1"][0]);
    site.finish();
}

/// Asks for a port by a route that a pod's root would make, and prints each redirect (RFC 4861) that comes
/// within three seconds.
const REDIRECTS: &str = "import socket, subprocess, sys, time
bridge, to = sys.argv[1:]
subprocess.run(['ip', '-6', 'route', 'replace', to, 'via', bridge, 'dev', 'eth0'], check=True)
answers = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
for port in [8080, 8081]:
    client = socket.socket(socket.AF_INET6)
    client.setblocking(False)
    client.connect_ex((to, port))
end = time.monotonic() + 3
while (left := end - time.monotonic()) > 0:
    answers.settimeout(left)
    try:
        message = answers.recv(2048)
    except TimeoutError:
        break
    if message[0] == 137:
        print('redirected to', socket.inet_ntop(socket.AF_INET6, message[8:24]))";

/// What is published is nothing to a pod of an internal network, and neither is where it leads.
#[test]
fn an_internal_network_learns_of_no_published_port() {
    let site = Segment::new(true);
    let (networks, pods) = pods();
    switch(&site.host, &networks, &pods);
    let bridge = first_of(&site.addresses("db")["eth0"][1]);
    let mut asks = site.inside(From::Pod("db"), "python3");
    let output = asks.args(["-c", REDIRECTS, &bridge, UPLINK[1]]).output();
    let output = output.expect("python3");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "");
    site.finish();
}
