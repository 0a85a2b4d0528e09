#!/usr/bin/env python3
"""What Tank's work takes, beside that of its peers and of the kernel alone, all of them interleaved in one run.

Every time is of the wall, from before a program is started (or a request is written) until it has ended, or until the
container's main process notes that it runs (mark.c). `floor.c` is what the kernel itself asks for.

Usage: speed.py FOLDER-OF-PROGRAMS [--results FILE] [--only PART,...] [--runs N] [--no-slow-peers]
"""

import argparse
import contextlib
import datetime
import itertools
import json
import os
import signal
import subprocess
import threading
import time
import traceback

import hosts
import peers
from printing import printing
from pull import pull
from read import read

# What the issue of each is: the most milliseconds (or what the unit says) that are right.
TARGETS = {
    ("one pod: request until its process runs", "tank"): 10,
    ("one pod: whole command", "tank"): 70,
    ("exec true: whole command", "tank"): 8,
    ("100 pods from nothing", "tank"): 800,
    ("100 pods, all changed", "tank"): 1200,
    ("100 pods, rolled back", "tank"): 1200,
    ("100 pods to nothing", "tank"): 350,
    ("nothing changed, 100 pods", "tank"): 30,
    ("nothing changed, 1000 pods", "tank"): 100,
    ("killed until its successor runs", "tank"): 10,
    ("kept for each idle pod, KiB", "tank"): 300,
    ("daemons with 100 idle pods, MiB", "tank"): 30,
    ("daemon with 100 idle pods, wake-ups a minute", "tank"): 0,
    ("daemon with 100 idle pods, % of a core", "tank"): 0.1,
    ("daemon started beside 100 pods until converged", "tank"): 150,
    ("pull large", "tank"): 2000,
    ("pull nginx", "tank"): 700,
    ("remove large", "tank"): 20,
    ("remove nginx", "tank"): 20,
    ("1 MB a second written down, % of a core", "tank"): 10,
}

POD = "p{}".format


class Samples:
    """What was measured, in the order in which it was first measured."""

    def __init__(self):
        self.found = {}

    def add(self, what, tool, value):
        self.found.setdefault((what, tool), []).append(value)

    def time(self, what, tool, function):
        before = time.monotonic_ns()
        function()
        self.add(what, tool, (time.monotonic_ns() - before) / 1e6)

    def rows(self):
        medians = {key: hosts.describe(values)["median"] for key, values in self.found.items()}
        for (what, tool), values in self.found.items():
            others = [value for (w, t), value in medians.items() if w == what and not t.startswith("tank") and t not in ("floor", "tar alone")]
            floor = medians.get((what, "floor"))
            row = {"what": what, "tool": tool, **hosts.describe(values)}
            if tool.startswith("tank"):
                row["best_peer"] = round(min(others) / row["median"], 2) if others and row["median"] else None
                row["of_floor"] = round(row["median"] / floor, 2) if floor else None
                row["target"] = TARGETS.get((what, tool))
            yield row


def one(host, samples, runs):
    """One container, its image there."""
    tank = host.tank
    # One pod that stays: a bridge and rules are there already.
    tank.switch("{" + tank.pod("stays") + "}")
    for i in range(runs):
        for tool in host.all:
            known, name = host.marks.count(), POD(f"{tool.name}{i}")
            before = time.monotonic_ns()
            tool.run(name)
            samples.add("one pod: whole command", tool.name, (time.monotonic_ns() - before) / 1e6)
            started = host.marks.after(known, f"{tool.name} runs {name}")[0]
            samples.add("one pod: command until its process runs", tool.name, (started - before) / 1e6)
            samples.time("one pod: removed", tool.name, lambda tool=tool, name=name: tool.remove(name))
        # The same without the command: the request itself.
        text = "{" + tank.pod("stays") + tank.pod(POD(i)) + "}"
        canonical, known = tank.canonical(text), host.marks.count()
        before = time.monotonic_ns()
        tank.call("Switch", config=canonical, base_dir=tank.folder, source="bench")
        started = host.marks.after(known, "the request is carried out")[0]
        samples.add("one pod: request until its process runs", "tank", (started - before) / 1e6)
        samples.add("one pod: request until its process runs", "floor", host.floor.started / 1e6)
        tank.call("Switch", config=tank.canonical("{" + tank.pod("stays") + "}"), base_dir=tank.folder, source="bench")
    tank.switch("{}")


