#!/bin/sh
# Installs what is built: `install.sh DESTDIR PREFIX BIN [ETC]` puts the programs of the folder BIN, systemd's units, pages for
# `man` and completions below DESTDIR, as they are found below PREFIX (`/usr`, `/usr/local`) and ETC (`/etc`). It starts nothing.
set -eu
cd "$(dirname "$0")/.."
root=$1 prefix=$2 bin=$3 etc=${4:-/etc}
case $prefix in /*) ;; *) echo "install.sh: $prefix is no absolute path" >&2; exit 2 ;; esac
put() { install -D -m "$1" "$2" "$root$3"; }
for program in tank tankd tank-shim tank-names tank-layer; do
    # Nix has put them there already.
    [ "$bin" = "$root$prefix/bin" ] || put 755 "$bin/$program" "$prefix/bin/$program"
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
units=$prefix/lib/systemd/system
# Units are looked for below /usr/local/lib, too (systemd.unit(5)).
for unit in tankd.service tankd.socket tank-pods.service; do
    sed "s|=/usr/bin/|=$prefix/bin/|" "packaging/$unit" > "$work/$unit"
    put 644 "$work/$unit" "$units/$unit"
done
put 644 packaging/sysusers.conf "$prefix/lib/sysusers.d/tank.conf"
[ -e "$root$etc/tank/tank.toml" ] || put 644 packaging/tank.toml "$etc/tank/tank.toml"

mkdir "$work/man1"
"$bin/tank" __man-pages "$work/man1"
for page in "$work"/man1/*.1; do
    gzip -9n "$page"
    put 644 "$page.gz" "$prefix/share/man/man1/$(basename "$page").gz"
done
"$bin/tankd" __man-page > "$work/tankd.8"
gzip -9n "$work/tankd.8"
put 644 "$work/tankd.8.gz" "$prefix/share/man/man8/tankd.8.gz"
"$bin/tankd" __man-page-of-settings > "$work/tank.toml.5"
gzip -9n "$work/tank.toml.5"
put 644 "$work/tank.toml.5.gz" "$prefix/share/man/man5/tank.toml.5.gz"
# What they say asks the `tank` that is found in the shell's PATH.
for shell in bash zsh fish; do (cd / && COMPLETE=$shell "$bin/tank" > "$work/$shell"); done
put 644 "$work/bash" "$prefix/share/bash-completion/completions/tank"
# Where Debian's packages put theirs, and where whoever builds puts them.
case $prefix in
    /usr) zsh=vendor-completions ;;
    *) zsh=site-functions ;;
esac
put 644 "$work/zsh" "$prefix/share/zsh/$zsh/_tank"
put 644 "$work/fish" "$prefix/share/fish/vendor_completions.d/tank.fish"
# What the documents link to is beside them. `make demo` puts an image into an example, which is none of it.
for file in README.md CHANGELOG.md CONTRIBUTING.md LICENSE-MIT LICENSE-APACHE docs/*.md stdlib/errors.md \
    $(find examples -name image -prune -o -type f -print); do
    put 644 "$file" "$prefix/share/doc/tank/$file"
done
put 644 packaging/grafana/tank.json "$prefix/share/doc/tank/grafana.json"
put 644 packaging/prometheus/tank.rules.yml "$prefix/share/doc/tank/tank.rules.yml"
