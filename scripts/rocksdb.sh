#!/bin/sh
# Builds RocksDB's static library once for each version and prints the folder it is in.
#
#     rocksdb.sh dev        for the demo and the tests: clang, not optimised, 3 CPU-minutes
#     rocksdb.sh release    for what is installed and measured: GCC, at a low level, 7 CPU-minutes
#
# The crate librocksdb-sys compiles its 342 C++ sources one by one: 35 CPU-minutes, of which most go into the same
# headers again and again. Here four files that include those sources are compiled instead, for the same symbols.
# `ROCKSDB_LIB_DIR` links the result. A plain `cargo build` without it works too, and takes the long way.
set -eu
cd "$(dirname "$0")/.."
batches=4
version=$(sed -n '/^name = "librocksdb-sys"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
dir=${TANK_CACHE:-$HOME/.cache/tank}/rocksdb-$version
# The store is not where Tank spends its time: the release is at a low level, too.
case ${1:-} in
    dev) dir=$dir-dev compiler=clang++ level=-O0 ;;
    release) compiler=g++ level=-O1 ;;
    *) echo "usage: scripts/rocksdb.sh dev|release" >&2; exit 2 ;;
esac
if [ ! -f "$dir/librocksdb.a" ]; then
    echo "building RocksDB ($version), once: two to four minutes on two cores" >&2
    source=$(cargo metadata --locked --format-version 1 | grep -o '"manifest_path":"[^"]*/librocksdb-sys-[^"]*/Cargo.toml"' |
        sed 's/^"manifest_path":"//; s|/Cargo.toml"$||')
    [ -f "$source/rocksdb_lib_sources.txt" ] || { echo "librocksdb-sys has no list of sources in $source" >&2; exit 1; }
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    # The file of the crate itself takes the place of RocksDB's own, which a script of theirs fills in.
    grep -v '^util/build_version.cc$' "$source/rocksdb_lib_sources.txt" |
        awk -v batches=$batches -v work="$work" 'NF { print "#include \"rocksdb/" $1 "\"" > (work "/batch" NR % batches ".cc") }'
    cp "$source/build_version.cc" "$work/build_version.cc"
    # As the crate's build.rs has them for Linux.
    set -- -std=c++20 "$level" -g0 -fPIC -w -include cstdint -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION -DOS_LINUX \
        -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT -DROCKSDB_AUXV_GETAUXVAL_PRESENT \
        -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT -I"$source" -I"$source/rocksdb/include" -I"$source/rocksdb" \
        -I"$source/rocksdb/third-party/gtest-1.8.1/fused-src"
    find "$work" -name '*.cc' -print0 | xargs -0 -P "$(nproc)" -I '{}' "$compiler" "$@" -c '{}' -o '{}.o'
    mkdir -p "$dir"
    rm -f "$dir/librocksdb.a.new"
    ar crs "$dir/librocksdb.a.new" "$work"/*.o
    # Named last: a build that was interrupted is begun again.
    mv "$dir/librocksdb.a.new" "$dir/librocksdb.a"
fi
echo "$dir"
