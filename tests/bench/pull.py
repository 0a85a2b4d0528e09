"""What a pull takes: an image of a registry on loopback, until it could be run, and until it is gone again.

Everybody pulls the same two images of one layer of gzip (`scripts/pull-images.sh`) from the same registry, whose files are
in memory after the first time. podman, docker and containerd unpack into folders of overlay, `skopeo` with `umoci` into a bundle;
none of them waits until it is on the disk, and Tank does. `tank diff` fetches, makes the plan, and starts nothing; `tank gc` removes
what no generation has. tar alone decompresses and unpacks the layer, and writes nothing else; the kernel alone removes one file that is as
long as the layer is uncompressed."""

import json
import os
import shutil
import subprocess
import tempfile
import threading
import time

import hosts

IMAGES = ("large", "nginx")
REGISTRY = "localhost:5000"
LIMIT = 300


class Registry:
    """Debian's registry, with both images."""

    def __init__(self, host):
        self.view, self.folder = host.beside.view, tempfile.mkdtemp(prefix="registry-", dir=host.folder)
        self.layout = hosts.run([os.path.join(hosts.HERE, "../../scripts/pull-images.sh")], timeout=1800).strip()
        # In there, the cache is elsewhere.
        layout = os.path.join(self.folder, "layout")
        shutil.copytree(self.layout, layout, copy_function=os.link if same_disk(self.layout, self.folder) else shutil.copy2)
        config = os.path.join(self.folder, "config.yml")
        with open(config, "w", encoding="utf-8") as out:
            out.write(f'version: 0.1\nstorage: {{ filesystem: {{ rootdirectory: {self.folder}/storage }} }}\nhttp: {{ addr: "127.0.0.1:5000" }}\nlog: {{ level: error }}\n')
        with open(f"{self.folder}/log", "w", encoding="utf-8") as log, hosts.within(self.view):
            self.process = subprocess.Popen(["/usr/bin/docker-registry", "serve", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        copy = lambda image: ["/usr/bin/skopeo", "copy", "--insecure-policy", "--dest-tls-verify=false", f"oci:{layout}:{image}", f"docker://{REGISTRY}/{image}"]
        hosts.wait_for(lambda: succeeds(copy(IMAGES[0]), self.view), "the registry takes an image", 120)
        hosts.run(copy(IMAGES[1]), self.view)

    def layer(self, image):
        """The file of an image's layer."""
        with open(f"{self.layout}/index.json", encoding="utf-8") as index:
            manifests = {found["annotations"]["org.opencontainers.image.ref.name"]: found["digest"] for found in json.load(index)["manifests"]}
        blob = lambda digest: f"{self.layout}/blobs/{digest.replace(':', '/')}"
        with open(blob(manifests[image]), encoding="utf-8") as manifest:
            return blob(json.load(manifest)["layers"][0]["digest"])

    def stop(self):
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.folder, ignore_errors=True)


def same_disk(one, other):
    return os.stat(one).st_dev == os.stat(other).st_dev


def succeeds(command, view):
    try:
        hosts.run(command, view)
        return True
    except RuntimeError:
        return False


class Peak:
    """The most memory that a process has at once, looked at every 10 ms."""

    def __init__(self, pid):
        self.pid, self.most, self.over = pid, 0, threading.Event()
        self.thread = threading.Thread(target=self.look)
        self.thread.start()

    def look(self):
        while not self.over.wait(0.01):
            self.most = max(self.most, hosts.memory(self.pid)["Rss"])

    def end(self):
        self.over.set()
        self.thread.join()
        return self.most / 1024


def ways(host, registry):
    """For each tool that is there: its name, how it pulls an image, and how it removes it."""
    found = []
    tank = host.tank

    def tank_pull(image):
        tank.write('{ pods.pulled.containers.app.image = "%s/%s" }' % (REGISTRY, image), "pulled.ncl")
        tank("diff", "pulled.ncl")

    found.append(("tank", tank_pull, lambda image: tank("gc")))
    if hasattr(host, "podman"):
        podman = host.podman
        found.append((
            "podman",
            lambda image: hosts.timed(podman.command("pull", "--quiet", "--tls-verify=false", f"{REGISTRY}/{image}"), podman.view, LIMIT),
            lambda image: hosts.timed(podman.command("rmi", f"{REGISTRY}/{image}"), podman.view, LIMIT),
        ))
    if hasattr(host, "docker"):
        docker = host.docker
        found.append((
            "docker",
            lambda image: hosts.timed(docker.command("pull", "--quiet", f"{REGISTRY}/{image}"), docker.view, LIMIT),
            lambda image: hosts.timed(docker.command("rmi", f"{REGISTRY}/{image}"), docker.view, LIMIT),
        ))
    if hasattr(host, "ctr"):
        ctr = host.ctr
        found.append((
            "ctr",
            lambda image: hosts.timed(ctr.command("images", "pull", "--plain-http", f"{REGISTRY}/{image}:latest"), ctr.view, LIMIT),
            lambda image: hosts.timed(ctr.command("images", "remove", "--sync", f"{REGISTRY}/{image}:latest"), ctr.view, LIMIT),
        ))
    if host.beside:
        folder = os.path.join(host.folder, "unpacked")
        os.makedirs(folder)
        script = f"skopeo copy --quiet --insecure-policy --src-tls-verify=false docker://{REGISTRY}/$1 oci:{folder}/layout:$1 && umoci unpack --image {folder}/layout:$1 {folder}/bundle"
        found.append((
            "skopeo and umoci",
            lambda image: hosts.timed(["/bin/sh", "-c", script, "sh", image], host.beside.view, LIMIT),
            lambda image: hosts.timed(["/bin/rm", "-rf", f"{folder}/layout", f"{folder}/bundle"], host.beside.view, LIMIT),
        ))
    alone = os.path.join(host.folder, "tar")

    def tar(image):
        os.makedirs(alone)
        hosts.timed(["/usr/bin/tar", "--extract", "--gzip", "--numeric-owner", "--file", registry.layer(image), "--directory", alone], limit=LIMIT)

    found.append(("tar alone", tar, lambda image: hosts.timed(["/bin/rm", "-rf", alone], limit=LIMIT)))
    return found


def as_one_file(host, layer):
    """A file on the disk as long as what a layer is decompressed (RFC 1952, 2.3.1: its last four bytes say how long that is)."""
    with open(layer, "rb") as compressed:
        compressed.seek(-4, os.SEEK_END)
        length = int.from_bytes(compressed.read(4), "little")
    path, piece = os.path.join(host.folder, "one-file"), os.urandom(1 << 20)
    with open(path, "wb") as out:
        for _ in range(length >> 20):
            out.write(piece)
        out.flush()
        os.fsync(out.fileno())
    return path


def pull(host, samples, runs):
    """An image pulled and removed again, by turns."""
    if getattr(host, "has_images", False):
        raise RuntimeError("a pull of what is there is none: `pull` comes before `read`, which leaves the image (--only pull,read)")
    registry = Registry(host)
    host.ending.callback(registry.stop)
    tools = ways(host, registry)
    # Three times are enough for what takes seconds.
    for _ in range(min(runs, 3)):
        for image in IMAGES:
            for name, fetch, remove in tools:
                os.sync()
                peak = Peak(host.tank.daemon.pid) if name == "tank" else None
                try:
                    samples.time(f"pull {image}", name, lambda: fetch(image))
                finally:
                    most = peak.end() if peak else None
                if most:
                    samples.add(f"daemon while it pulls {image}, MiB", name, most)
                os.sync()
                samples.time(f"remove {image}", name, lambda: remove(image))
                time.sleep(1)
            written = as_one_file(host, registry.layer(image))
            samples.time(f"remove {image}", "floor", lambda: os.unlink(written))
    # The next part has a registry of its own.
    registry.stop()
