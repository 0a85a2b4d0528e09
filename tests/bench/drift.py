#!/usr/bin/env python3
"""How long Tank takes from a damage to its repair, by kind of damage; and a killed container until its successor runs,
beside podman and docker on the same machine in the same run.

The damage's time is that before the program that does it is started (`ip`, `nft`: about 2 ms of their own are included),
the repair's that of the event which says that the step is done. A successor's time is the one it notes itself.

Usage: drift.py FOLDER-OF-PROGRAMS [RESULTS]
"""

import contextlib
import datetime
import json
import os
import signal
import subprocess
import sys
import time

import hosts

RUNS = 10


def find(host, file):
    """A file of the pod's cgroup."""
    return hosts.run(["find", "/sys/fs/cgroup", "-path", f"*/{host.cgroup}/p0/app/{file}"]).split()[0]


def put(path, text):
    with open(path, "w", encoding="utf-8") as out:
        out.write(text)


def damages(host):
    """What finds whom to damage and returns what does it; and the words of the event that tells of its repair."""
    def shell(script):
        return lambda: lambda: hosts.run(["sh", "-c", script])

    def inside(script):
        def find_it():
            pid = host.pid("p0")
            return lambda: hosts.run(["nsenter", "--net", f"--target={pid}", "sh", "-c", script])
        return find_it

    def kill(signal, whom=lambda pid: pid):
        def find_it():
            pid = whom(host.pid("p0"))
            return lambda: os.kill(pid, signal)
        return find_it

    def write(file, text):
        def find_it():
            path = find(host, file)
            return lambda: put(path, text)
        return find_it

    port = "$(ip -oneline link show master tank0 | cut -d: -f2 | cut -d@ -f1 | head -n 1)"
    return {
        "main process killed": (kill(signal.SIGKILL), "start p0/app"),
        "main process stopped": (kill(signal.SIGSTOP), "resume p0/app"),
        "container frozen": (write("cgroup.freeze", "1"), "resume p0/app"),
        "limit edited": (write("pids.max", "7"), "set the limits of p0/app"),
        "shim killed": (kill(signal.SIGKILL, hosts.parent), "start p0/app"),
        "pod's link set down": (inside("ip link set eth0 down"), "connect pod p0"),
        "pod's address removed": (inside("ip addr del $(ip -4 -oneline addr show eth0 | cut -d' ' -f7) dev eth0"), "connect pod p0"),
        "pod's route removed": (inside("ip route del default"), "connect pod p0"),
        "pod's link deleted": (inside("ip link del eth0"), "connect pod p0"),
        "pod's port off the bridge": (shell(f"ip link set {port} nomaster"), "connect pod p0"),
        "bridge set down": (shell("ip link set tank0 down"), "set up the bridge"),
        "rules flushed": (shell("nft flush table inet tank"), "publish ports"),
    }


def repair(host, damage, words):
    """One damage and its repair, in milliseconds."""
    act = damage()
    before = time.time() * 1000
    act()
    def repaired():
        events = json.loads("[" + ",".join(hosts.run(host.command("--json", "events")).strip().splitlines()) + "]")
        events = [event.get("event", event) for event in events]
        return [e for e in events if e["time"] >= int(before) and e["kind"] == "step" and e["message"].startswith(words)]
    found = hosts.wait_for(repaired, f"repaired: {words}")
    return found[0]["time"] - before


def main():
    programs, *results = map(os.path.abspath, sys.argv[1:])
    hosts.enter_namespaces()
    rows = []
    with hosts.workspace() as folder, contextlib.ExitStack() as ending:
        root, marks = hosts.Root(folder), hosts.Marks(folder)
        tank = hosts.Tank(folder, programs, root, marks)
        ending.callback(tank.stop)
        declared = "{" + tank.pod("p0", "limits.pids = 50,") + "pods.p0.publish.http = { port = 18080, to = 80 } }"
        for what, (damage, words) in damages(tank).items():
            samples = []
            for _ in range(RUNS):
                # Restarts in a row wait; a new pod starts over.
                tank.switch("{}")
                tank.switch(declared)
                time.sleep(0.1)
                samples.append(repair(tank, damage, words))
            rows.append({"what": what, "tool": "tank", **hosts.describe(samples)})
        # Each container is killed once, so that nobody's back-off is measured.
        tank.switch("{" + "".join(tank.pod(f"k{i}") for i in range(RUNS)) + "}")
        tools, beside = [tank], hosts.Debian13(folder)
        ending.callback(beside.stop)
        for peer in (hosts.Podman, hosts.Docker):
            tools.append(peer(folder, beside, root, marks))
            ending.callback(tools[-1].stop)
            for i in range(RUNS):
                tools[-1].restarting(f"k{i}")
        versions = {tool.name: tool.version() for tool in tools}
        time.sleep(11)
        samples = {tool.name: [] for tool in tools}
        for i in range(RUNS):
            for tool in tools:
                pid, known = tool.pid(f"k{i}"), len(marks.all())
                before = time.monotonic_ns()
                os.kill(pid, signal.SIGKILL)
                samples[tool.name].append((marks.after(known, f"{tool.name} starts it again")[0] - before) / 1e6)
        for tool, found in samples.items():
            rows.append({"what": "killed until its successor runs", "tool": tool, **hosts.describe(found)})
    print(f"{os.cpu_count()} cores, Linux {os.uname().release}, {', '.join(versions.values())}\n")
    print(f"{'what':<34}{'tool':<9}{'median':>9}{'10 %':>9}{'90 %':>9}")
    for row in rows:
        print(f"{row['what']:<34}{row['tool']:<9}{row['median']:>7.1f}ms{row['p10']:>7.1f}ms{row['p90']:>7.1f}ms")
    if results:
        about = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "kernel": os.uname().release, "bench": "drift", "versions": versions}
        with open(results[0], "a", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps({**about, **row}) + "\n")


if __name__ == "__main__":
    main()
