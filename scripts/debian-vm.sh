#!/bin/sh
# Boots a whole Debian 12 in qemu, systemd as its first process, and runs a script there as root:
#     debian-vm.sh SCRIPT [FILE=NAME ...]
#     debian-vm.sh --reboots SCRIPT [FILE=NAME ...]     the script runs again at each boot; what it has changed is there then
# Where `vm.sh` has nothing but busybox, this one has what a server has: systemd-resolved and D-Bus, installed and not on.
# Its disk is made once, under ~/.cache/tank, and never written to: what the script changes is gone with the machine. The
# programs, the script and the files are on a second disk, at /tank in the machine: /tank/bin/tankd, /tank/script, /tank/NAME.
# What the script prints is printed; its exit status is this one's. TCG, no KVM, twenty minutes at most: two are enough where
# nothing else runs.
set -eu
cd "$(dirname "$0")/.."
bin=${TANK_BIN_DIR:-${CARGO_TARGET_DIR:-target}/debug}
cache=${TANK_CACHE:-$HOME/.cache/tank}/debian-vm-2
reboot=-no-reboot
if [ "$1" = --reboots ]; then
    reboot=
    shift
fi
script=$1
shift

make_system() {
    echo 'debian-vm: a disk with Debian 12, once: a minute or two' >&2
    work=$(mktemp -d /tmp/tank-debian-vm.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$cache" "$work/initrd/bin" "$work/initrd/lib" "$work/initrd/proc" "$work/initrd/dev" "$work/initrd/new"
    root=$work/root
    scripts/debian-root.sh "$root" systemd systemd-sysv systemd-resolved libnss-resolve dbus kmod udev iproute2 nftables \
        busybox-static python3
    package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9][^ ]*\)/\1/p' | head -n 1)
    (cd "$work" && apt-get download -qq "$package" > /dev/null 2>&1)
    dpkg -x "$work"/*.deb "$work/kernel"
    release=$(ls "$work/kernel/lib/modules")
    modules=lib/modules/$release
    # What rules and a container need, and not the drivers of a cloud's hardware.
    mkdir -p "$root/$modules/kernel/drivers/net"
    for part in net fs lib crypto drivers/virtio drivers/block; do
        mkdir -p "$root/$modules/kernel/$(dirname $part)"
        cp -r "$work/kernel/$modules/kernel/$part" "$root/$modules/kernel/$(dirname $part)/"
    done
    cp "$work/kernel/$modules"/kernel/drivers/net/*.ko* "$root/$modules/kernel/drivers/net/"
    cp "$work/kernel/$modules"/modules.builtin* "$work/kernel/$modules"/modules.order "$root/$modules/"
    depmod -b "$root" "$release"
    cp "$work/kernel/boot/vmlinuz-$release" "$cache/vmlinuz"

    # Nothing is on but what a script starts; nobody logs in.
    rm -rf "$root/etc/systemd/system"/*.wants
    mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/tank"
    for unit in serial-getty@.service getty@.service systemd-timesyncd.service apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
        systemd-resolved.service; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    rm "$root/etc/systemd/system/systemd-resolved.service"
    echo tank-vm > "$root/etc/hostname"
    rm -f "$root/etc/resolv.conf"
    echo 'nameserver 192.0.2.53' > "$root/etc/resolv.conf"
    printf '127.0.0.1 localhost tank-vm\n::1 localhost\n' > "$root/etc/hosts"
    echo '/dev/vda / ext4 defaults 0 0' > "$root/etc/fstab"
    cat > "$root/etc/systemd/system/script.service" <<'UNIT'
[Unit]
Description=What the test runs
[Service]
Type=exec
ExecStartPre=/bin/mount -o ro /dev/vdb /tank
ExecStart=/bin/sh -c 'echo BEGIN; /bin/sh /tank/script 2>&1; echo "STATUS $?"; sync; systemctl poweroff --force --force'
Environment=HOME=/root PATH=/tank/bin:/usr/sbin:/usr/bin:/sbin:/bin
WorkingDirectory=/tmp
StandardOutput=tty
TTYPath=/dev/ttyS0
UNIT
    ln -s ../script.service "$root/etc/systemd/system/multi-user.target.wants/script.service"

    cp /bin/busybox "$work/initrd/bin/busybox"
    for applet in sh mount modprobe insmod switch_root sleep; do ln -s busybox "$work/initrd/bin/$applet"; done
    for module in virtio virtio_ring virtio_pci virtio_pci_modern_dev virtio_pci_legacy_dev virtio_blk crc32c_generic libcrc32c crc16 mbcache \
        jbd2 ext4; do
        found=$(find "$root/$modules" -name "$module.ko*" | head -n 1)
        [ -z "$found" ] || (cd "$root" && cp --parents "${found#"$root"/}" "$work/initrd/")
    done
    cp "$root/$modules"/modules.builtin* "$root/$modules"/modules.order "$work/initrd/$modules/"
    depmod -b "$work/initrd" "$release"
    cat > "$work/initrd/init" <<'INIT'
#!/bin/sh
export PATH=/bin
mount -t proc none /proc
mount -t devtmpfs none /dev
for module in virtio_pci virtio_blk ext4; do modprobe $module; done
i=0; while [ ! -e /dev/vda ] && [ $i -lt 100 ]; do sleep 0.1; i=$((i+1)); done
mount -t ext4 /dev/vda /new
mount --move /dev /new/dev
exec switch_root /new /sbin/init
INIT
    chmod +x "$work/initrd/init"
    ln -s bin "$work/initrd/sbin"
    (cd "$work/initrd" && find . | cpio --quiet -o -H newc | gzip -1) > "$cache/initrd"
    truncate -s 1G "$cache/root.new"
    mkfs.ext4 -q -d "$root" "$cache/root.new"
    mv "$cache/root.new" "$cache/root"
    rm -rf "$work"
    trap - EXIT
}
mkdir -p "$(dirname "$cache")"
# Two tests at once make it once.
(
    flock 9
    if [ ! -f "$cache/root" ]; then make_system; fi
) 9> "$cache.lock"

work=$(mktemp -d /tmp/tank-debian-vm.XXXXXX)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/tank/bin"
for program in tank tankd tank-shim tank-names tank-layer; do
    cp "$bin/$program" "$work/tank/bin/"
    strip --strip-debug "$work/tank/bin/$program"
done
for file in "$@"; do cp -rL "${file%%=*}" "$work/tank/${file#*=}"; done
cp "$script" "$work/tank/script"
truncate -s 1G "$work/disk"
mkfs.ext4 -q -d "$work/tank" "$work/disk"
timeout 1200 qemu-system-x86_64 -accel tcg -cpu max -smp 1 -m 1536 -nographic $reboot -kernel "$cache/vmlinuz" -initrd "$cache/initrd" \
    -append 'console=ttyS0 quiet loglevel=3 systemd.show_status=0 panic=-1 net.ifnames=0 cgroup_no_v1=all' \
    -drive "file=$cache/root,format=raw,if=virtio,snapshot=on" -drive "file=$work/disk,format=raw,if=virtio" \
    < /dev/null > "$work/output" 2>&1 || true
tr -d '\r' < "$work/output" | sed -n '/BEGIN$/,/^STATUS /p' | grep -v -e 'BEGIN$' -e '^STATUS ' || true
status=$(tr -d '\r' < "$work/output" | sed -n 's/^STATUS \([0-9]*\)$/\1/p' | tail -n 1)
[ -n "$status" ] || { tail -n 40 "$work/output" >&2; status=125; }
exit "$status"
