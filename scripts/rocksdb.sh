#!/bin/sh
# Builds RocksDB's static library once for each version and prints the folder it is in.
#
# It is 35 CPU-minutes of C++. As part of an ordinary build they would be spent again whenever some unrelated
# dependency changes a feature flag; here they are spent once, and `ROCKSDB_LIB_DIR` links the result. A plain
# `cargo build` without it works too, and compiles RocksDB itself.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
dir=${TANK_CACHE:-$HOME/.cache/tank}/rocksdb-$version
if [ ! -f "$dir/librocksdb.a" ]; then
    echo "building RocksDB ($version), once: about 20 minutes on two cores" >&2
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/src" "$dir"
    : > "$work/src/lib.rs"
    cat > "$work/Cargo.toml" <<TOML
[package]
name = "rocksdb-once"
version = "0.0.0"
edition = "2024"
[dependencies]
librocksdb-sys = { version = "=$version", default-features = false, features = ["bindgen-runtime"] }
[profile.dev.package.librocksdb-sys]
opt-level = 1
debug = false
[workspace]
TOML
    env -u ROCKSDB_LIB_DIR -u ROCKSDB_STATIC CARGO_TARGET_DIR="$work/target" cargo build --quiet --manifest-path "$work/Cargo.toml" >&2
    # Named last: a build that was interrupted is begun again.
    cp "$work"/target/debug/build/librocksdb-sys-*/out/librocksdb.a "$dir/librocksdb.a.new"
    mv "$dir/librocksdb.a.new" "$dir/librocksdb.a"
fi
echo "$dir"
