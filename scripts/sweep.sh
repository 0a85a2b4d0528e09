#!/bin/sh
# Removes what test runs that were killed left behind: the cgroups and folders of hosts whose test process is gone.
# A run that ends by itself leaves nothing, which the last test asserts.
set -eu
gone() { # tank-t-PID-N
    pid=${1#tank-t-}
    [ ! -d "/proc/${pid%%-*}" ]
}
for group in $(find /sys/fs/cgroup -maxdepth 2 -type d -name 'tank-t-*'); do
    gone "$(basename "$group")" || continue
    [ ! -e "$group/cgroup.kill" ] || echo 1 > "$group/cgroup.kill"
    tries=0
    while [ -d "$group" ] && [ $tries -lt 20 ]; do
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || sleep 0.1
        tries=$((tries + 1))
    done
done
for dir in /tmp/tank-t-*; do
    [ -d "$dir" ] && gone "$(basename "$dir")" || continue
    rm -rf "$dir"
done
