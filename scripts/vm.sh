#!/bin/sh
# Boots Debian 12's own kernel (6.1, pure cgroup version 2) in qemu and runs a script there as the whole system:
#     vm.sh SCRIPT [FILE=PATH-IN-THE-VM ...]
# The root file system is memory: busybox, tankd, tank, tank-shim, tank-names, tank-layer with their libraries, and the kernel's modules;
# /var/lib is a disk, with project quotas where it has them. What the script prints is printed; its exit status is this one's. TCG,
# no KVM, four minutes at most, or TANK_VM_LIMIT seconds. To boot the same system again and again, two steps:
#     vm.sh --image IMAGE SCRIPT [FILE=PATH-IN-THE-VM ...]     makes the system
#     vm.sh --boot IMAGE DISK [LOG]                            becomes qemu, whose console is its output
# With LOG, a sparse file, everything the machine writes to its disk and every flush is logged there as well, in the format
# of dm-log-writes (Linux, Documentation/admin-guide/device-mapper/log-writes.rst).
set -eu
cd "$(dirname "$0")/.."
bin=${CARGO_TARGET_DIR:-target}/debug
cache=${TANK_CACHE:-$HOME/.cache/tank}/vm-5
# One processor: two emulated ones wait for each other's interrupts until the guest's watchdog barks, on a busy host.
boot() {
    drive=disk
    [ -z "$3" ] || drive=logged
    exec qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 2048 -nographic -no-reboot -kernel "$cache/vmlinuz" \
        -initrd "$1" -append 'console=ttyS0 quiet panic=-1 cgroup_no_v1=all' \
        -blockdev "driver=file,node-name=file,filename=$2" -blockdev driver=raw,node-name=disk,file=file \
        ${3:+-blockdev "driver=file,node-name=log,filename=$3"} \
        ${3:+-blockdev driver=blklogwrites,node-name=logged,file=disk,log=log} \
        -device "virtio-blk-pci,write-cache=on,drive=$drive" < /dev/null
}
# A disk for /var/lib: ids can be mapped on ext4, on tmpfs only since 6.3.
make_disk() {
    truncate -s 512M "$1"
    mkfs.ext4 -q -O quota,project -E quotatype=prjquota "$1"
}
image=
case $1 in
    --boot)
        [ -s "$3" ] || make_disk "$3"
        boot "$2" "$3" "${4:-}"
        ;;
    --image)
        image=$2
        shift 2
        ;;
esac
script=$1
shift
if [ ! -f "$cache/vmlinuz" ]; then
    work=$(mktemp -d)
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1)
    (cd "$work" && apt-get download -qq "$package" > /dev/null 2>&1)
    dpkg -x "$work"/*.deb "$work/kernel"
    mkdir -p "$cache"
    # Only what a host of Tank's loads.
    release=$(ls "$work/kernel/lib/modules")
    modules=$work/kernel/lib/modules/$release
    mkdir -p "$cache/modules/lib/modules/$release"
    for module in overlay veth bridge stp llc nft_meta_bridge nf_tables nfnetlink nft_chain_nat nft_nat nf_nat nf_conntrack nf_defrag_ipv4 \
        nf_defrag_ipv6 nft_masq nft_fib nft_fib_inet nft_fib_ipv4 nft_fib_ipv6 nft_ct nft_socket nf_socket_ipv4 nf_socket_ipv6 nf_conntrack_netlink libcrc32c crc32c_generic crc16 ipv6 virtio virtio_ring virtio_pci virtio_pci_modern_dev \
        virtio_pci_legacy_dev virtio_blk ext4 jbd2 mbcache loop erofs lz4_decompress netfs fscache cachefiles quota_tree quota_v2 xfs; do
        found=$(find "$modules" -name "$module.ko*" | head -n 1)
        [ -z "$found" ] || (cd "$modules" && cp --parents "${found#"$modules"/}" "$cache/modules/lib/modules/$release/")
    done
    cp "$modules"/modules.builtin* "$modules"/modules.order "$cache/modules/lib/modules/$release/"
    depmod -b "$cache/modules" "$release"
    cp "$work/kernel/boot/vmlinuz-$release" "$cache/vmlinuz.new"
    mv "$cache/vmlinuz.new" "$cache/vmlinuz"
    rm -rf "$work"
fi
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/bin" "$root/sbin" "$root/proc" "$root/sys" "$root/dev" "$root/tmp" "$root/etc" "$root/run" "$root/var/lib"
cp -r "$cache/modules/lib" "$root/"
cp /bin/busybox "$root/bin/busybox"
ln -s /bin/busybox "$root/sbin/modprobe"
for applet in $(/bin/busybox --list); do [ "$applet" = busybox ] || ln -sf busybox "$root/bin/$applet"; done
for program in tank tankd tank-shim tank-names tank-layer; do
    cp "$bin/$program" "$root/bin/"
    ldd "$bin/$program" | grep -o '/[^ ]*' | sort -u | while read -r library; do
        mkdir -p "$root$(dirname "$library")"
        cp -Ln "$library" "$root$library" 2>/dev/null || true
    done
done
strip --strip-debug "$root/bin/tank" "$root/bin/tankd" "$root/bin/tank-shim" "$root/bin/tank-names" "$root/bin/tank-layer"
for file in "$@"; do
    mkdir -p "$root$(dirname "${file#*=}")"
    cp -rL "${file%%=*}" "$root${file#*=}"
done
cp "$script" "$root/script"
cat > "$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin:/sbin HOME=/
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t cgroup2 none /sys/fs/cgroup
for module in virtio_pci virtio_blk quota_v2 ext4 overlay loop erofs veth bridge nf_tables; do modprobe $module; done
# An initramfs can't be pivoted away from, nor be overlay's upper layer: the system lives in a tmpfs.
mkdir -p /new && mount -t tmpfs none /new
for dir in bin sbin lib lib64 usr etc tmp var script; do [ ! -e /$dir ] || cp -a /$dir /new/; done
mkdir -p /new/proc /new/sys /new/dev /new/run
for dir in proc sys dev; do mount --move /$dir /new/$dir; done
cd /new && exec switch_root /new /bin/sh -c '
    i=0; while [ ! -e /dev/vda ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
    mount -t ext4 -o prjquota /dev/vda /var/lib 2> /dev/null || mount -t ext4 /dev/vda /var/lib
    ip link set lo up
    sh /script > /dev/console 2>&1
    echo "STATUS $?" > /dev/console
    poweroff -f'
INIT
chmod +x "$root/init"
made=${image:-$(mktemp)}
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$made"
[ -z "$image" ] || exit 0
output=$(mktemp)
disk=$(mktemp)
make_disk "$disk"
timeout "${TANK_VM_LIMIT:-240}" scripts/vm.sh --boot "$made" "$disk" > "$output" 2>&1 || true
tr -d '\r' < "$output" | sed -n '/BEGIN$/,$p' | grep -v -e 'BEGIN$' -e '^STATUS ' -e 'reboot: Power down' || true
status=$(tr -d '\r' < "$output" | sed -n 's/^STATUS \([0-9]*\)$/\1/p' | tail -n 1)
[ -n "$status" ] || { tail -n 40 "$output" >&2; status=125; }
[ -z "${TANK_VM_KEEP:-}" ] || cp "$output" "$TANK_VM_KEEP"
rm -f "$made" "$output" "$disk"
exit "$status"
