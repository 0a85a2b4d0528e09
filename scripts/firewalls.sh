#!/bin/sh
# Makes a root file system of Debian 12 with ufw and firewalld, neither of them on, once, under ~/.cache/tank, and prints
# where it is. The tests mount it beneath a layer of their own and run both in the network of a test's host.
set -eu
root=${TANK_CACHE:-$HOME/.cache/tank}/firewalls-1
mkdir -p "$(dirname "$root")"
# Two tests at once make it once.
(
    flock 9
    if [ ! -d "$root" ]; then
        echo 'firewalls: Debian 12 with ufw and firewalld, once: a minute' >&2
        rm -rf "$root.new"
        "$(dirname "$0")/debian-root.sh" "$root.new" ufw firewalld dbus iptables nftables iproute2 procps python3
        mv "$root.new" "$root"
    fi
) 9> "$root.lock" >&2
echo "$root"