def grace(host, samples, runs):
    """One pod more where a container without a probe has to run for a while before a switch calls it well: as `tankd` is set
    up unless it is told otherwise. Everything else here is measured without that wait, which no peer has."""
    tank = host.tank
    tank.restart(grace="500ms")
    tank.switch("{" + tank.pod("stays") + "}")
    for i in range(min(runs, 5)):
        samples.time("one pod: whole command, with the default grace", "tank", lambda i=i: tank.run(POD(i)))
        tank.remove(POD(i))
    tank.restart()
    tank.switch("{}")


def exec_true(host, samples, runs):
    for tool in host.all:
        tool.run("runs")
    for tool in host.all:
        tool.exec("runs")
    for _ in range(runs):
        for tool in host.all:
            samples.time("exec true: whole command", tool.name, lambda tool=tool: tool.exec("runs"))
        samples.time("list", "tank", lambda: host.tank("list"))
    for tool in host.all:
        tool.remove("runs")


def many(host, samples, runs, slow):
    """A hundred pods: up, changed, back, away."""
    tank = host.tank
    names = [POD(i) for i in range(100)]
    plain = "{" + "".join(map(tank.pod, names)) + "}"
    changed = "{" + "".join(tank.pod(name, 'env.CHANGED = "1",') for name in names) + "}"
    fast = [tool for tool in host.all if hasattr(tool, "run_many")]
    for _ in range(runs):
        for tool in fast:
            samples.time("100 pods from nothing", tool.name, lambda tool=tool: tool.run_many(names))
            samples.time("100 pods to nothing", tool.name, lambda tool=tool: tool.remove_many(names))
        timed = lambda what, text: (tank.write(text), samples.time(what, "tank", lambda: tank("switch", "pods.ncl")))
        timed("100 pods from nothing", plain)
        timed("100 pods, all changed", changed)
        samples.time("100 pods, rolled back", "tank", lambda: tank("generations", "rollback"))
        timed("100 pods to nothing", "{}")
    # Slow ones too more often than once: one sample has no median.
    for tool in [peer(host) for peer in (peers.PodmanRun, peers.Compose)] * (3 if slow else 0):
        tool.write(names)
        try:
            samples.time("100 pods from nothing", tool.name, tool.up)
            for what, value in tool.kept(names).items():
                samples.add(what, tool.name, value)
            if tool.unchanged:
                samples.time("nothing changed, 100 pods", tool.name, tool.unchanged)
            samples.time("100 pods to nothing", tool.name, tool.down)
        except RuntimeError as error:
            # A machine on which a peer does not work has no figure of it, and the others have theirs.
            print(f"{tool.name} failed: {error}", flush=True)


def unchanged(host, samples, runs):
    """A switch to what runs already."""
    tank = host.tank
    for number in (100, 1000):
        tank.switch("{" + "".join(tank.pod(POD(i)) for i in range(number)) + "}")
        for _ in range(runs):
            # What the last switch set in motion is over.
            time.sleep(0.5 + number / 500)
            samples.time(f"nothing changed, {number} pods", "tank", lambda: tank("switch", "pods.ncl"))
        samples.time("1000 pods to nothing" if number == 1000 else "100 pods to nothing", "tank", lambda: tank.switch("{}"))


def killed(host, samples, runs):
    """A main process killed until its successor runs. Each container is killed once: nobody's back-off is measured."""
    tank, tools = host.tank, [tool for tool in host.all if hasattr(tool, "restarting")]
    tank.switch("{" + "".join(tank.pod(POD(i)) for i in range(runs)) + "}")
    for tool in tools:
        for i in range(runs):
            tool.restarting(POD(i))
    time.sleep(11)
    for i in range(runs):
        for tool in [tank, *tools]:
            pid, known = tool.pid(POD(i)), host.marks.count()
            before = time.monotonic_ns()
            os.kill(pid, signal.SIGKILL)
            started = host.marks.after(known, f"{tool.name} starts it again")[0]
            samples.add("killed until its successor runs", tool.name, (started - before) / 1e6)
    for tool in tools:
        for i in range(runs):
            tool.remove(POD(i))
    tank.switch("{}")


