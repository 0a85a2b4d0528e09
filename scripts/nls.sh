#!/bin/sh
# Builds Nickel's language server once, for the test that drives it, and prints where it is.
set -eu
version=1.18.0
root=$HOME/.cache/tank/nls-$version
if [ ! -x "$root/bin/nls" ]; then
    echo "building nls $version, once: about ten minutes on two cores" >&2
    # Debug: it answers one session and is built in a third of the time.
    CARGO_TARGET_DIR=$root/build cargo install --quiet --locked --debug --no-default-features \
        --version "$version" --root "$root" nickel-lang-lsp >&2
    rm -rf "$root/build"
fi
echo "$root/bin/nls"
