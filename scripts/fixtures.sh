#!/bin/sh
# Makes what the end-to-end tests run, once, under ~/.cache/tank/fixtures:
#   busybox/    an OCI layout of Debian's busybox-static
#   promtool    of Debian's prometheus
#   registry/   the storage of a docker-registry, with `nginx` (a Debian image made from Debian packages, two layers,
#               gzip and zstd, a whiteout, behind an index for two platforms) and broken images for the refusals
# A registry is started in a network namespace of its own, filled over its protocol, and ended.
set -eu
cd "$(dirname "$0")/.."
version=5
cache=${TANK_CACHE:-$HOME/.cache/tank}/fixtures

# The program alone: with what the package depends on it is 100 MB, and it starts a server.
promtool() {
    [ ! -x "$cache/promtool" ] || return 0
    echo 'fixtures: promtool, from a Debian package' >&2
    debs=$(mktemp -d /tmp/tank-fixtures.XXXXXX)
    trap 'rm -rf "$debs"' EXIT
    chmod 755 "$debs"
    fetch() { (cd "$debs" && apt-get download -qq prometheus > log 2>&1); }
    fetch || { apt-get update -qq && fetch; } || { cat "$debs/log" >&2; exit 1; }
    dpkg-deb --fsys-tarfile "$debs"/prometheus_*.deb | tar --extract --to-stdout ./usr/bin/promtool > "$cache/promtool.new"
    chmod 755 "$cache/promtool.new"
    mv "$cache/promtool.new" "$cache/promtool"
    rm -rf "$debs"
    trap - EXIT
}

if [ "$(cat "$cache/version" 2>/dev/null)" = $version ]; then
    promtool
    exit 0
fi
case $(uname -m) in aarch64) here=arm64 there=amd64 ;; *) here=amd64 there=arm64 ;; esac

