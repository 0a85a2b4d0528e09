"""Traffic of both protocols and both families.

    traffic.py serve PORT READY             says to everybody who asks which address they have
    traffic.py ask tcp|udp ADDRESS PORT     what is said, or "refused", or "nothing"
"""

import socket
import sys
import threading

# A packet that is dropped is dropped each time; an answer takes no second.
LIMIT = 1.0


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


def ask(protocol, address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    client = socket.socket(family, kind)
    client.settimeout(LIMIT)
    try:
        client.connect((address, int(port)))
        if protocol == "udp":
            client.send(b"?")
        print(client.recv(100).decode())
    except ConnectionRefusedError:
        print("refused")
    except OSError:
        print("nothing")


{"serve": serve, "ask": ask}[sys.argv[1]](*sys.argv[2:])
