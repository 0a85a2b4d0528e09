#!/bin/sh
# Makes what the Compose samples run (tests/tests/compose.rs), once: a docker-registry's storage under ~/.cache/tank with
# `mariadb`, `wordpress`, `backend` and `proxy`, each Debian 12 and a layer of packages from Debian, with entry points that
# do what those of the official images do (tests/fixtures/compose/images). Prints its folder.
set -eu
cd "$(dirname "$0")/.."
cache=${TANK_COMPOSE_CACHE:-${TANK_CACHE:-$HOME/.cache/tank}/compose-1}
debian=${TANK_CACHE:-$HOME/.cache/tank}/debian-12
files=$PWD/tests/fixtures/compose/images

image() { # NAME PACKAGE ...: what is added afterwards is in $work/NAME
    name=$1
    shift
    echo "compose-images: $name" >&2
    LAYER=yes scripts/debian-root.sh "$work/$name" "$@"
}
pack() { # NAME CONFIG
    BASE=base scripts/pack-layout.sh "$work/$1" "$work/layout" "$1" "$2" zstd
    rm -rf "${work:?}/$1"
}
path='"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]'

images() {
    scripts/debian-root.sh "$work/none"
    scripts/pack-layout.sh "$debian" "$work/layout" base '{"Cmd":["/bin/sh"]}' zstd

    image mariadb mariadb-server
    root=$work/mariadb
    install -D -m 755 "$files/mariadb.sh" "$root/usr/local/bin/docker-entrypoint.sh"
    # Debian's own listens on loopback; there is no data yet.
    printf '[mariadbd]\nbind-address = *\nskip-name-resolve\n' > "$root/etc/mysql/mariadb.conf.d/90-image.cnf"
    rm -rf "$root/var/lib/mysql"
    mkdir -p "$root/var/lib/mysql"
    pack mariadb "{$path,"'"Entrypoint":["docker-entrypoint.sh"],"Cmd":["mariadbd"],"Volumes":{"/var/lib/mysql":{}},"ExposedPorts":{"3306/tcp":{}}}'

    image wordpress wordpress apache2 libapache2-mod-php php-mysql
    root=$work/wordpress
    install -D -m 755 "$files/wordpress.sh" "$root/usr/local/bin/docker-entrypoint.sh"
    mkdir -p "$root/usr/src" "$root/var/www/html"
    # Debian's links lead to other packages of it and to /etc; the image has the files, as that of WordPress itself.
    chroot_copy "$root" /usr/share/wordpress /usr/src/wordpress
    rm -f "$root/usr/src/wordpress/wp-config.php" "$root/var/www/html/index.html"
    cp "$files/wp-config.php" "$root/usr/src/wp-config.php"
    ln -sf /dev/stderr "$root/var/log/apache2/error.log"
    ln -sf /dev/stdout "$root/var/log/apache2/access.log"
    ln -sf /dev/stdout "$root/var/log/apache2/other_vhosts_access.log"
    printf '#!/bin/sh\n. /etc/apache2/envvars\nmkdir -p /run/apache2 /run/lock/apache2\nexec apache2 -DFOREGROUND "$@"\n' > "$root/usr/local/bin/apache2-foreground"
    chmod 755 "$root/usr/local/bin/apache2-foreground"
    pack wordpress "{$path,"'"Entrypoint":["docker-entrypoint.sh"],"Cmd":["apache2-foreground"],"WorkingDir":"/var/www/html","StopSignal":"SIGWINCH","Volumes":{"/var/www/html":{}},"ExposedPorts":{"80/tcp":{}}}'

    image backend python3-flask python3-pymysql
    install -D -m 644 "$files/hello.py" "$work/backend/code/hello.py"
    pack backend "{$path,"'"Entrypoint":["python3"],"Cmd":["hello.py"],"WorkingDir":"/code","ExposedPorts":{"8000/tcp":{}}}'

    image proxy nginx-light
    root=$work/proxy
    install -D -m 644 "$files/proxy.conf" "$root/etc/nginx/conf.d/default.conf"
    rm -f "$root/etc/nginx/sites-enabled/default"
    ln -sf /dev/stderr "$root/var/log/nginx/error.log"
    ln -sf /dev/stdout "$root/var/log/nginx/access.log"
    pack proxy "{$path,"'"Cmd":["nginx","-g","daemon off;"],"StopSignal":"SIGQUIT","ExposedPorts":{"80/tcp":{}}}'
}

# A folder of a layer with what its links lead to, in the layer or in what is below it.
chroot_copy() { # LAYER FROM TO
    layer=$1 from=$2 to=$3
    mkdir -p "$work/whole"
    export layer from to work
    base=$debian unshare --mount sh -euc '
        mount -t overlay -o "lowerdir=$layer:$base" none "$work/whole"
        mkdir -p "$work/copied"
        chroot "$work/whole" tar --create --dereference --directory "$from" . | tar --extract --directory "$work/copied"'
    mv "$work/copied" "$layer$to"
}

registry() {
    ip link set lo up
    printf 'version: 0.1\nstorage: { filesystem: { rootdirectory: %s } }\nhttp: { addr: "127.0.0.1:5000" }\nlog: { level: error }\n' \
        "$cache/registry" > "$work/registry.yml"
    docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
    registry=$!
    trap 'kill $registry 2> /dev/null || true' EXIT
    api=http://127.0.0.1:5000/v2
    until curl -s -o /dev/null $api/; do sleep 0.1; done
    for name in mariadb wordpress backend proxy; do
        manifest=$(sed 's/.*"digest":"sha256:\([0-9a-f]*\)".*/\1/' "$work/layout/manifests.$name")
        for digest in $(grep -o '"digest":"sha256:[0-9a-f]*"' "$work/layout/blobs/sha256/$manifest" | sed 's/.*sha256:\(.*\)"/\1/'); do
            location=$(curl -sf -X POST -D - -o /dev/null "$api/$name/blobs/uploads/" | tr -d '\r' | sed -n 's/^[Ll]ocation: //p')
            curl -sf -X PUT -H 'Content-Type: application/octet-stream' -T "$work/layout/blobs/sha256/$digest" "$location&digest=sha256:$digest"
        done
        curl -sf -X PUT -H 'Content-Type: application/vnd.oci.image.manifest.v1+json' \
            --data-binary @"$work/layout/blobs/sha256/$manifest" "$api/$name/manifests/latest"
    done
}

if [ -n "${TANK_COMPOSE_WORK:-}" ]; then
    work=$TANK_COMPOSE_WORK
    registry
    exit 0
fi
mkdir -p "$(dirname "$cache")"
(
    flock 9
    if [ ! -e "$cache/registry" ]; then
        echo 'compose-images: from Debian packages, once: about three minutes' >&2
        work=$(mktemp -d /tmp/tank-compose.XXXXXX)
        trap 'rm -rf "$work"' EXIT
        rm -rf "$cache"
        images
        cache=$cache.new
        rm -rf "$cache"
        mkdir -p "$cache"
        TANK_COMPOSE_CACHE=$cache TANK_COMPOSE_WORK=$work unshare --net "$PWD/scripts/compose-images.sh"
        mv "$cache" "${cache%.new}"
    fi
) 9> "$cache.lock"
echo "$cache/registry"
