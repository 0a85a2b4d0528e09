"""What containers print, and what it takes to write it down: as fast as one can, and a megabyte a second."""

import os
import time

import hosts

LINE = "0123456789" * 8
STEADY = (
    f"i=0; while [ $i -lt 1000 ]; do echo {LINE}; i=$((i+1)); done > /tmp/lines; "
    "while true; do cat /tmp/lines; /bin/busybox usleep 80000; done"
)
# The same bounds for everybody: two files of 16 MiB.
BOUNDS = {
    "podman": ("--log-driver=k8s-file", "--log-opt=max-size=16mb"),
    "docker": ("--log-driver=json-file", "--log-opt=max-size=16m", "--log-opt=max-file=2"),
}


def printed(pid):
    """How many bytes a process has written, into whatever it was."""
    with open(f"/proc/{pid}/io", encoding="utf-8") as io:
        return next(int(line.split()[1]) for line in io if line.startswith("wchar:"))


def start(tool, command, more):
    """Starts a container in the image that all have; its process, and those that write down what it prints."""
    if tool.name == "tank":
        words = ", ".join('m%"' + word + '"%' for word in command)
        tool.switch("{" + tool.pod("prints", f"command = [{words}], {more}") + "}")
        pid = tool.pid("prints")
    else:
        limits = getattr(tool, "LIMITS", ())
        hosts.timed(tool.command("run", "--detach", "--name", "prints", *limits, *BOUNDS[tool.name], "bench", *command), tool.view)
        pid = tool.pid("prints")
    writers = [hosts.parent(pid)]
    if tool.name == "docker":
        writers.append(tool.daemon.pid)
    return pid, writers


def end(tool):
    if tool.name == "tank":
        tool.switch("{}")
    else:
        tool.remove("prints")


def printing(host, samples, runs, seconds=3):
    unlimited = 'logs.rate = "unlimited",'
    tools = [(tool, tool.name, unlimited) for tool in host.all if tool.name in ("tank", *BOUNDS)]
    tools += [(tool, "tank with its usual rate", "") for tool in host.all if tool.name == "tank"]
    for _ in range(runs):
        for tool, name, more in tools:
            pid, writers = start(tool, ["/bin/busybox", "yes", LINE], more)
            time.sleep(1)
            before, bytes_before, busy = time.monotonic(), printed(pid), sum(map(hosts.cpu, writers))
            time.sleep(seconds)
            took = time.monotonic() - before
            hundreds = (printed(pid) - bytes_before) / 1e8
            samples.add("100 MB printed as fast as a container can", name, took * 1e3 / hundreds)
            samples.add("100 MB written down, ms of a processor", name, (sum(map(hosts.cpu, writers)) - busy) * 1e3 / hundreds)
            end(tool)
        floor(host, samples, seconds)
    for tool, name, more in tools:
        _, writers = start(tool, ["/bin/sh", "-c", STEADY], more)
        time.sleep(1)
        for _ in range(runs):
            busy = sum(map(hosts.cpu, writers))
            time.sleep(seconds)
            samples.add("1 MB a second written down, % of a core", name, (sum(map(hosts.cpu, writers)) - busy) * 100 / seconds)
        end(tool)


def floor(host, samples, seconds):
    """What a copy into a file takes, without times: 1 GB at most."""
    file = os.path.join(host.folder, "printed")
    before = time.monotonic()
    busybox = os.path.join(host.root.dir, "bin/busybox")
    hosts.run(["sh", "-c", f"{busybox} yes {LINE} | timeout {seconds} head -c 1000000000 > {file}; true"])
    took, size = time.monotonic() - before, os.path.getsize(file)
    samples.add("100 MB printed as fast as a container can", "floor", took * 1e3 / (size / 1e8))
    os.unlink(file)
