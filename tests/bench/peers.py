"""Those that only the benchmark of speed measures Tank beside: the kernel alone, the OCI runtimes without anything above
them, containerd, and the two that bring up many at once. Podman and docker themselves are in hosts.py."""

import glob
import json
import os
import subprocess

import hosts


class Floor:
    """The kernel alone: floor.c."""

    name = "floor"

    def __init__(self, folder, root, marks):
        self.folder, self.root, self.marks = os.path.join(folder, "floor"), root, marks
        os.makedirs(self.folder)
        self.program = os.path.join(self.folder, "floor")
        hosts.run(["gcc", "-O2", "-static", "-o", self.program, os.path.join(hosts.HERE, "floor.c")])
        hosts.run(["sh", "-c", "ip link add fl0 type bridge; ip addr add 10.91.0.1/16 dev fl0; ip link set fl0 up"])
        # As many hierarchies as Tank uses here.
        roots = [root for root in glob.glob("/sys/fs/cgroup/*") if os.path.basename(root) in ("unified", "memory", "pids", "cpu")]
        self.groups = [os.path.join(root, f"tank-bench-floor-{os.getpid()}") for root in roots or ["/sys/fs/cgroup"]]
        for group in self.groups:
            os.makedirs(group)
        self.running, self.number = {}, 0

    def version(self):
        return ""

    def start(self, name, count):
        scratch = os.path.join(self.folder, str(self.number))
        self.number += 1
        os.mkdir(scratch)
        os.chmod(scratch, 0o755)
        command = [self.program, "start", str(count), self.root.dir, scratch, self.marks.folder, "fl0", ":".join(self.groups)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.started = int(process.stdout.readline())
        self.running[name] = (process, [int(pid) for pid in process.stdout.readline().split()])

    def run(self, name):
        self.start(name, 1)

    def exec(self, name):
        hosts.timed([self.program, "exec", str(self.running[name][1][0]), "/bin/true"])

    def remove(self, name):
        process, _ = self.running.pop(name)
        process.stdin.write("\n")
        process.stdin.flush()
        process.stdout.readline()
        process.wait(20)
        process.stdin.close()
        process.stdout.close()

    def run_many(self, names):
        self.start("many", len(names))

    def remove_many(self, _names):
        self.remove("many")

    def stop(self):
        for name in list(self.running):
            self.remove(name)
        for group in self.groups:
            os.rmdir(group)


class Runtime:
    """An OCI runtime alone: no image, no network but loopback, one read-only root file system for all."""

    options = ()

    def __init__(self, folder, peers, root, marks):
        self.folder, self.view, self.marks = os.path.join(folder, self.name), peers.view, marks
        self.bundle = os.path.join(self.folder, "bundle")
        os.makedirs(self.bundle)
        os.symlink(root.dir, os.path.join(self.bundle, "rootfs"))
        hosts.run(["/usr/sbin/runc", "spec", "--bundle", self.bundle], self.view)
        path = os.path.join(self.bundle, "config.json")
        with open(path, encoding="utf-8") as spec:
            config = json.load(spec)
        config["process"]["terminal"] = False
        config["process"]["args"] = ["/bin/mark"]
        config["process"]["env"] = ["PATH=/bin"]
        config["root"]["path"] = root.dir
        config["mounts"].append({"destination": "/mark", "type": "none", "source": marks.folder, "options": ["bind", "rw"]})
        with open(path, "w", encoding="utf-8") as spec:
            json.dump(config, spec)

    def version(self):
        return hosts.run([self.program, "--version"], self.view).splitlines()[0]

    def command(self, *arguments):
        return [self.program, "--root", f"/run/{self.name}", *self.options, *arguments]

    def timed(self, command):
        return hosts.timed(command, self.view)

    def run(self, name):
        self.timed(self.command("run", "--detach", "--bundle", self.bundle, name))

    def exec(self, name):
        self.timed(self.command("exec", name, "/bin/true"))

    def remove(self, name):
        self.timed(self.command("delete", "--force", name))

    def in_two(self, names, verb):
        """One command for each name, two at a time."""
        command = " ".join(self.command(*verb))
        half = lambda part: f"for name in {' '.join(part)}; do {command} $name || exit 1; done"
        self.timed(["/bin/sh", "-c", f"({half(names[::2])}) & one=$!; ({half(names[1::2])}); two=$?; wait $one && exit $two"])

    def run_many(self, names):
        self.in_two(names, ("run", "--detach", "--bundle", self.bundle))

    def remove_many(self, names):
        self.in_two(names, ("delete", "--force"))

    def stop(self):
        listed = hosts.run(self.command("list", "--quiet"), self.view)
        for name in listed.split():
            self.remove(name)


class Crun(Runtime):
    """crun refuses to manage cgroups where version 1 and 2 are mixed, as they are on some machines: there it is measured
    without any, which is less work than the others have."""

    name = "crun"
    program = "/usr/bin/crun"
    holder = None

    def __init__(self, folder, peers, root, marks):
        super().__init__(folder, peers, root, marks)
        if os.path.exists("/sys/fs/cgroup/unified"):
            self.options = ("--cgroup-manager=disabled",)
            with hosts.within(self.view):
                self.holder = subprocess.Popen(
                    ["unshare", "--mount", "sh", "-c", "mount -t cgroup2 none /sys/fs/cgroup && echo ready && exec sleep infinity"],
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                )
            self.holder.stdout.readline()
            self.view = os.open(f"/proc/{self.holder.pid}/ns/mnt", os.O_RDONLY)

    def version(self):
        return super().version() + (" (without cgroups)" if self.holder else "")

    def stop(self):
        super().stop()
        if self.holder:
            os.close(self.view)
            self.holder.kill()
            self.holder.wait()
            self.holder.stdout.close()


class Runc(Runtime):
    name = "runc"
    program = "/usr/sbin/runc"


class Containerd:
    """containerd by its own client; the daemon is the one that dockerd brought."""

    name = "ctr"

    def __init__(self, folder, peers, root, marks):
        self.view, self.marks = peers.view, marks
        (self.socket,) = glob.glob("/run/docker/containerd/containerd.sock")
        layout = os.path.join(folder, "layout.tar")
        hosts.run(["tar", "--create", "--file", layout, "--directory", root.layout, "."])
        hosts.run(self.command("image", "import", "--base-name", "bench", layout), self.view)
        self.image = hosts.run(self.command("image", "list", "--quiet"), self.view).split()[0]
        self.running = set()

    def version(self):
        return "containerd " + hosts.run(["/usr/bin/containerd", "--version"], self.view).split()[2]

    def command(self, *arguments):
        return ["/usr/bin/ctr", "--address", self.socket, "--namespace", "bench", *arguments]

    def run(self, name):
        mount = f"type=bind,src={self.marks.folder},dst=/mark,options=bind:rw"
        hosts.timed(self.command("run", "--detach", "--mount", mount, self.image, name), self.view)
        self.running.add(name)

    def exec(self, name):
        hosts.timed(self.command("task", "exec", "--exec-id", f"e{os.urandom(4).hex()}", name, "/bin/true"), self.view)

    def remove(self, name):
        hosts.timed(self.command("task", "delete", "--force", name), self.view)
        hosts.timed(self.command("container", "delete", name), self.view)
        self.running.discard(name)

    def stop(self):
        for name in list(self.running):
            self.remove(name)
        hosts.run(self.command("image", "remove", self.image), self.view)
        # Its namespace is a cgroup, which it leaves.
        for group in glob.glob("/sys/fs/cgroup/*/bench") + glob.glob("/sys/fs/cgroup/bench"):
            os.rmdir(group)


class PodmanRun:
    """A hundred times `podman run`, two at a time. `podman kube play` sets limits that root may not raise on every
    machine."""

    name = "podman run, two at a time"

    def __init__(self, host):
        self.podman = host.podman

    def write(self, names):
        self.names = names

    def up(self):
        command = lambda name: " ".join(self.podman.start(name))
        half = lambda part: "; ".join(f"{command(name)} || exit 1" for name in part)
        hosts.timed(["/bin/sh", "-c", f"({half(self.names[::2])}) & one=$!; ({half(self.names[1::2])}); two=$?; wait $one && exit $two"], self.podman.view, limit=300)

    def kept(self, names):
        """Whatever podman leaves running for a container beside the container's own program."""
        ours = hosts.processes("conmon", self.podman.folder)
        return {"kept for each idle pod, KiB": sum(hosts.memory(pid)["Pss"] for pid in ours) / len(names)}

    unchanged = None

    def down(self):
        hosts.timed(self.podman.command("rm", "--all", "--force", "--time", "0"), self.podman.view, limit=300)


class Compose:
    """`docker compose`, its own network with it."""

    name = "docker compose"

    def __init__(self, host):
        self.docker, self.file = host.docker, os.path.join(host.docker.folder, "compose.json")

    def write(self, names):
        service = {"image": "bench", "volumes": [f"{self.docker.marks.folder}:/mark"], "init": False}
        with open(self.file, "w", encoding="utf-8") as out:
            json.dump({"services": {name: service for name in names}}, out)

    def compose(self, *arguments):
        command = self.docker.command("compose", "--project-name", "bench", "--file", self.file, *arguments)
        hosts.timed(command, self.docker.view, limit=300)

    def up(self):
        self.compose("up", "--detach")

    def unchanged(self):
        self.compose("up", "--detach")

    def kept(self, names):
        shims = hosts.processes("containerd-shim", "/run/docker")
        daemons = [self.docker.daemon.pid, *hosts.processes("containerd", "/run/docker")]
        return {
            "kept for each idle pod, KiB": sum(hosts.memory(pid)["Pss"] for pid in shims) / len(names),
            "daemons with 100 idle pods, MiB": sum(hosts.memory(pid)["Rss"] for pid in daemons) / 1024,
        }

    def down(self):
        self.compose("down", "--timeout", "1")
