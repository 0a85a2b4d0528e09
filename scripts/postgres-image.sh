#!/bin/sh
# Makes the image that PostgreSQL is tested with (tests/tests/postgres.rs), once: an OCI layout under ~/.cache/tank with the
# tags `postgres`, Debian 12 and its `postgresql-15` with an entry point of ours, and `next`, the same with one more file: what
# a new version of the image is. Prints the layout's folder.
set -eu
cd "$(dirname "$0")/.."
cache=${TANK_CACHE:-$HOME/.cache/tank}/postgres-1
debian=${TANK_CACHE:-$HOME/.cache/tank}/debian-12
mkdir -p "$(dirname "$cache")"
(
    flock 9
    if [ ! -e "$cache/layout" ]; then
        echo 'postgres-image: from Debian packages, once: about a minute' >&2
        work=$(mktemp -d /tmp/tank-postgres.XXXXXX)
        trap 'rm -rf "$work"' EXIT
        scripts/debian-root.sh "$work/none"
        scripts/pack-layout.sh "$debian" "$work/layout" base '{"Cmd":["/bin/sh"]}' zstd
        LAYER=yes scripts/debian-root.sh "$work/root" postgresql-15
        install -D -m 755 tests/fixtures/postgres/entrypoint.sh "$work/root/usr/local/bin/entrypoint.sh"
        rm -rf "$work/root/var/lib/postgresql/15"
        config='"User":"postgres","Entrypoint":["entrypoint.sh"],"StopSignal":"SIGINT","ExposedPorts":{"5432/tcp":{}},"Env":["PATH=/usr/local/bin:/usr/lib/postgresql/15/bin:/usr/bin:/bin","PGHOST=/tmp","LC_ALL=C.UTF-8"]'
        BASE=base scripts/pack-layout.sh "$work/root" "$work/layout" postgres "{$config}" zstd
        mkdir -p "$work/more/etc"
        echo 2 > "$work/more/etc/image-version"
        BASE=postgres scripts/pack-layout.sh "$work/more" "$work/layout" next "{$config}" zstd
        # Who the database's files belong to.
        sed -n 's/^postgres:[^:]*:\([0-9]*\):\([0-9]*\):.*/\1:\2/p' "$work/root/etc/passwd" > "$work/layout/owner"
        rm -rf "$cache"
        mkdir -p "$cache"
        mv "$work/layout" "$cache/layout.new"
        mv "$cache/layout.new" "$cache/layout"
    fi
) 9> "$cache.lock"
echo "$cache/layout"
