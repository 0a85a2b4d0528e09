#!/bin/sh
# Installs the Debian packages that are missing: `setup.sh build` for building, `setup.sh deb` for a package of what is
# built, `setup.sh demo` for the demo, `setup.sh test` for the tests, `setup.sh bench` for what Tank is measured beside. Does
# nothing, and asks nobody, when everything is there. Then it checks the versions of what the build needs.
set -eu
build="gcc g++ libc6-dev clang libclang-dev pkg-config ca-certificates"
demo="$build busybox-static curl iproute2"
deb="$build dpkg-dev"
test="$demo dpkg-dev nftables debootstrap docker-registry zstd python3 python3-venv util-linux procps qemu-system-x86 cpio kmod
    e2fsprogs conntrack erofs-utils attr xfsprogs btrfs-progs nix-bin umoci"
case ${1:-} in
    build) wanted=$build ;;
    demo) wanted=$demo ;;
    deb) wanted=$deb ;;
    test) wanted=$test ;;
    # The peers themselves come in a root file system of their own: `scripts/peers.sh`.
    bench) wanted="$demo nftables debootstrap util-linux python3" ;;
    *) echo "usage: setup.sh build|demo|deb|test|bench" >&2; exit 2 ;;
esac
missing=
for package in $wanted; do
    status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing="$missing $package"
done
cd "$(dirname "$0")"
[ -n "$missing" ] || exec ./versions.sh
[ "$(id -u)" = 0 ] || { echo "missing packages:$missing; run this as root" >&2; exit 1; }
export DEBIAN_FRONTEND=noninteractive
# Packages that start a service must not: the tests run their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $missing > /dev/null
./versions.sh
