"""What reading an image's files takes inside of a container: Tank's layers are EROFS images under overlay, podman's and docker's folders of
ext4 (or whatever this disk has) under overlay.

Everybody runs the same image (`scripts/pull-images.sh`), and the same program in it reads the same files, twice: after the kernel's
caches were dropped, and again. Then the same through mmap(2), a byte of each page. What the page cache of the machine has grown by
is looked at after the first reading: content that is kept twice takes twice the memory."""

import json
import os

import hosts
from pull import LIMIT, REGISTRY, Registry

# Reads files of at least 64 KiB below /usr, the first 256 MiB of them in the order of their names.
PROGRAM = """
import json, mmap, os, sys, time
files, left = [], 256 << 20
for folder, folders, names in os.walk("/usr"):
    folders.sort()
    for name in sorted(names):
        path = os.path.join(folder, name)
        size = 0 if os.path.islink(path) else os.path.getsize(path)
        if size >= 65536 and left > 0:
            files.append(path)
            left -= size
def read(path):
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer): pass
def touch(path):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
        memory[::4096]
buffer = bytearray(1 << 20)
size = sum(map(os.path.getsize, files))
before = time.monotonic()
for path in files: (read if sys.argv[1] == "read" else touch)(path)
print(json.dumps({"ms": (time.monotonic() - before) * 1000, "bytes": size, "files": len(files)}))
"""


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w", encoding="utf-8") as out:
        out.write("3")


def cached():
    """The page cache of this machine, in MiB."""
    with open("/proc/meminfo", encoding="utf-8") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith("Cached:")) / 1024


def tools(host):
    """For each tool that is there: its name, and how it runs a program in a container of the image."""
    tank = host.tank
    tank.write('{ pods.reads.containers.app.image = "%s/large" }' % REGISTRY, "reads.ncl")
    tank("switch", "reads.ncl")
    found = [("tank", lambda mode: hosts.run(tank.command("exec", "reads", "--", "python3", "-c", PROGRAM, mode)))]
    for tool, pull in ((getattr(host, "podman", None), ("pull", "--quiet", "--tls-verify=false")), (getattr(host, "docker", None), ("pull", "--quiet"))):
        if tool:
            hosts.timed(tool.command(*pull, f"{REGISTRY}/large"), tool.view, LIMIT)
            more = getattr(tool, "LIMITS", ())
            tool("run", "--detach", "--name", "reads", *more, f"{REGISTRY}/large")
            found.append((tool.name, lambda mode, tool=tool: tool("exec", "reads", "python3", "-c", PROGRAM, mode)))
    return found


def read(host, samples, runs):
    """Files of an image read in a container, cold and warm."""
    registry = Registry(host)
    host.ending.callback(registry.stop)
    host.has_images = True
    found = tools(host)
    for _ in range(min(runs, 5)):
        for name, execute in found:
            for mode in ("read", "mmap"):
                drop_caches()
                before = cached()
                cold = json.loads(execute(mode))
                grown = cached() - before
                warm = json.loads(execute(mode))
                samples.add(f"{mode} of an image's files, from the disk", name, cold["ms"])
                samples.add(f"{mode} of an image's files, from memory", name, warm["ms"])
                if mode == "read":
                    samples.add("page cache for an image's files that were read, for each byte of them", name, grown * (1 << 20) / cold["bytes"])
    host.tank("delete", "reads")
    # The next part has a registry of its own.
    registry.stop()