def idle(host, samples, seconds=20, times=3):
    """What a hundred idle pods cost, and a daemon that finds them."""
    tank = host.tank
    tank.switch("{" + "".join(tank.pod(POD(i)) for i in range(100)) + "}")
    time.sleep(2)
    pods = tank.json("list")["pods"]
    shims = {hosts.parent(pod["containers"][0]["pid"]) for pod in pods}
    kept = [hosts.memory(shim)["Pss"] for shim in shims]
    for value in kept:
        samples.add("kept for each idle pod, KiB", "tank", value)
    for _ in range(5):
        tank.daemon.kill()
        tank.daemon.wait()
        before = time.monotonic_ns()
        tank.start(converged=True)
        samples.add("daemon started beside 100 pods until converged", "tank", (time.monotonic_ns() - before) / 1e6)
    # What it takes to find its feet is over, and threads that have nothing to do have ended.
    time.sleep(15)
    pid = tank.daemon.pid
    for _ in range(times):
        busy = hosts.cpu(pid)
        samples.add("daemon with 100 idle pods, wake-ups a minute", "tank", hosts.woken([pid], seconds))
        samples.add("daemon with 100 idle pods, % of a core", "tank", (hosts.cpu(pid) - busy) * 100 / seconds)
        samples.add("shims of 100 idle pods, wake-ups a minute", "tank", hosts.woken(shims, seconds))
        samples.add("daemons with 100 idle pods, MiB", "tank", round(hosts.memory(pid)["Rss"] / 1024, 1))
    tank.switch("{}")


def received(pid):
    """How many packets the first interface of a process's network has received."""
    found = hosts.run(["nsenter", "--net", f"--target={pid}", "ip", "-json", "-stats", "link", "show", "eth0"])
    return json.loads(found)[0]["stats64"]["rx"]["packets"]


def scale(host, samples, runs):
    """What a pod costs when there are many, and a change when little of much changes."""
    tank = host.tank
    for number in (10, 50, 100, 200, 500, 1000):
        plain = [tank.pod(POD(i)) for i in range(number)]
        for _ in range(runs):
            tank.write("{" + "".join(plain) + "}")
            before = time.monotonic_ns()
            tank("switch", "pods.ncl")
            samples.add(f"each pod of {number}, from nothing", "tank", (time.monotonic_ns() - before) / 1e6 / number)
            samples.add(f"packets that the first of {number} got meanwhile", "tank", received(tank.pid(POD(0))))
            one_more = plain[:-1] + [tank.pod(POD(number - 1), 'env.CHANGED = "1",')]
            tank.write("{" + "".join(one_more) + "}")
            samples.time(f"diff, one of {number} changed", "tank", lambda: tank("diff", "pods.ncl"))
            samples.time(f"one of {number} changed", "tank", lambda: tank("switch", "pods.ncl"))
            tank.write("{}")
            before = time.monotonic_ns()
            tank("switch", "pods.ncl")
            samples.add(f"each pod of {number}, to nothing", "tank", (time.monotonic_ns() - before) / 1e6 / number)


def history(host, samples, generations=10_000):
    """A store that has seen ten thousand generations: one container's label changes in each."""
    tank = host.tank
    form = tank.canonical("{" + tank.pod("labelled", more='labels.number = "NUMBER",') + "}")
    request = lambda number: dict(config=form.replace("NUMBER", str(number)), base_dir=tank.folder, source="bench", rollback=False)
    for number in range(generations):
        before = time.monotonic_ns()
        tank.call("Switch", **request(number))
        took = (time.monotonic_ns() - before) / 1e6
        for at in (100, 1_000, generations):
            if at - 100 <= number < at:
                samples.add(f"a generation, the last 100 of {at}", "tank", took)
        if number + 1 in (100, 1_000, generations):
            size = sum(os.path.getsize(os.path.join(at, file)) for at, _, files in os.walk(f"{tank.folder}/state/store") for file in files)
            samples.add(f"store of {number + 1} generations, KiB", "tank", round(size / 1024))
    samples.time(f"list of {generations} generations", "tank", lambda: tank("generations", "list"))
    tank.switch("{}")


PARTS = {"one": one, "grace": grace, "exec": exec_true, "many": many, "unchanged": unchanged, "killed": killed, "idle": idle, "scale": scale, "history": history, "pull": pull, "read": read, "logs": printing}


class Host:
    """Everything that is measured, on one machine."""

    def __init__(self, folder, programs, ending, wanted):
        self.folder, self.ending = folder, ending
        os.chmod(folder, 0o755)
        self.root, self.marks = hosts.Root(folder), hosts.Marks(folder)
        others = [name for name in wanted if name not in ("tank", "floor")]
        beside = self.beside = hosts.Debian13(folder) if others else None
        if beside:
            ending.callback(beside.stop)
        self.all = []
        make = {
            "tank": lambda: hosts.Tank(folder, programs, self.root, self.marks),
            "floor": lambda: peers.Floor(folder, self.root, self.marks),
            "crun": lambda: peers.Crun(folder, beside, self.root, self.marks),
            "runc": lambda: peers.Runc(folder, beside, self.root, self.marks),
            "docker": lambda: hosts.Docker(folder, beside, self.root, self.marks),
            "ctr": lambda: peers.Containerd(folder, beside, self.root, self.marks),
            "podman": lambda: hosts.Podman(folder, beside, self.root, self.marks),
        }
        for name in make:
            if name in wanted:
                tool = make[name]()
                ending.callback(tool.stop)
                self.all.append(tool)
                setattr(self, name, tool)


