"""What the benchmarks run on: a network and mount namespace of their own, and in it Tank and its peers, each with folders
of its own. Everything is ended and removed when the benchmark is over."""

import contextlib
import ctypes
import glob
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

BUSYBOX = "/bin/busybox"
HERE = os.path.dirname(os.path.abspath(__file__))
LIBC = ctypes.CDLL(None, use_errno=True)
NEWNS = 0x20000


def enter_namespaces():
    """Runs this program again in namespaces of its own, once."""
    if os.environ.get("TANK_BENCH_INSIDE") == "1":
        # Whoever ends the benchmark, and a command that takes too long, leaves nothing behind either.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        signal.signal(signal.SIGALRM, too_long)
        run(["ip", "link", "set", "lo", "up"])
        # Where everybody keeps what does not outlive a boot, in memory as it is on a host.
        run(["mount", "--types", "tmpfs", "tank-bench", "/run"])
        return
    os.environ["TANK_BENCH_INSIDE"] = "1"
    os.execvp("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv])


def too_long(*_):
    raise RuntimeError("a command takes too long")


def enter(namespace):
    """Enters a mount namespace: its root directory becomes this process's own."""
    if LIBC.setns(namespace, NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "setns")


@contextlib.contextmanager
def within(view):
    """What is started meanwhile starts in another mount namespace; none: in this one."""
    if view is None:
        yield
        return
    here = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    enter(view)
    try:
        yield
    finally:
        enter(here)
        os.close(here)


class Debian13:
    """The root file system that `scripts/peers.sh` makes, entered: a mount namespace in which it is `/`, and in which the
    benchmark's folder, `/run` and the kernel's file systems are where they are here."""

    def __init__(self, folder):
        self.root = run([os.path.join(HERE, "../../scripts/peers.sh")], timeout=1200).strip()
        script = (
            "set -e; root=$1 folder=$2; mount --make-rprivate /; mount --bind $root $root; "
            "for dir in proc sys dev run; do mount --rbind /$dir $root/$dir; done; "
            "mkdir -p $root$folder $root/.old; mount --bind $folder $root$folder; "
            "cd $root; pivot_root . .old; umount --lazy /.old; rmdir /.old; echo ready; exec sleep infinity"
        )
        self.holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script, "sh", self.root, folder],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            raise RuntimeError("the root file system of the peers can't be entered")
        self.view = os.open(f"/proc/{self.holder.pid}/ns/mnt", os.O_RDONLY)
        self.folder = folder

    def stop(self):
        os.close(self.view)
        self.holder.kill()
        self.holder.wait()
        self.holder.stdout.close()
        os.rmdir(self.root + self.folder)


def run(command, view=None, **more):
    """A command that has to succeed; its output."""
    more.setdefault("timeout", 120)
    with within(view):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.returncode}: {done.stderr[-2000:]}{done.stdout[-500:]}")
    return done.stdout


def timed(command, view=None, limit=60):
    """A command that has to succeed, started with as little of this program's own work as there can be."""
    with tempfile.TemporaryFile() as said:
        null = [(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)]
        actions = null + [(os.POSIX_SPAWN_DUP2, said.fileno(), stream) for stream in (1, 2)]
        with within(view):
            pid = os.posix_spawn(command[0], command, os.environ, file_actions=actions)
        signal.alarm(limit)
        try:
            _, status = os.waitpid(pid, 0)
        except RuntimeError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        finally:
            signal.alarm(0)
        if status != 0:
            said.seek(0)
            raise RuntimeError(f"{' '.join(command)}: {status}: {said.read()[-2000:].decode(errors='replace')}")


def processes(name, within=""):
    """The processes of this network namespace called `name` whose command line holds `within`."""
    found, here = [], os.readlink("/proc/self/ns/net")
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            with open(f"{folder}/comm", encoding="utf-8") as comm, open(f"{folder}/cmdline", encoding="utf-8") as line:
                if comm.read().strip() == name and within in line.read() and os.readlink(f"{folder}/ns/net") == here:
                    found.append(int(os.path.basename(folder)))
        except OSError:
            pass
    return found


