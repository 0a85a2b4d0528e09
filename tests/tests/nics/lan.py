"""Who is on a network: a server that says who it is and who asked, and a client, by TCP and UDP; and a
neighbour that sends and reads frames as it likes. Prints what it learnt."""

import fcntl
import socket
import struct
import sys
import threading
import time

PORT = 7000
LIMIT = 5.0


def serve(name, ready):
    tcp = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
    udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    udp.bind(("::", PORT))

    def plain(peer):
        return peer[0].removeprefix("::ffff:")

    def answer_udp():
        while True:
            _, peer = udp.recvfrom(1500)
            udp.sendto(f"{name} {plain(peer)}".encode(), peer)

    threading.Thread(target=answer_udp, daemon=True).start()
    with open(ready, "w") as file:
        file.write("ready")
    while True:
        connection, peer = tcp.accept()
        with connection:
            connection.recv(16)
            connection.sendall(f"{name} {plain(peer)}".encode())


def ask(*addresses):
    """Who answers at each, by TCP, then by UDP: a line for each."""
    for address in addresses:
        for protocol in ("tcp", "udp"):
            print(ask_by(protocol, address))


def ask_by(protocol, address):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, kind) as client:
        client.settimeout(LIMIT)
        try:
            client.connect((address, PORT))
            client.sendall(b"?")
            return f"{protocol} {address}: " + client.recv(1500).decode()
        except OSError as error:
            return f"{protocol} {address}: nothing, {type(error).__name__}"


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def ping(*addresses):
    """Whether echo requests are answered: a line for each."""
    for address in addresses:
        print(address, "answers" if answers_pings(address) else "is silent")


def answers_pings(address):
    v6 = ":" in address
    family, protocol = (socket.AF_INET6, 58) if v6 else (socket.AF_INET, 1)
    with socket.socket(family, socket.SOCK_RAW, protocol) as raw:
        echo = struct.pack("!BBHHH", 128 if v6 else 8, 0, 0, 7, 7) + b"lan."
        # That of IPv6 is the kernel's to fill in.
        echo = echo[:2] + struct.pack("!H", checksum(echo)) + echo[4:]
        raw.sendto(echo, (address, 0))
        until = time.monotonic() + LIMIT
        while (left := until - time.monotonic()) > 0:
            raw.settimeout(left)
            try:
                answer, peer = raw.recvfrom(1500)
            except TimeoutError:
                break
            answer = answer if v6 else answer[20:]
            if peer[0] == address and answer[0] == (129 if v6 else 0) and answer[-4:] == b"lan.":
                return True
    return False


def udp_frame(to_mac, from_mac, source, destination, port, payload):
    mac = lambda text: bytes.fromhex(text.replace(":", ""))
    data = struct.pack("!HHHH", 4444, port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(destination)
    head = head[:10] + struct.pack("!H", checksum(head)) + head[12:]
    return mac(to_mac) + mac(from_mac) + b"\x08\x00" + head + data


def send(link, *frame):
    """One packet of UDP, in a frame of whomever."""
    to_mac, from_mac, source, destination, port, payload = frame
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((link, 0))
        frame = udp_frame(to_mac, from_mac, source, destination, int(port), payload.encode())
        raw.send(frame)


def receive(port, ready, seconds):
    """What arrives at a port of UDP within a time."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", int(port)))
        with open(ready, "w") as file:
            file.write("ready")
        until = time.monotonic() + float(seconds)
        while (left := until - time.monotonic()) > 0:
            server.settimeout(left)
            try:
                payload, peer = server.recvfrom(1500)
                print(f"{payload.decode()} {peer[0]}", flush=True)
                if payload == b"end":
                    return
            except TimeoutError:
                return


def who_has(link, source, target):
    """Which hardware addresses answer for an address, by ARP, within a second."""
    # netdevice(7); /sys may be another network's.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        asked = struct.pack("256s", link.encode())
        own = fcntl.ioctl(any_socket, 0x8927, asked)[18:24]
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as raw:
        raw.bind((link, 0x0806))
        arp = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + socket.inet_aton(source)
        arp += bytes(6) + socket.inet_aton(target)
        raw.send(b"\xff" * 6 + own + b"\x08\x06" + arp)
        answers = set()
        until = time.monotonic() + 1
        while (left := until - time.monotonic()) > 0:
            raw.settimeout(left)
            try:
                frame = raw.recv(1500)
            except TimeoutError:
                break
            if frame[20:22] == b"\x00\x02" and frame[28:32] == socket.inet_aton(target):
                answers.add(frame[22:28].hex(":"))
        print(" ".join(sorted(answers)))


{
    "serve": serve,
    "ask": ask,
    "ping": ping,
    "send": send,
    "receive": receive,
    "who_has": who_has,
}[sys.argv[1]](*sys.argv[2:])
