#!/usr/bin/env python3
"""What the network of a container carries, and what its ports cost: Tank beside podman (netavark) and docker, in one run, by
turns, with one program at both ends (wire.c) that is run in the network namespaces of the containers.

* pod to pod: from one container to another, over the bridge.
* outside to port: from another network namespace, over a link, to a published port at the host's address.
* host to port: from the host to the published port on 127.0.0.1 (docker has a proxy process there).
* ports: from nothing to a container that runs with so many ports published, the whole command; and without any.

*The kernel alone* is two network namespaces at a bridge without rules, and one behind a router without rules.

Usage: network.py FOLDER-OF-PROGRAMS [--results FILE] [--runs N] [--milliseconds N] [--only wire,ports]
"""

import argparse
import contextlib
import datetime
import json
import os
import subprocess
import time

import hosts

PORT = 5001
TOOLS = ("tank", "kernel", "podman", "docker")
# How many ports are published at once; the peers, which have a rule or a process for each, only so many.
PORTS, PEERS_PORTS = (50, 1000), (50,)


def address(pid):
    """The IPv4 address of a container's first interface."""
    found = json.loads(hosts.run(["nsenter", "--net", f"--target={pid}", "ip", "-json", "-4", "address", "show", "scope", "global"]))
    return found[0]["addr_info"][0]["local"]


class Kernel:
    """Two network namespaces at a bridge, and a router before them; no rule anywhere."""

    name = "kernel"

    def __init__(self):
        self.holders = {}
        hosts.run(["sh", "-c", "ip link add kern0 type bridge; ip addr add 10.99.0.1/16 dev kern0; ip link set kern0 up"])
        for number, name in enumerate(("server", "client"), 2):
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
            own = os.readlink("/proc/self/ns/net")
            hosts.wait_for(lambda holder=holder: os.readlink(f"/proc/{holder.pid}/ns/net") != own, "a network namespace")
            hosts.run(["ip", "link", "add", f"kern{number}", "master", "kern0", "up", "type", "veth", "peer", "name", "eth0", "netns", str(holder.pid)])
            inside = f"ip link set lo up; ip addr add 10.99.0.{number}/16 dev eth0; ip link set eth0 up; ip route add default via 10.99.0.1"
            hosts.run(["nsenter", "--net", f"--target={holder.pid}", "sh", "-c", inside])
            self.holders[name] = holder

    def pid(self, name):
        return self.holders[name].pid

    def stop(self):
        for holder in self.holders.values():
            holder.kill()
            holder.wait()
        hosts.run(["ip", "link", "delete", "kern0"])


class Wire:
    """A server in one container of each, published at a port of its own, and everybody who asks it."""

    def __init__(self, folder, tools, ending):
        self.program = os.path.join(folder, "wire")
        hosts.run(["gcc", "-O2", "-static", "-o", self.program, os.path.join(hosts.HERE, "wire.c")])
        self.tools, self.ports = tools, {tool.name: 18000 + number for number, tool in enumerate(tools)}
        self.outside = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], stdin=subprocess.DEVNULL)
        ending.callback(self.end, self.outside)
        own = os.readlink("/proc/self/ns/net")
        hosts.wait_for(lambda: os.readlink(f"/proc/{self.outside.pid}/ns/net") != own, "a network namespace")
        hosts.run(["ip", "link", "add", "wan0", "type", "veth", "peer", "name", "eth0", "netns", str(self.outside.pid)])
        hosts.run(["sh", "-c", "ip addr add 192.0.2.1/24 dev wan0; ip link set wan0 up; sysctl -qw net.ipv4.ip_forward=1"])
        inside = "ip link set lo up; ip addr add 192.0.2.2/24 dev eth0; ip link set eth0 up; ip route add default via 192.0.2.1"
        hosts.run(["nsenter", "--net", f"--target={self.outside.pid}", "sh", "-c", inside])
        for tool in tools:
            self.bring_up(tool)
            server = subprocess.Popen(
                ["nsenter", "--net", f"--target={tool.pid('server')}", self.program, "serve", str(PORT)], stdin=subprocess.DEVNULL,
            )
            ending.callback(self.end, server)

    @staticmethod
    def end(process):
        process.kill()
        process.wait()

    def bring_up(self, tool):
        port = self.ports[tool.name]
        if tool.name == "tank":
            publish = f'publish.wire = {{ port = {port}, to = {PORT}, address = "0.0.0.0" }},'
            tool.switch("{" + tool.pod("server", more=publish) + tool.pod("client") + "}")
        elif tool.name != "kernel":
            hosts.timed(tool.start("server", "--publish", f"{port}:{PORT}"), tool.view)
            hosts.timed(tool.start("client"), tool.view)

    def ask(self, verb, pid, address, port, milliseconds):
        command = ["nsenter", "--net", f"--target={pid}"] if pid else []
        return float(hosts.run([*command, self.program, verb, address, str(port), str(milliseconds)]))

    def paths(self, tool):
        server = address(tool.pid("server"))
        yield "pod to pod", tool.pid("client"), server, PORT
        if tool.name == "kernel":
            yield "outside to port", self.outside.pid, server, PORT
        else:
            yield "outside to port", self.outside.pid, "192.0.2.1", self.ports[tool.name]
            yield "host to port", None, "127.0.0.1", self.ports[tool.name]

    def measure(self, samples, milliseconds):
        for tool in self.tools:
            for path, pid, to, port in self.paths(tool):
                hosts.wait_for(lambda pid=pid, to=to, port=port: self.answers(pid, to, port), f"{tool.name}: {path}")
                samples.setdefault((f"{path}, MiB a second", tool.name), []).append(self.ask("send", pid, to, port, milliseconds) / (1 << 20))
                samples.setdefault((f"{path}, connections a second", tool.name), []).append(self.ask("connect", pid, to, port, milliseconds))

    def answers(self, pid, to, port):
        try:
            return self.ask("connect", pid, to, port, 1)
        except RuntimeError:
            return None

    def down(self):
        for tool in self.tools:
            if tool.name == "tank":
                tool.switch("{}")
            elif tool.name != "kernel":
                for name in ("server", "client"):
                    tool.remove(name)


