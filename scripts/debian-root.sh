#!/bin/sh
# Makes a root file system of Debian 12 with some packages, installed by apt as on any machine:
#     debian-root.sh ROOT PACKAGE ...
# What all of them begin with is made once, under ~/.cache/tank/debian-12. LAYER=yes: ROOT gets only what is not in that, as
# the second layer of an image has it (files that the packages took away are `.wh.` files).
set -eu
base=${TANK_CACHE:-$HOME/.cache/tank}/debian-12
root=$1
shift
make_base() {
    mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\(https\?:[^ ]*\) bookworm .*/\2/p; s/^URIs: \([^ ]*\).*/\1/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v security | head -n 1)
    rm -rf "$base.new"
    mkdir -p "$base.new"
    if ! debootstrap --variant=minbase bookworm "$base.new" "${mirror:-http://deb.debian.org/debian}" > "$base.log" 2>&1; then
        tail -n 20 "$base.log" >&2
        exit 1
    fi
    # No service starts, nothing waits for the disk, and nobody reads what is documented there.
    printf '#!/bin/sh\nexit 101\n' > "$base.new/usr/sbin/policy-rc.d"
    chmod 755 "$base.new/usr/sbin/policy-rc.d"
    echo force-unsafe-io > "$base.new/etc/dpkg/dpkg.cfg.d/fast"
    printf 'path-exclude=/usr/share/doc/*\npath-exclude=/usr/share/man/*\npath-exclude=/usr/share/locale/*\n' > "$base.new/etc/dpkg/dpkg.cfg.d/small"
    rm -rf "$base.new"/var/cache/apt/archives/*.deb "$base.new"/var/lib/apt/lists/* "$base.new"/usr/share/doc/* "$base.new"/usr/share/man/* \
        "$base.new"/usr/share/locale/*
    mv "$base.new" "$base"
}
mkdir -p "$(dirname "$base")"
(
    flock 9
    if [ ! -d "$base" ]; then make_base; fi
) 9> "$base.lock"
[ "$#" -gt 0 ] || exit 0
mkdir -p "$root"
# An overlay over what is there, in a mount namespace that ends with this: nothing of it is copied, and what was added is
# the upper directory.
work=$(mktemp -d "$root.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir "$work/upper" "$work/work" "$work/root"
export base work
unshare --mount sh -euc '
    mount -t overlay -o "lowerdir=$base,upperdir=$work/upper,workdir=$work/work" none "$work/root"
    mount --bind /proc "$work/root/proc"
    mount --bind /dev "$work/root/dev"
    cp -L /etc/resolv.conf "$work/root/etc/resolv.conf"
    for part in /etc/apt/apt.conf.d/99* /etc/apt/sources.list.d/*; do [ ! -f "$part" ] || cp -L "$part" "$work/root$part"; done
    [ ! -e /etc/apt/sources.list.d/debian.sources ] || rm -f "$work/root/etc/apt/sources.list"
    mkdir -p "$base.debs"
    mount --bind "$base.debs" "$work/root/var/cache/apt/archives"
    export DEBIAN_FRONTEND=noninteractive
    chroot "$work/root" sh -ec "apt-get update -qq && apt-get install -y -qq --no-install-recommends $*" > "$work/log" 2>&1 || { tail -n 30 "$work/log" >&2; exit 1; }
    umount "$work/root/var/cache/apt/archives"
    rm -rf "$work"/root/var/lib/apt/lists/* "$work"/root/var/cache/apt/*.bin "$work"/root/var/log/*.log "$work"/root/var/log/apt
    umount "$work/root/proc" "$work/root/dev"
    [ -n "${LAYER:-}" ] || cp -a "$work/root/." "$0/"
' "$root" "$@"
[ -n "${LAYER:-}" ] || exit 0
# What a layer of an image says with a name, overlay says with a device.
find "$work/upper" -type c | while read -r gone; do
    rm "$gone"
    : > "$(dirname "$gone")/.wh.$(basename "$gone")"
done
cp -a "$work/upper/." "$root/"