def stat(pid):
    """The fields of proc_pid_stat(5) behind the name."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as stat:
        return stat.read().rsplit(") ", 1)[1].split()


def parent(pid):
    return int(stat(pid)[1])


def cpu(pid):
    """Seconds of a processor that a process has had."""
    fields = stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def switches(pid):
    """How often each thread of a process has gone to sleep: once for each time that it was woken."""
    found = {}
    for path in glob.glob(f"/proc/{pid}/task/*/status"):
        with open(path, encoding="utf-8") as status:
            found[path] = sum(int(line.split()[1]) for line in status if line.startswith("voluntary_ctxt_switches"))
    return found


def woken(pids, seconds):
    """How often the threads of some processes are woken in a minute."""
    before = [switches(pid) for pid in pids]
    time.sleep(seconds)
    after = [switches(pid) for pid in pids]
    each = lambda first, then: sum(count - first[thread] for thread, count in then.items() if thread in first)
    return sum(map(each, before, after)) * 60 / seconds


def memory(pid):
    """`Rss`, `Pss` and the other sums of proc_pid_smaps_rollup(5), in KiB."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as rollup:
        return {line.split(":")[0]: int(line.split()[1]) for line in rollup if line.endswith("kB\n")}


def wait_for(condition, what, limit=20.0):
    deadline = time.monotonic() + limit
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise RuntimeError(f"never: {what}")
        time.sleep(0.002)


def remove_groups(name):
    """Removes the empty cgroups called `name`, in whichever hierarchies they are: what is in use stays."""
    for root in glob.glob(f"/sys/fs/cgroup/{name}") + glob.glob(f"/sys/fs/cgroup/*/{name}"):
        for folder, _, _ in os.walk(root, topdown=False):
            try:
                os.rmdir(folder)
            except OSError:
                pass


class Marks:
    """The folder in which main processes note when they started."""

    def __init__(self, folder):
        self.folder = os.path.join(folder, "mark")
        os.makedirs(self.folder)
        self.file = os.path.join(self.folder, "starts")
        open(self.file, "w", encoding="utf-8").close()
        os.chmod(self.folder, 0o777)
        os.chmod(self.file, 0o666)

    def all(self):
        with open(self.file, encoding="utf-8") as lines:
            return [int(line) for line in lines]

    def count(self):
        return len(self.all())

    def after(self, count, what):
        """The starts noted after the first `count` ones; waits for one."""
        return wait_for(lambda: self.all()[count:], what)


class Root:
    """A root file system with BusyBox and the mark program."""

    def __init__(self, folder):
        self.dir = os.path.join(folder, "rootfs")
        for name in ("bin", "tmp", "etc", "proc", "sys", "dev", "mark"):
            os.makedirs(os.path.join(self.dir, name))
        shutil.copy(BUSYBOX, os.path.join(self.dir, "bin/busybox"))
        for applet in ("sh", "true", "cat", "sleep"):
            os.symlink("busybox", os.path.join(self.dir, "bin", applet))
        for name, line in (("passwd", "root:x:0:0::/:/bin/sh\n"), ("group", "root:x:0:\n"), ("resolv.conf", "\n")):
            with open(os.path.join(self.dir, "etc", name), "w", encoding="utf-8") as out:
                out.write(line)
        run(["gcc", "-O2", "-static", "-o", os.path.join(self.dir, "bin/mark"), os.path.join(HERE, "mark.c")])
        self.tar = os.path.join(folder, "rootfs.tar")
        run(["tar", "--create", "--file", self.tar, "--directory", self.dir, "."])
        self.layout = os.path.join(folder, "image")
        pack = os.path.join(HERE, "../../scripts/pack-layout.sh")
        run([pack, self.dir, self.layout, "latest", '{"Cmd":["/bin/mark"],"Env":["PATH=/bin"]}'])


