#!/usr/bin/env python3
"""How many queries a second a container has answered about another one, over UDP: by Tank's name server, by podman's
(aardvark-dns) and by docker's (127.0.0.11), by turns in one run. One after the other, and with several on their way at once.
The client is Python and takes most of the time: the figures say what a pod gets, not what the server can do.

Usage: names.py FOLDER-OF-PROGRAMS [--results FILE] [--runs N] [--queries N] [--tools tank,podman,docker]
"""

import argparse
import contextlib
import datetime
import json
import os
import sys

import hosts

CLIENT = """
import json, socket, struct, sys, time
server, name, count, window = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.connect((server, 53))
client.settimeout(5)
message = lambda n: struct.pack(">HHHHHH", n & 0xffff, 0x100, 1, 0, 0, 0) + labels + b"\\0\\0\\1\\0\\1"
messages = [message(n) for n in range(4096)]
sent = answered = 0
began = time.monotonic()
while answered < count:
    while sent < count and sent - answered < window:
        client.send(messages[sent & 4095])
        sent += 1
    answer = client.recv(512)
    # A name that is not known is answered sooner, and lost ones would be waited for.
    assert answer[3] & 15 == 0 and answer[7] > 0, answer
    answered += 1
print(json.dumps(time.monotonic() - began))
"""


class Podman(hosts.Podman):
    """In a network of its own: only those have names."""

    server, name_of = None, "p1.dns.podman"

    def bring_up(self):
        self("network", "create", "bench")
        for name in ("p0", "p1"):
            hosts.timed(self.start(name, "--network=bench"), self.view)
        self.server = json.loads(self("network", "inspect", "bench"))[0]["subnets"][0]["gateway"]

    def stop(self):
        self("rm", "--all", "--force", "--time", "0")
        self("network", "rm", "--force", "bench")
        super().stop()


class Docker(hosts.Docker):
    """In a network of its own: only those have names."""

    server, name_of = "127.0.0.11", "p1"

    def bring_up(self):
        self("network", "create", "bench")
        for name in ("p0", "p1"):
            hosts.timed(self.start(name, "--network=bench"), self.view)


class Tank(hosts.Tank):
    server, name_of = "10.90.0.1", "p1"

    def bring_up(self):
        self.switch("{" + self.pod("p0") + self.pod("p1") + "}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs")
    parser.add_argument("--results")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--tools", default="tank,podman,docker")
    arguments = parser.parse_args()
    programs, results = os.path.abspath(arguments.programs), arguments.results and os.path.abspath(arguments.results)
    wanted = arguments.tools.split(",")
    hosts.enter_namespaces()
    samples, load = {}, [round(value, 1) for value in os.getloadavg()]
    with hosts.workspace() as folder, contextlib.ExitStack() as ending:
        os.chmod(folder, 0o755)
        root, marks = hosts.Root(folder), hosts.Marks(folder)
        beside = hosts.Debian13(folder) if wanted != ["tank"] else None
        if beside:
            ending.callback(beside.stop)
        make = {
            "tank": lambda: Tank(folder, programs, root, marks),
            "podman": lambda: Podman(folder, beside, root, marks),
            "docker": lambda: Docker(folder, beside, root, marks),
        }
        tools = []
        for name in wanted:
            tools.append(make[name]())
            ending.callback(tools[-1].stop)
        if "docker" in wanted:
            hosts.let_others_pass(beside.view)
        for tool in tools:
            tool.bring_up()
        for _ in range(arguments.runs):
            for window in (1, 16):
                for tool in tools:
                    client = [sys.executable, "-c", CLIENT, tool.server, tool.name_of, str(arguments.queries), str(window)]
                    took = json.loads(hosts.run(["nsenter", "--net", f"--target={tool.pid('p0')}", *client]))
                    samples.setdefault((f"queries a second, {window} at once", tool.name), []).append(arguments.queries / took)
        versions = {tool.name: tool.version() for tool in tools}
    rows = [{"what": what, "tool": tool, **hosts.describe(values)} for (what, tool), values in samples.items()]
    hosts.beside(rows, f"{os.cpu_count()} cores, Linux {os.uname().release}, load {load[0]}, {', '.join(versions.values())}")
    if results:
        about = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "kernel": os.uname().release, "load": load, "bench": "names", "versions": versions}
        with open(results, "a", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps({**about, **row}) + "\n")


if __name__ == "__main__":
    main()
