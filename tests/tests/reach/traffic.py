"""Traffic of both protocols and both families.

    traffic.py serve PORT READY             says to everybody who asks which address they have
    traffic.py receive PORT FILE            writes down what arrives, and from whom
    traffic.py say ADDRESS PORT TEXT [FROM] sends it that, from one of its own addresses
    traffic.py forge FROM ADDRESS PORT TEXT sends it that over eth0 as somebody else, past the bridge
    traffic.py route ADDRESS                says over eth0, past the bridge, that this is a router
"""

import socket
import struct
import sys
import threading


def address_of(peer):
    return peer[0].removeprefix("::ffff:").encode()


def serve(port, ready):
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", int(port)))
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)

    def answer_datagrams():
        while True:
            _, peer = datagrams.recvfrom(100)
            datagrams.sendto(address_of(peer), peer)

    threading.Thread(target=answer_datagrams, daemon=True).start()
    open(ready, "w").close()
    while True:
        connection, peer = listener.accept()
        connection.sendall(address_of(peer))
        connection.close()


def receive(port, file):
    listener = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    listener.bind(("::", int(port)))
    with open(file, "w", buffering=1) as out:
        out.write("ready\n")
        while True:
            text, peer = listener.recvfrom(100)
            out.write(f"{text.decode()} {address_of(peer).decode()}\n")


def say(address, port, text, source=None):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    client = socket.socket(family, socket.SOCK_DGRAM)
    if source:
        client.bind((source, 0))
    client.sendto(text.encode(), (address, int(port)))


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~total & 0xFFFF)


def packet(source, destination, protocol, body, check_at):
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    source, destination = (socket.inet_pton(family, address) for address in (source, destination))
    pseudo = source + destination + struct.pack("!II", len(body), protocol)
    body = body[:check_at] + checksum(pseudo + body) + body[check_at + 2 :]
    if family == socket.AF_INET6:
        return 0x86DD, struct.pack("!IHBB", 6 << 28, len(body), protocol, 255) + source + destination + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, 0, 64, protocol, 0) + source + destination
    return 0x0800, head[:10] + checksum(head) + head[12:] + body


def send(kind, bytes_):
    """To the address of LLDP: a bridge does not forward it, and gives it to the host."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    link.bind(("eth0", 0))
    link.send(bytes.fromhex("0180c200000e") + link.getsockname()[4] + struct.pack("!H", kind) + bytes_)


def forge(source, address, port, text):
    datagram = struct.pack("!HHHH", 9999, int(port), 8 + len(text), 0) + text.encode()
    send(*packet(source, address, 17, datagram, 6))


def route(source):
    advertisement = struct.pack("!BBHBBHII", 134, 0, 0, 64, 8, 1800, 0, 0)
    send(*packet(source, "ff02::1", 58, advertisement, 2))


COMMANDS = {"serve": serve, "receive": receive, "say": say, "forge": forge, "route": route}
COMMANDS[sys.argv[1]](*sys.argv[2:])