class Tank:
    """A tankd with folders of its own."""

    name = "tank"

    def __init__(self, folder, programs, root, marks):
        self.folder = os.path.join(folder, "tank")
        os.makedirs(self.folder)
        self.programs, self.root, self.marks = programs, root, marks
        self.run_dir = "/run/tank"
        self.socket = f"{self.run_dir}/tank.sock"
        self.cgroup = f"tank-bench-{os.getpid()}"
        self.settings()
        os.symlink(root.layout, os.path.join(self.folder, "image"))
        self.running = ["stays"]
        os.environ["TANK_CACHE_DIR"] = os.path.join(self.folder, "cache")
        self.start()

    def settings(self, grace="0ms"):
        with open(os.path.join(self.folder, "tank.toml"), "w", encoding="utf-8") as out:
            out.write(f'cgroup = "{self.cgroup}"\ngrace = "{grace}"\n')

    def restart(self, **settings):
        """Ends the daemon and starts it with other settings."""
        self.settings(**settings)
        self.daemon.terminate()
        self.daemon.wait(20)
        self.start()

    def start(self, converged=False):
        """Starts the daemon and waits until it answers; `converged`: until there is nothing left to do as well."""
        arguments = [f"--state-dir={self.folder}/state", f"--run-dir={self.run_dir}"]
        with open(os.path.join(self.folder, "tankd.log"), "a", encoding="utf-8") as log:
            self.daemon = subprocess.Popen(
                [f"{self.programs}/tankd", *arguments, f"--config={self.folder}/tank.toml"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, "TANK_LOG": "warn"},
            )
        def answers():
            try:
                reply = self.call("Diff") if converged else self.call("Status")
            except OSError:
                return False
            return not (converged and reply["steps"])
        wait_for(answers, "tankd answers")

    def call(self, method, **parameters):
        """One call over the socket, without a program between."""
        request = {"method": f"io.tank.Executor.{method}", "parameters": parameters}
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(60)
            connection.connect(self.socket)
            connection.sendall(json.dumps(request).encode() + b"\0")
            answer = b""
            while not answer.endswith(b"\0"):
                received = connection.recv(1 << 16)
                if not received:
                    raise OSError("tankd closed the connection")
                answer += received
        reply = json.loads(answer[:-1])
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply}")
        return reply.get("parameters", {})

    def canonical(self, text):
        """What the command line sends for a configuration."""
        self.write(text, "canonical.ncl")
        return self("build", "--canonical", "canonical.ncl").strip()

    def run(self, name):
        self.running.append(name)
        self.write("{" + "".join(map(self.pod, self.running)) + "}")
        self("switch", "pods.ncl")

    def remove(self, name):
        self.running.remove(name)
        self.write("{" + "".join(map(self.pod, self.running)) + "}")
        self("switch", "pods.ncl")

    def exec(self, name):
        self("exec", name, "--", "true")

    def version(self):
        return run([f"{self.programs}/tank", "--version"]).strip()

    def command(self, *arguments):
        # Paths in a configuration are looked for beside it.
        arguments = [f"{self.folder}/{word}" if word.endswith(".ncl") else word for word in arguments]
        return [f"{self.programs}/tank", "--socket", self.socket, *arguments]

    def __call__(self, *arguments):
        if arguments[0] in ("build", "--json"):
            return run(self.command(*arguments))
        return timed(self.command(*arguments))

    def json(self, *arguments):
        return json.loads(self("--json", *arguments))

    def write(self, text, name="pods.ncl"):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as out:
            out.write(text)

    def pod(self, name, container="", more=""):
        return (
            f'pods.{name} = {{ containers.app = {{ image = "oci:./image", '
            f'mounts.mark = {{ volume = "mark", path = "/mark" }}, {container} }}, '
            f'volumes.mark.host = "{self.marks.folder}", {more} }},\n'
        )

    def switch(self, text):
        self.write(text)
        self("switch", "pods.ncl")

    def pid(self, pod):
        pods = self.json("list")["pods"]
        return next((found["containers"][0]["pid"] for found in pods if found["name"] == pod), None)

    def stop(self):
        try:
            self.switch("{}")
        finally:
            self.daemon.terminate()
            self.daemon.wait(20)
            remove_groups(self.cgroup)


class Podman:
    name = "podman"
    # Where root may not raise its own limits, podman's usual ones are refused.
    LIMITS = ("--ulimit", "nofile=1024:4096", "--ulimit", "nproc=4096:4096")

    def __init__(self, folder, peers, root, marks):
        self.folder, self.view, self.marks = os.path.join(folder, "podman"), peers.view, marks
        os.makedirs(self.folder)
        self.options = [f"--root={self.folder}/root", "--runroot=/run/containers", "--tmpdir=/run/libpod", "--cgroup-manager=cgroupfs", "--runtime=/usr/sbin/runc", "--log-level=error"]
        self("import", "--change", 'CMD ["/bin/mark"]', root.tar, "bench")

    def version(self):
        return run(["/usr/bin/podman", "--version"], self.view).strip()

    def command(self, *arguments):
        return ["/usr/bin/podman", *self.options, *arguments]

    def __call__(self, *arguments):
        return run(self.command(*arguments), self.view)

    def run(self, name):
        timed(self.start(name), self.view)

    def restarting(self, name):
        timed(self.start(name, "--restart=always"), self.view)

    def exec(self, name):
        timed(self.command("exec", name, "/bin/true"), self.view)

    def remove(self, name):
        timed(self.command("rm", "--force", "--time", "0", name), self.view)

    def start(self, name, *options):
        return self.command("run", "--detach", "--name", name, *self.LIMITS, "--volume", f"{self.marks.folder}:/mark", *options, "bench")

    def pid(self, name):
        return int(self("inspect", "--format", "{{.State.Pid}}", name))

    def stop(self):
        self("rm", "--all", "--force", "--time", "0")
        self("system", "reset", "--force")
        remove_groups("libpod_parent")


