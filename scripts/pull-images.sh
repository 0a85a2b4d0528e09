#!/bin/sh
# Makes, once, an OCI image layout of two images for the benchmark of pulls, and prints its folder: `large`, Debian 13 with
# Python, NumPy, SymPy, Django, pandas, and a copy of their packages, as in a virtual environment; and `nginx`, Debian 13 with
# nginx. Each is one layer, compressed by `gzip -1`.
set -eu
version=2
dir=${TANK_CACHE:-$HOME/.cache/tank}/pull-images
if [ "$(cat "$dir/version" 2>/dev/null)" != $version ]; then
    echo 'images to pull: Debian 13, once: about five minutes' >&2
    mirror=$(sed -n 's/^deb \(\[[^]]*\] \)\?\(https\?:[^ ]*\) bookworm .*/\2/p; s/^URIs: \([^ ]*\).*/\1/p' \
        /etc/apt/sources.list /etc/apt/sources.list.d/* 2>/dev/null | grep -v security | head -n 1)
    rm -rf "$dir"
    mkdir -p "$dir"
    trap 'rm -rf "$dir/root"' EXIT
    for image in large:python3-numpy,python3-sympy,python3-django,python3-pandas nginx:nginx; do
        if ! debootstrap --variant=minbase --include="${image#*:}" trixie "$dir/root" \
            "${mirror:-http://deb.debian.org/debian}" > "$dir/debootstrap.log" 2>&1; then
            tail -n 20 "$dir/debootstrap.log" >&2
            exit 1
        fi
        rm -rf "$dir"/root/var/cache/apt/archives/*.deb "$dir"/root/var/lib/apt/lists/*
        [ "${image%%:*}" != large ] || cp -a "$dir/root/usr/lib/python3/dist-packages" "$dir/root/opt/packages"
        "$(dirname "$0")/pack-layout.sh" "$dir/root" "$dir/layout" "${image%%:*}" '{"Cmd":["/bin/sleep","infinity"]}'
        rm -rf "$dir/root"
    done
    echo $version > "$dir/version"
fi
echo "$dir/layout"
