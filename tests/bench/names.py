#!/usr/bin/env python3
"""How many queries a second Tank's name server answers, and how long one takes: from a pod, about another pod, over UDP. One
after the other, and with several on their way at once. The client is Python and takes most of the time: the figures say
what a pod gets, not what the server can do.

Usage: names.py FOLDER-OF-PROGRAMS [RESULTS]
"""

import contextlib
import datetime
import json
import os
import subprocess
import sys

import hosts

RUNS = 10
QUERIES = 20_000
SERVER = "10.90.0.1"

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
    client.recv(512)
    answered += 1
print(json.dumps(time.monotonic() - began))
"""


def main():
    programs, *results = map(os.path.abspath, sys.argv[1:])
    hosts.enter_namespaces()
    rows = []
    with hosts.workspace() as folder, contextlib.ExitStack() as ending:
        root, marks = hosts.Root(folder), hosts.Marks(folder)
        tank = hosts.Tank(folder, programs, root, marks)
        ending.callback(tank.stop)
        tank.switch("{" + tank.pod("p0") + tank.pod("p1") + "}")
        pid = tank.pid("p0")
        for window in (1, 16):
            samples = []
            for _ in range(RUNS):
                command = ["nsenter", "--net", f"--target={pid}", sys.executable, "-c", CLIENT, SERVER, "p1", str(QUERIES), str(window)]
                took = json.loads(subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True, timeout=120).stdout)
                samples.append(QUERIES / took)
            rows.append({"what": f"queries a second, {window} at once", "tool": "tank", **hosts.describe(samples)})
        version = tank.version()
    print(f"{os.cpu_count()} cores, Linux {os.uname().release}, {version}\n")
    print(f"{'what':<34}{'median':>9}{'10 %':>9}{'90 %':>9}")
    for row in rows:
        print(f"{row['what']:<34}{row['median']:>9.0f}{row['p10']:>9.0f}{row['p90']:>9.0f}")
    if results:
        about = {"date": datetime.date.today().isoformat(), "cores": os.cpu_count(), "kernel": os.uname().release, "bench": "names", "versions": {"tank": version}}
        with open(results[0], "a", encoding="utf-8") as out:
            for row in rows:
                out.write(json.dumps({**about, **row}) + "\n")


if __name__ == "__main__":
    main()