class Docker:
    name = "docker"

    def __init__(self, folder, peers, root, marks):
        self.folder, self.view, self.marks = os.path.join(folder, "docker"), peers.view, marks
        os.makedirs(self.folder)
        self.socket = f"unix://{self.folder}/docker.sock"
        options = [f"--data-root={self.folder}/data", "--exec-root=/run/docker", f"--pidfile={self.folder}/pid", f"--host={self.socket}"]
        # A storage driver that works on whatever file system this is would be vfs; overlay2 is what people have.
        with open(f"{self.folder}/log", "w", encoding="utf-8") as log, within(self.view):
            self.daemon = subprocess.Popen(["/usr/sbin/dockerd", *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_for(self.answers, "dockerd answers", 60)
        self("import", "--change", 'CMD ["/bin/mark"]', root.tar, "bench")

    def answers(self):
        with within(self.view):
            return subprocess.run(self.command("version"), capture_output=True, check=False).returncode == 0

    def version(self):
        return re.sub(r"\s+", " ", self("version", "--format", "docker {{.Server.Version}}")).strip()

    def command(self, *arguments):
        return ["/usr/bin/docker", f"--host={self.socket}", *arguments]

    def __call__(self, *arguments):
        return run(self.command(*arguments), self.view)

    def run(self, name):
        timed(self.start(name), self.view)

    def restarting(self, name):
        timed(self.start(name, "--restart=always"), self.view)

    def exec(self, name):
        timed(self.command("exec", name, "/bin/true"), self.view)

    def remove(self, name):
        timed(self.command("rm", "--force", name), self.view)

    def start(self, name, *options):
        return self.command("run", "--detach", "--name", name, "--volume", f"{self.marks.folder}:/mark", *options, "bench")

    def pid(self, name):
        return int(self("inspect", "--format", "{{.State.Pid}}", name))

    def stop(self):
        try:
            names = self("ps", "--all", "--quiet").split()
            if names:
                self("rm", "--force", *names)
        finally:
            self.daemon.send_signal(signal.SIGTERM)
            self.daemon.wait(60)
            remove_groups("docker")


def let_others_pass(view):
    """Docker drops what is forwarded and not its own, and has packets between ports of a bridge pass the same rules: with both,
    nobody else has a network. Its other rules stay, and everybody's forwarded packets pass them."""
    run(["/usr/sbin/iptables", "--policy", "FORWARD", "ACCEPT"], view)
    for family in ("ip", "ip6"):
        path = f"/proc/sys/net/bridge/bridge-nf-call-{family}tables"
        if os.path.exists(path):
            with open(path, "w", encoding="utf-8") as out:
                out.write("0")


def workspace():
    return tempfile.TemporaryDirectory(prefix="tank-bench-")


def describe(samples):
    """Median, and the 10th and 90th percentile."""
    samples = sorted(samples)
    at = lambda share: samples[min(len(samples) - 1, int(len(samples) * share))]
    return {"median": round(at(0.5), 2), "p10": round(at(0.1), 2), "p90": round(at(0.9), 2), "runs": len(samples)}


def beside(rows, title):
    """A line for each thing that was measured: each tool's median, and how much of it the others have, Tank being one."""
    tools = list(dict.fromkeys(row["tool"] for row in rows))
    medians = {(row["what"], row["tool"]): row["median"] for row in rows}
    print(f"{title}\n")
    print(f"{'what':<44}" + "".join(f"{tool:>18}" for tool in tools))
    for what in dict.fromkeys(row["what"] for row in rows):
        cells = []
        for tool in tools:
            median, ours = medians.get((what, tool)), medians.get((what, "tank"))
            ratio = f" ({median / ours:.2f})" if median is not None and ours and tool != "tank" else ""
            cells.append("" if median is None else f"{median:,.0f}{ratio}")
        print(f"{what:<44}" + "".join(f"{cell:>18}" for cell in cells))
