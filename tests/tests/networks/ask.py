"""Asks many at once who they see, over both protocols: "tcp|udp|echo ADDRESS PORT" for each argument, and prints for each
what was answered, "refused" or "nothing". Who answers is traffic.py of the tests of reach."""

import concurrent.futures
import json
import random
import socket
import struct
import sys
import time

# A packet that is dropped is dropped each time; an answer takes no second, but on a busy machine.
LIMIT = 2.0


def echo(family, address):
    is_v6 = family == socket.AF_INET6
    client = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if is_v6 else socket.IPPROTO_ICMP)
    client.settimeout(LIMIT)
    number = random.getrandbits(32)
    kind = 128 if is_v6 else 8
    total = kind << 8 | 0
    total += (number >> 16) + (number & 0xFFFF)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    # That of ICMPv6 is the kernel's to fill in.
    request = struct.pack("!BBHI", kind, 0, 0 if is_v6 else ~total & 0xFFFF, number)
    try:
        client.connect((address, 0))
        client.send(request)
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            message = client.recv(2048)
            message = message if is_v6 else message[(message[0] & 15) * 4 :]
            if message[0] == (129 if is_v6 else 0) and message[4:8] == request[4:8]:
                return "echo"
    except OSError:
        pass
    return "nothing"


def ask(text):
    protocol, address, port = text.split()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    if protocol == "echo":
        return echo(family, address)
    client = socket.socket(family, socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    client.settimeout(LIMIT)
    try:
        client.connect((address, int(port)))
        if protocol == "udp":
            client.send(b"?")
        return client.recv(100).decode()
    except ConnectionRefusedError:
        return "refused"
    except OSError:
        return "nothing"


with concurrent.futures.ThreadPoolExecutor(64) as pool:
    print(json.dumps(list(pool.map(ask, sys.argv[1:]))))
