#!/bin/sh
# Checks the versions of what the build needs and says, all at once, what is missing or too old and where to get it.
set -eu
cd "$(dirname "$0")/.."
problems=0
problem() {
    echo "versions: $*" >&2
    problems=$((problems + 1))
}

# at_least HAVE WANT: whether version HAVE is WANT or later.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# need NAME HAVE WANT HOW: HAVE is empty where NAME is not installed.
need() {
    if [ -z "$2" ]; then
        problem "$1 is not here, and $3 or later is needed: $4"
    elif ! at_least "$2" "$3"; then
        problem "$1 is $2, and $3 or later is needed: $4"
    fi
}

# The number in the first line of what a program prints.
number() {
    "$@" 2> /dev/null | sed -n '1s/[^0-9]*\([0-9][0-9.]*\).*/\1/p' || true
}

rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
need rustc "$(number rustc --version)" "$rust" "https://rustup.rs, then \`rustup toolchain install stable\`"
need cargo "$(number cargo --version)" "$rust" "it comes with rustc"
# RocksDB is C++20, and its bindings are read with libclang at build time.
need "${CXX:-g++}" "$(number "${CXX:-g++}" -dumpfullversion -dumpversion)" 11 "apt-get install g++"
need clang "$(number clang --version)" 9 "apt-get install clang libclang-dev"
need make "$(number make --version)" 4.0 "apt-get install make"
if [ -z "${LIBCLANG_PATH:-}" ] && ! ldconfig -p 2> /dev/null | grep -q 'libclang[-.]' &&
    ! ls /usr/lib/llvm-*/lib/libclang*.so* > /dev/null 2>&1; then
    problem "libclang is not here: apt-get install libclang-dev, or name its folder in LIBCLANG_PATH"
fi
[ $problems = 0 ]
