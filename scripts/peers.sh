#!/bin/sh
# Makes, once, a root file system of Debian 13 with what Tank is measured beside, and prints its folder: crun, runc,
# containerd, podman, docker and Compose as they are in the newest stable release, whatever this machine's own is.
# Nothing of it is started here. `tests/bench/hosts.py` enters it.
set -eu
version=2
dir=${TANK_CACHE:-$HOME/.cache/tank}/peers
if [ "$(cat "$dir/version" 2>/dev/null)" != $version ]; then
    echo 'peers: Debian 13, once: about three minutes' >&2
    mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\(https\?:[^ ]*\) bookworm .*/\2/p; s/^URIs: \([^ ]*\).*/\1/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v security | head -n 1)
    packages=podman,crun,runc,docker.io,docker-cli,docker-compose,containerd,catatonit,uidmap,netavark,aardvark-dns,iptables,nftables,iproute2,docker-registry,skopeo,umoci
    rm -rf "$dir"
    mkdir -p "$dir"
    if ! debootstrap --variant=minbase --include=$packages trixie "$dir/root" "${mirror:-http://deb.debian.org/debian}" \
        > "$dir/debootstrap.log" 2>&1; then
        tail -n 20 "$dir/debootstrap.log" >&2
        exit 1
    fi
    echo $version > "$dir/version"
fi
echo "$dir/root"