images() {
echo 'fixtures: busybox' >&2
mkdir -p "$work/busybox/bin" "$work/busybox/etc" "$work/busybox/tmp"
chmod 1777 "$work/busybox/tmp"
cp /bin/busybox "$work/busybox/bin/busybox"
for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$work/busybox/bin/$applet"
done
printf 'root:x:0:0:root:/:/bin/sh\nweb:x:33:44:web:/tmp:/bin/sh\n' > "$work/busybox/etc/passwd"
# As many images have it: a link that leads nowhere yet.
ln -s ../run/resolve/stub.conf "$work/busybox/etc/resolv.conf"
printf 'root:x:0:\nweb:x:44:\nextra:x:55:web\n' > "$work/busybox/etc/group"
config='{"Cmd":["/bin/sh"],"Env":["PATH=/bin","FROM_IMAGE=yes"],"WorkingDir":"/tmp","StopSignal":"SIGUSR1"}'
scripts/pack-layout.sh "$work/busybox" "$cache/busybox" latest "$config"

echo 'fixtures: nginx, from Debian packages' >&2
mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\(https\?:[^ ]*\) bookworm .*/\2/p; s/^URIs: \([^ ]*\).*/\1/p' \
    /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v security | head -n 1)
# The package manager's own index and keys are not needed inside; the packages are installed by dpkg as anywhere.
root=$work/nginx
mkdir -p "$work/debs" "$root"
if ! debootstrap --variant=minbase --include=nginx-light bookworm "$root" "${mirror:-http://deb.debian.org/debian}" \
    > "$work/debootstrap.log" 2>&1; then
    tail -n 20 "$work/debootstrap.log" >&2
    exit 1
fi
rm -rf "$root"/var/cache/apt "$root"/var/lib/apt/lists/* "$root"/usr/share/doc "$root"/usr/share/man "$root"/usr/share/locale
cmd='{"Cmd":["/usr/sbin/nginx","-g","daemon off;"],"Env":["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],"StopSignal":"SIGQUIT"}'
scripts/pack-layout.sh "$root" "$work/layout" base "$cmd" gzip
# The second layer takes Debian's default site away: without its whiteout nginx would refuse ours.
mkdir -p "$work/top/etc/nginx/sites-enabled" "$work/top/var/log/nginx"
: > "$work/top/etc/nginx/sites-enabled/.wh.default"
ln -s /dev/stderr "$work/top/var/log/nginx/error.log"
ln -s /dev/stdout "$work/top/var/log/nginx/access.log"
BASE=base scripts/pack-layout.sh "$work/top" "$work/layout" latest "$cmd" zstd

}

registry() {
echo 'fixtures: a registry' >&2
ip link set lo up
cat > "$work/registry.yml" <<YML
version: 0.1
storage: { filesystem: { rootdirectory: $cache/registry } }
http: { addr: "127.0.0.1:5000" }
log: { level: error }
YML
docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
registry=$!
until curl -s -o /dev/null http://127.0.0.1:5000/v2/; do sleep 0.1; done

api=http://127.0.0.1:5000/v2
blob() { # REPOSITORY FILE
    digest=sha256:$(sha256sum < "$2" | cut -d' ' -f1)
    location=$(curl -sf -X POST -D - -o /dev/null "$api/$1/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
    curl -sf -X PUT -H 'Content-Type: application/octet-stream' --data-binary @"$2" "$location&digest=$digest" > /dev/null
}
manifest() { # REPOSITORY TAG FILE TYPE
    curl -sf -X PUT -H "Content-Type: application/vnd.oci.image.$4.v1+json" --data-binary @"$3" "$api/$1/manifests/$2" > /dev/null
}
tagged() { # LAYOUT TAG -> digest of its manifest
    sed 's/.*"digest":"sha256:\([0-9a-f]*\)".*/\1/' "$1/manifests.$2"
}
for file in "$work"/layout/blobs/sha256/*; do blob nginx "$file"; done
wanted=$(tagged "$work/layout" latest)
other=$(tagged "$work/layout" base)
manifest nginx "sha256:$wanted" "$work/layout/blobs/sha256/$wanted" manifest
manifest nginx "sha256:$other" "$work/layout/blobs/sha256/$other" manifest
entry() { # DIGEST ARCH
    printf '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"architecture":"%s","os":"linux"}}' \
        "$1" "$(stat -c %s "$work/layout/blobs/sha256/$1")" "$2"
}
# The wrong platform comes first: who does not choose gets Debian's default site.
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s,%s]}' \
    "$(entry "$other" "$there")" "$(entry "$wanted" "$here")" > "$work/index.json"
manifest nginx latest "$work/index.json" index

echo 'fixtures: broken images' >&2
# A layer that is no tar: everything about it is honest but its content.
head -c 4096 /dev/urandom > "$work/garbage"
gzip -n < "$work/garbage" > "$work/garbage.gz"
garbage() { sha256sum < "$1" | cut -d' ' -f1; }
printf '{"architecture":"%s","os":"linux","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$here" "$(garbage "$work/garbage")" > "$work/garbage.config"
image() { # CONFIG LAYER
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:%s","size":%s}]}' \
        "$(garbage "$1")" "$(stat -c %s "$1")" "$(garbage "$2")" "$(stat -c %s "$2")"
}
image "$work/garbage.config" "$work/garbage.gz" > "$work/garbage.manifest"
blob no-tar "$work/garbage.config"
blob no-tar "$work/garbage.gz"
manifest no-tar latest "$work/garbage.manifest" manifest
# A blob whose bytes are not those of its digest: changed behind the registry's back, at the same length.
tar --create --file "$work/tampered.tar" -C "$work/busybox" etc
gzip -n < "$work/tampered.tar" > "$work/tampered.gz"
printf '{"architecture":"%s","os":"linux","config":{"Cmd":["/bin/sh"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$here" "$(garbage "$work/tampered.tar")" > "$work/tampered.config"
image "$work/tampered.config" "$work/tampered.gz" > "$work/tampered.manifest"
blob tampered "$work/tampered.config"
blob tampered "$work/tampered.gz"
manifest tampered latest "$work/tampered.manifest" manifest
digest=$(garbage "$work/tampered.gz")
data=$cache/registry/docker/registry/v2/blobs/sha256/$(echo "$digest" | cut -c1-2)/$digest/data
printf 'X' | dd of="$data" bs=1 seek=40 conv=notrunc status=none

kill $registry
wait $registry 2>/dev/null || true
}

if [ -n "${TANK_FIXTURES_WORK:-}" ]; then
    work=$TANK_FIXTURES_WORK
    registry=
    trap '[ -z "$registry" ] || kill $registry 2>/dev/null || true' EXIT
    registry
    exit 0
fi
work=$(mktemp -d /tmp/tank-fixtures.XXXXXX)
trap 'rm -rf "$work"' EXIT
rm -rf "$cache"
mkdir -p "$cache"
promtool
trap 'rm -rf "$work"' EXIT
images
TANK_FIXTURES_WORK=$work unshare --net "$0"
echo $version > "$cache/version"
