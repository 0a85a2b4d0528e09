"""A client of a name server, a server to be asked by it, and ways to be a nuisance. Messages are put together by hand: what is
tested is not the library that the server uses.

    dns.py ask SERVER NAME TYPE [tcp] [edns=SIZE] [source=ADDRESS] [tries=N]    one query; its answer as JSON, or "nothing"
    dns.py load SERVER NAME COUNT READY     so many queries one after the other, each waited for; how many had no answer
    dns.py flood SERVER SECONDS [NAME]      as many as it can, without a look at the answers
    dns.py each SERVER COUNT NAME           as many queries, each of a name of its own below that; how many were answered
    dns.py slow SERVER COUNT SECONDS        connections that send a byte and wait
    dns.py serve ADDRESS LOG NUMBER         answers for example.org with 198.51.100.NUMBER, and writes what it is asked
"""

import json
import os
import socket
import struct
import sys
import threading
import time

TYPES = {"A": 1, "SOA": 6, "PTR": 12, "TXT": 16, "AAAA": 28, "AXFR": 252, "ANY": 255}


def name_bytes(name):
    labels = [label.encode() for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(number, name, kind, edns=None):
    extra = b"" if edns is None else b"\0" + struct.pack(">HHIH", 41, edns, 0, 0)
    header = struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0 if edns is None else 1)
    return header + name_bytes(name) + struct.pack(">HH", TYPES[kind], 1) + extra


def read_name(message, at):
    labels, end = [], None
    while message[at]:
        if message[at] >= 0xC0:
            end = end or at + 2
            at = struct.unpack(">H", message[at : at + 2])[0] & 0x3FFF
            continue
        labels.append(message[at + 1 : at + 1 + message[at]].decode())
        at += 1 + message[at]
    return ".".join(labels), end or at + 1


def read(message):
    number, flags, questions, *counts = struct.unpack(">HHHHHH", message[:12])
    at = 12
    for _ in range(questions):
        _, at = read_name(message, at)
        at += 4
    answers, ttls, kinds = [], [], []
    for section, count in enumerate(counts):
        for _ in range(count):
            _, at = read_name(message, at)
            kind, _, ttl, length = struct.unpack(">HHIH", message[at : at + 10])
            data = message[at + 10 : at + 10 + length]
            kinds.append((section, kind))
            if section == 0:
                ttls.append(ttl)
                if kind == 1:
                    answers.append(socket.inet_ntop(socket.AF_INET, data))
                elif kind == 28:
                    answers.append(socket.inet_ntop(socket.AF_INET6, data))
                elif kind == 12:
                    answers.append(read_name(message, at + 10)[0])
            at += 10 + length
    return {
        "id": number,
        "code": flags & 15,
        "authoritative": bool(flags & 0x400),
        "truncated": bool(flags & 0x200),
        "answers": answers,
        "ttl": min(ttls, default=None),
        "soa": (1, 6) in kinds,
        "edns": (2, 41) in kinds,
        "size": len(message),
    }


def family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def receive_all(connection, length):
    data = b""
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise OSError("closed")
        data += more
    return data


def ask(server, name, kind, *options):
    edns = next((int(option[5:]) for option in options if option.startswith("edns=")), None)
    source = next((option[7:] for option in options if option.startswith("source=")), None)
    tries = next((int(option[6:]) for option in options if option.startswith("tries=")), 1)
    message = query(0x1234, name, kind, edns)
    for _ in range(tries):
        try:
            if "tcp" in options:
                connection = socket.create_connection((server, 53), timeout=8 if source is None else 2)
                connection.sendall(struct.pack(">H", len(message)) + message)
                answer = receive_all(connection, struct.unpack(">H", receive_all(connection, 2))[0])
            else:
                client = socket.socket(family(server), socket.SOCK_DGRAM)
                client.settimeout(8 if source is None and tries == 1 else 2)
                if source:
                    client.bind((source, 0))
                client.connect((server, 53))
                client.send(message)
                answer = client.recv(65535)
            print(json.dumps(read(answer)))
            return
        except OSError:
            pass
    print('"nothing"')