def ports(tools, samples):
    """A container with so many ports, from nothing; then the ports of one that runs already, which only Tank can change."""
    def timed(what, tool, function):
        before = time.monotonic_ns()
        function()
        samples.setdefault((what, tool.name), []).append((time.monotonic_ns() - before) / 1e6)

    for tool in tools:
        if tool.name == "kernel":
            continue
        if tool.name == "tank":
            plain = lambda: tool.switch("{" + tool.pod("ports") + "}")
            timed("a container, ms", tool, plain)
            for number in PORTS:
                publish = f'publish.many = {{ port = "20000-{20000 + number - 1}", address = "0.0.0.0" }},'
                timed(f"{number} ports more for one that runs, ms", tool, lambda publish=publish: tool.switch("{" + tool.pod("ports", more=publish) + "}"))
                timed(f"{number} ports of one that runs taken away, ms", tool, plain)
                tool.switch("{}")
                timed(f"a container with {number} ports, ms", tool, lambda publish=publish: tool.switch("{" + tool.pod("ports", more=publish) + "}"))
                timed(f"a container with {number} ports removed, ms", tool, lambda: tool.switch("{}"))
                plain()
            tool.switch("{}")
            continue
        timed("a container, ms", tool, lambda: hosts.timed(tool.start("ports"), tool.view))
        tool.remove("ports")
        for number in PEERS_PORTS:
            range_ = f"20000-{20000 + number - 1}"
            timed(f"a container with {number} ports, ms", tool, lambda: hosts.timed(tool.start("ports", "--publish", f"{range_}:{range_}"), tool.view))
            timed(f"a container with {number} ports removed, ms", tool, lambda: tool.remove("ports"))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs")
    parser.add_argument("--results")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--milliseconds", type=int, default=2000)
    parser.add_argument("--only", default="wire,ports")
    parser.add_argument("--tools", default=",".join(TOOLS))
    arguments = parser.parse_args()
    programs, results = os.path.abspath(arguments.programs), arguments.results and os.path.abspath(arguments.results)
    hosts.enter_namespaces()
    samples, load = {}, [round(value, 1) for value in os.getloadavg()]
    with hosts.workspace() as folder, contextlib.ExitStack() as ending:
        os.chmod(folder, 0o755)
        root, marks = hosts.Root(folder), hosts.Marks(folder)
        beside = hosts.Debian13(folder)
        ending.callback(beside.stop)
        make = {
            "tank": lambda: hosts.Tank(folder, programs, root, marks),
            "kernel": Kernel,
            "podman": lambda: hosts.Podman(folder, beside, root, marks),
            "docker": lambda: hosts.Docker(folder, beside, root, marks),
        }
        tools = []
        for name in arguments.tools.split(","):
            tools.append(make[name]())
            ending.callback(tools[-1].stop)
        if "docker" in arguments.tools:
            hosts.let_others_pass(beside.view)
        if "wire" in arguments.only:
            wire = Wire(folder, tools, ending)
            for _ in range(arguments.runs):
                wire.measure(samples, arguments.milliseconds)
            wire.down()
        if "ports" in arguments.only:
            for _ in range(arguments.runs):
                ports(tools, samples)
        versions = {tool.name: tool.version() for tool in tools if tool.name != "kernel"}
    rows = [{"what": what, "tool": tool, **hosts.describe(values)} for (what, tool), values in samples.items()]
    hosts.beside(rows, f"{os.cpu_count()} cores, Linux {os.uname().release}, load {load[0]}, {', '.join(versions.values())}")
    if results:
        about = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "kernel": os.uname().release, "load": load, "bench": "network", "versions": versions}
        with open(results, "a", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps({**about, **row}) + "\n")


if __name__ == "__main__":
    main()
