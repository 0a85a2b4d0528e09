"""Flows that last.

    flows.py serve PORT NAME READY        answers everybody with a name, by TCP as often as asked
    flows.py ask PORT ADDRESS4 ADDRESS6   for each line `udp` or `tcp`: who answers at both, from sockets that
                                          stay open
"""

import socket
import sys
import threading

# What is dropped is dropped each time; an answer takes no second.
LIMIT = 1.0


def serve(port, name, ready):
    datagrams = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    datagrams.bind(("::", int(port)))
    listener = socket.create_server(("::", int(port)), family=socket.AF_INET6, dualstack_ipv6=True)

    def answer_datagrams():
        while True:
            _, peer = datagrams.recvfrom(100)
            datagrams.sendto(name.encode(), peer)

    def answer(connection):
        while connection.recv(1):
            connection.sendall(name.encode())

    threading.Thread(target=answer_datagrams, daemon=True).start()
    open(ready, "w").close()
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=answer, args=(connection,), daemon=True).start()


def opened(kind, port, addresses):
    clients = []
    for address in addresses:
        client = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        client.settimeout(LIMIT)
        client.connect((address, int(port)))
        clients.append(client)
    return clients


def who(client):
    # A refusal of before may come first.
    for _ in range(3):
        try:
            client.send(b"?")
            return client.recv(100).decode()
        except ConnectionRefusedError:
            continue
        except TimeoutError:
            return "nobody"
    return "nobody"


def ask(port, *addresses):
    clients = {"udp": opened(socket.SOCK_DGRAM, port, addresses)}
    print("ready", flush=True)
    for line in sys.stdin:
        what = line.strip()
        if what not in clients:
            clients[what] = opened(socket.SOCK_STREAM, port, addresses)
        print(*(who(client) for client in clients[what]), flush=True)


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