def load(server, name, count, ready):
    client = socket.socket(family(server), socket.SOCK_DGRAM)
    client.connect((server, 53))
    client.settimeout(5)
    messages = [query(number, name, "A") for number in range(1 << 12)]
    lost, began, longest = 0, time.monotonic(), 0.0
    for index in range(int(count)):
        if index == int(count) // 20:
            open(ready, "w").close()
        number = index & 0xFFF
        at = time.monotonic()
        try:
            client.send(messages[number])
            answer = client.recv(512)
            while answer[:2] != messages[number][:2]:
                answer = client.recv(512)
            lost += answer[3] & 15 != 0 or answer[7] == 0
        except OSError:
            lost += 1
        longest = max(longest, time.monotonic() - at)
    print(json.dumps({"lost": lost, "seconds": time.monotonic() - began, "longest": longest}))


def flood(server, seconds, name="web"):
    client = socket.socket(family(server), socket.SOCK_DGRAM)
    client.connect((server, 53))
    client.setblocking(False)
    message = query(1, name, "A")
    noise = [message, os.urandom(200), message[:13], message + os.urandom(100)]
    end, sent = time.monotonic() + float(seconds), 0
    while time.monotonic() < end:
        for _ in range(100):
            try:
                client.send(noise[sent & 3])
                sent += 1
            except OSError:
                pass
    print(sent)


def each(server, count, name):
    answered = 0
    for number in range(int(count)):
        client = socket.socket(family(server), socket.SOCK_DGRAM)
        client.settimeout(8)
        client.connect((server, 53))
        client.send(query(number, f"n{number}.{name}", "A"))
        try:
            answered += len(client.recv(65535)) > 12
        except OSError:
            pass
    print(answered)


def slow(server, count, seconds):
    connections = []
    for _ in range(int(count)):
        try:
            connection = socket.create_connection((server, 53), timeout=2)
            connection.sendall(b"\0")
            connections.append(connection)
        except OSError:
            pass
    print(len(connections), flush=True)
    time.sleep(float(seconds))


def answer_for(message, number, over_tcp):
    """The replies to a query, in the order in which they are sent."""
    name, end = read_name(message, 12)
    question = message[12 : end + 4]
    kind = struct.unpack(">H", message[end : end + 2])[0]
    record = b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + bytes([198, 51, 100, number])

    def reply(flags, records, question=question, id=message[:2]):
        return id + struct.pack(">HHHHH", 0x8180 | flags, 1, len(records), 0, 0) + question + b"".join(records)

    host = name.lower()
    if kind != 1:
        return [reply(0, [])]
    if ".heavy." in host:
        # Each record refers to a name of 240 bytes, with four bytes of its own.
        if not over_tcp:
            return [reply(0x200, [])]
        long = b"".join([b"\x01x"] * 120) + b"\0"
        first = long + struct.pack(">HHIHHB", 15, 1, 3600, 3, 1, 0)
        refer = struct.pack(">H", 0xC000 | 12 + len(question))
        rest = refer + struct.pack(">HHIHH", 15, 1, 3600, 4, 1) + refer
        return [reply(0, [first] + [rest] * 4000)]
    if host.startswith("gone."):
        return [reply(3, [])]
    if host.startswith("refused."):
        return [reply(5, [])]
    if host.startswith("silent."):
        return []
    if host.startswith("big."):
        return [reply(0, [record] * 100)] if over_tcp else [reply(0x200, [])]
    if host.startswith("lie."):
        other = b"\x05other" + question[4:]
        wrong = record[:-4] + bytes([203, 0, 113, 66])
        return [
            reply(0, [wrong], id=bytes([message[0] ^ 1, message[1]])),
            reply(0, [wrong], question=other),
            os.urandom(40),
            reply(0, [record]),
        ]
    return [reply(0, [record])]


def serve(address, log, number):
    out = open(log, "a", buffering=1)
    listener = socket.create_server((address, 53), family=family(address))

    def over_tcp():
        while True:
            connection, _ = listener.accept()
            try:
                message = receive_all(connection, struct.unpack(">H", receive_all(connection, 2))[0])
                out.write(f"tcp {read_name(message, 12)[0]}\n")
                for reply in answer_for(message, int(number), True):
                    connection.sendall(struct.pack(">H", len(reply)) + reply)
            except OSError:
                pass
            connection.close()

    threading.Thread(target=over_tcp, daemon=True).start()
    server = socket.socket(family(address), socket.SOCK_DGRAM)
    if ":" in address:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    server.bind((address, 53))
    out.write("ready\n")
    while True:
        message, client = server.recvfrom(65535)
        out.write(f"udp {read_name(message, 12)[0]}\n")
        for reply in answer_for(message, int(number), False):
            server.sendto(reply, client)


{"ask": ask, "load": load, "flood": flood, "each": each, "slow": slow, "serve": serve}[sys.argv[1]](*sys.argv[2:])
