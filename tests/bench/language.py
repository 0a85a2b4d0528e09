#!/usr/bin/env python3
"""Times `tank check` on 1, 100 and 1,000 pods: evaluated, and with nothing changed; beside Nickel alone.

Everything is measured interleaved in one run, with the release build. Prints a table; with a second argument, adds the
figures to that file as JSON lines. Usage: language.py FOLDER-OF-PROGRAMS [RESULTS]
"""

import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

RUNS = 15


def pods(count):
    """A file as people write it: every pod spelled out."""
    lines = ["{", "  pods = {"]
    for i in range(count):
        lines += [
            f"    web-{i} = {{",
            "      containers.app = {",
            f'        image = "registry.example.org/team/service-{i}:1.27",',
            f'        env = {{ LOG = "info", INDEX = "{i}", TZ = "UTC" }},',
            '        limits = { memory = "256MiB", pids = 100, cpu = 0.5 },',
            '        readiness = { http = { port = 80, path = "/healthz" }, period = "1s" },',
            '        mounts.data = { volume = "data", path = "/var/lib/web" },',
            "      },",
            "      volumes.data = {},",
            f"      publish.http = {{ port = {10_000 + i}, to = 80 }},",
            "    },",
        ]
    return "\n".join(lines + ["  },", "}", ""])


def timed(command, env):
    before = time.perf_counter()
    subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    return (time.perf_counter() - before) * 1000


def main():
    programs = sys.argv[1]
    tank = os.path.join(programs, "tank")
    plain = os.path.join(programs, "examples/plain_nickel")
    results = []
    with tempfile.TemporaryDirectory() as folder:
        cached = {**os.environ, "TANK_CACHE_DIR": os.path.join(folder, "cache")}
        cold = {**os.environ, "TANK_CACHE_DIR": ""}
        for count in (1, 100, 1000):
            file = os.path.join(folder, f"{count}.ncl")
            with open(file, "w", encoding="utf-8") as out:
                out.write(pods(count))
            timed([tank, "check", file], cached)
            times = {"nickel alone": [], "check": [], "unchanged": [], "help": []}
            for _ in range(RUNS):
                times["nickel alone"].append(timed([plain, file], cold))
                times["check"].append(timed([tank, "check", file], cold))
                times["unchanged"].append(timed([tank, "check", file], cached))
                times["help"].append(timed([tank, "--version"], cold))
            for what, values in times.items():
                values.sort()
                results.append(
                    {
                        "bench": "language",
                        "what": what,
                        "pods": count,
                        "median_ms": round(statistics.median(values), 2),
                        "p10_ms": round(values[len(values) // 10], 2),
                        "p90_ms": round(values[len(values) * 9 // 10], 2),
                    }
                )
    by = {(r["what"], r["pods"]): r for r in results}
    print(f"{'pods':>6} {'nickel alone':>14} {'check':>10} {'ratio':>7} {'unchanged':>11} {'tank --version':>15}   (median ms)")
    for count in (1, 100, 1000):
        alone, check = by["nickel alone", count]["median_ms"], by["check", count]["median_ms"]
        unchanged, floor = by["unchanged", count]["median_ms"], by["help", count]["median_ms"]
        print(f"{count:>6} {alone:>14.1f} {check:>10.1f} {check / alone:>7.2f} {unchanged:>11.1f} {floor:>15.1f}")
    if len(sys.argv) > 2:
        machine = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "kernel": os.uname().release}
        with open(sys.argv[2], "a", encoding="utf-8") as out:
            for result in results:
                out.write(json.dumps({**machine, **result}) + "\n")


main()