# Who stands in which column of the summary; those in one column do the same thing with many pods.
COLUMNS = {"tank": "Tank", "floor": "the kernel alone", "tar alone": "tar alone", "crun": "crun", "runc": "runc", "ctr": "containerd", "podman": "podman", "docker": "docker", "skopeo and umoci": "skopeo and umoci"}
MANY = {"podman": "podman run, two at a time", "docker": "docker compose"}


def summary(rows):
    """What has a target, a line each, with whoever does the same beside it: medians, milliseconds unless it says otherwise."""
    medians = {(row["what"], row["tool"]): row["median"] for row in rows}
    targets = [(what, most) for (what, _), most in TARGETS.items() if (what, "tank") in medians]
    columns = [tool for tool in COLUMNS if any((what, name) in medians for what, _ in targets for name in (tool, MANY.get(tool)))]
    runs = {(row["what"], row["tool"]): row["runs"] for row in rows}
    lines = ["| | " + " | ".join(COLUMNS[tool] for tool in columns) + " | samples | target |", "|---|" + "---:|" * (len(columns) + 2)]
    for what, most in targets:
        found = [medians.get((what, tool), medians.get((what, MANY.get(tool)))) for tool in columns]
        taken = sorted({runs[key] for key in runs if key[0] == what and key[1] in {*columns, *MANY.values()}})
        taken = str(taken[0]) if len(taken) == 1 else f"{taken[0]} to {taken[-1]}"
        met = "" if found[columns.index("tank")] <= most else " (missed)"
        lines.append(f"| {what} | " + " | ".join(map(number, found)) + f" | {taken} | {number(most)}{met} |")
    return "\n".join(lines)


def number(value):
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def table(rows):
    lines = ["| what | tool | median | 10 % | 90 % | samples | target | best peer | floor |", "|---|---|---:|---:|---:|---:|---:|---:|---:|"]
    for row in rows:
        target = row.get("target")
        met = "" if target is None else f"≤ {number(target)} " + ("✓" if row["median"] <= target else "✗")
        times = lambda key, form: form.format(row[key]) if row.get(key) else ""
        cells = [row["what"], row["tool"], number(row["median"]), number(row["p10"]), number(row["p90"]), str(row["runs"]), met,
                 times("best_peer", "{:.1f}×"), times("of_floor", "{:.1f}×")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("programs")
    parser.add_argument("--results")
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--tools", default="tank,floor,crun,runc,docker,ctr,podman")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--no-slow-peers", action="store_true")
    arguments = parser.parse_args()
    programs, results = os.path.abspath(arguments.programs), arguments.results and os.path.abspath(arguments.results)
    hosts.enter_namespaces()
    samples, failed = Samples(), []
    with hosts.workspace() as folder, contextlib.ExitStack() as ending:
        host = Host(folder, programs, ending, arguments.tools.split(","))
        versions = {tool.name: tool.version() for tool in host.all}
        for part in arguments.only.split(","):
            more = {
                "many": (max(3, arguments.runs // 3), not arguments.no_slow_peers),
                "scale": (3,), "idle": (), "history": (),
            }.get(part, (arguments.runs,))
            before = time.monotonic()
            try:
                PARTS[part](host, samples, *more)
            except Exception:  # What the other parts have measured is printed.
                traceback.print_exc()
                failed.append(part)
            print(f"{part}: {time.monotonic() - before:.0f} s", flush=True)
    rows = list(samples.rows())
    about = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "kernel": os.uname().release, "bench": "speed", "versions": versions}
    print(f"\n{about['cores']} cores, Linux {about['kernel']}, {about['date']}, {', '.join(v for v in versions.values() if v)}\n")
    print(summary(rows))
    print()
    print(table(rows))
    if results:
        with open(results, "a", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps({**about, **row}) + "\n")
    if failed:
        raise SystemExit(f"not measured to their end: {', '.join(failed)}")


if __name__ == "__main__":
    main()
