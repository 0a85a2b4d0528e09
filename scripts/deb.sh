#!/bin/sh
# Makes a Debian package of the programs in a folder: `deb.sh BIN INTO` writes INTO/tank_VERSION_ARCHITECTURE.deb and prints
# its path. What it installs is what `scripts/install.sh` does; `packaging/debian` has what runs with it.
set -eu
bin=$(realpath "$1")
mkdir -p "$2"
into=$(realpath "$2")
cd "$(dirname "$0")/.."
version=$("$bin/tankd" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/tank
mkdir -p "$root/DEBIAN" "$work/debian"
scripts/install.sh "$root" /usr "$bin"
for program in tank tankd tank-shim tank-names tank-layer; do strip --strip-unneeded "$root/usr/bin/$program"; done
# The libraries that the programs need, with the versions that have what they use of them.
printf 'Source: tank\n\nPackage: tank\nArchitecture: any\n' > "$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O --ignore-missing-info tank/usr/bin/* 2> /dev/null | sed 's/^shlibs:Depends=//')
cat > "$root/DEBIAN/control" <<CONTROL
Package: tank
Version: $version
Architecture: $architecture
Maintainer: The Tank developers <tank@localhost>
Depends: $depends, systemd
Recommends: ca-certificates, bash-completion
Section: admin
Priority: optional
Installed-Size: $(du -sk "$root/usr" | cut -f1)
Description: NixOS generations for containers
 Pods are declared in Nickel, type-checked and compiled into a graph. A switch
 makes the host what is declared, as a numbered generation that can be gone
 back to. Containers are made by Tank itself, of namespaces, cgroups, overlayfs,
 netlink and nftables.
CONTROL
echo /etc/tank/tank.toml > "$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do install -m 755 "packaging/debian/$script" "$root/DEBIAN/$script"; done
package=$into/tank_${version}_$architecture.deb
dpkg-deb --root-owner-group --build -Zzstd "$root" "$package" > /dev/null
echo "$package"
