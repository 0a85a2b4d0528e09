#!/bin/sh
# What `make demo` shows: tankd, an image packed from busybox-static, a switch, and the page the pod serves. It all
# happens in a network and mount namespace of its own and leaves nothing behind.
set -eu
cd "$(dirname "$0")/.."
bin=${CARGO_TARGET_DIR:-target}/debug
if [ "${TANK_DEMO_INSIDE:-}" != 1 ]; then
    export TANK_DEMO_INSIDE=1
    exec unshare --net --mount "$0" "$@"
fi
ip link set lo up
work=$(mktemp -d /tmp/tank-demo.XXXXXX)
export TANK_STATE_DIR=$work/state TANK_RUN_DIR=$work/run TANK_SOCKET=$work/run/tank.sock
cgroup=tank-demo-$$
printf 'cgroup = "%s"\n' "$cgroup" > "$work/tank.toml"
daemon=
clean_up() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    [ -z "$daemon" ] || wait "$daemon" 2>/dev/null || true
    find /sys/fs/cgroup -maxdepth 2 -type d -name "$cgroup" | while read -r group; do
        [ ! -e "$group/cgroup.kill" ] || echo 1 > "$group/cgroup.kill"
        find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    rm -rf "$work" examples/hello/image
}
trap clean_up EXIT INT TERM

echo '# packing an image from busybox-static'
rm -rf examples/hello/image
mkdir -p "$work/root/bin" "$work/root/etc"
cp /bin/busybox "$work/root/bin/busybox"
for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -sf busybox "$work/root/bin/$applet"
done
printf 'root:x:0:0:root:/:/bin/sh\n' > "$work/root/etc/passwd"
scripts/pack-layout.sh "$work/root" examples/hello/image latest '{"Cmd":["/bin/sh"],"Env":["PATH=/bin"]}'

echo '# tankd'
TANK_LOG=warn "$bin/tankd" --config "$work/tank.toml" 2> "$work/tankd.log" &
daemon=$!
tries=0
until "$bin/tank" status > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 100 ] || { cat "$work/tankd.log"; exit 1; }
    sleep 0.1
done
echo '# tank diff examples/hello/pods.ncl'
"$bin/tank" diff examples/hello/pods.ncl
echo '# tank switch examples/hello/pods.ncl'
"$bin/tank" switch examples/hello/pods.ncl
echo '# tank list'
"$bin/tank" list
echo '# curl http://127.0.0.1:8080/'
curl --silent --show-error --fail --max-time 5 http://127.0.0.1:8080/
echo '# tank delete hello'
"$bin/tank" delete hello
