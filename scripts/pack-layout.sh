#!/bin/sh
# Packs a directory into an OCI image layout, with nothing but coreutils, tar and gzip:
#     pack-layout.sh ROOTFS LAYOUT TAG CONFIG [gzip|zstd|none]
# CONFIG is the `config` object of the image configuration, as JSON: {"Cmd":["/bin/sh"],"Env":["PATH=/bin"]}.
# Each call adds (or replaces) one tag. BASE=TAG puts the new layer on top of an existing tag's.
set -eu
rootfs=$1 layout=$2 tag=$3 config=$4 compression=${5:-gzip}
case $(uname -m) in x86_64) arch=amd64 ;; aarch64) arch=arm64 ;; *) arch=$(uname -m) ;; esac
blobs=$layout/blobs/sha256
mkdir -p "$blobs"
printf '{"imageLayoutVersion":"1.0.0"}' > "$layout/oci-layout"

put() { # stdin -> blob; prints its digest
    temporary=$(mktemp "$blobs/.XXXXXX")
    cat > "$temporary"
    chmod 644 "$temporary"
    digest=$(sha256sum < "$temporary" | cut -d' ' -f1)
    mv "$temporary" "$blobs/$digest"
    echo "$digest"
}

size() { stat -c %s "$blobs/$1"; }

tarball=$(mktemp)
trap 'rm -f "$tarball"' EXIT
tar --create --file "$tarball" --directory "$rootfs" --sort=name --numeric-owner --owner=0 --group=0 --mtime=@0 \
    ${TAR_FLAGS:-} .
diff_id=$(sha256sum < "$tarball" | cut -d' ' -f1)
case $compression in
    gzip) layer=$(gzip -n -1 < "$tarball" | put) type=tar+gzip ;;
    zstd) layer=$(zstd -q -3 < "$tarball" | put) type=tar+zstd ;;
    none) layer=$(put < "$tarball") type=tar ;;
esac
layers='{"mediaType":"application/vnd.oci.image.layer.v1.'$type'","digest":"sha256:'$layer'","size":'$(size "$layer")'}'
diff_ids='"sha256:'$diff_id'"'
if [ -n "${BASE:-}" ]; then
    below=$(sed -n "s/.*\"digest\":\"sha256:\([0-9a-f]*\)\".*\"org.opencontainers.image.ref.name\":\"$BASE\".*/\1/p" \
        "$layout/manifests.$BASE")
    layers=$(sed 's/.*"layers":\[\(.*\)\]}$/\1/' "$blobs/$below"),$layers
    below_config=$(sed 's/.*"config":{[^}]*"digest":"sha256:\([0-9a-f]*\)".*/\1/' "$blobs/$below")
    diff_ids=$(sed 's/.*"diff_ids":\[\([^]]*\)\].*/\1/' "$blobs/$below_config"),$diff_ids
fi
config=$(printf '{"architecture":"%s","os":"linux","config":%s,"rootfs":{"type":"layers","diff_ids":[%s]}}' \
    "$arch" "$config" "$diff_ids" | put)
manifest=$(printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[%s]}' \
    "$config" "$(size "$config")" "$layers" | put)
printf '{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"platform":{"architecture":"%s","os":"linux"},"annotations":{"org.opencontainers.image.ref.name":"%s"}}' \
    "$manifest" "$(size "$manifest")" "$arch" "$tag" > "$layout/manifests.$tag"
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[%s]}' \
    "$(cat "$layout"/manifests.* | sed 's/}}{/}},{/g')" > "$layout/index.json"
