#!/usr/bin/env bash
# On demand: a Debian system on a qcow2 disk boots under systemd to a login prompt, a user logs in on the serial console,
# works, and root powers it off. Recorded, replayed, verified.
#
#   tests/guests/debian-disk.sh [DIR]      the system is made in DIR, once; default: target/guests/debian-disk
#
# Needs root (debootstrap) and debootstrap, e2fsprogs, qemu-utils, cpio; the mirror of Debian the first time; the guests
# of fetch.sh; and `cargo build --release -p broker` (REPRISE names another program).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../.." && pwd)
guests=${REPRISE_GUESTS:-$top/target/guests}
dir=${1:-$guests/debian-disk}
reprise=${REPRISE:-$top/target/release/reprise}
PATH=$PATH:/usr/sbin:/sbin
fail() { echo "debian-disk.sh: $*" >&2; exit 1; }
for tool in debootstrap mkfs.ext4 qemu-img cpio; do
    command -v "$tool" >/dev/null || fail "$tool is needed"
done
[ -x "$reprise" ] || fail "$reprise is missing: cargo build --release -p broker"
"$here/fetch.sh" >/dev/null
mkdir -p "$dir"
cd "$dir"

# make_system: root/, with a user, who has the password `diverge`; so has root.
make_system() {
    [ "$(id -u)" = 0 ] || fail "debootstrap needs root"
    rm -rf root.new
    debootstrap --variant=minbase --include=systemd-sysv,udev bookworm root.new >debootstrap.log
    echo guest > root.new/etc/hostname
    echo "/dev/vda / ext4 defaults 0 1" > root.new/etc/fstab
    chroot root.new useradd -m -s /bin/bash visitor
    printf 'root:diverge\nvisitor:diverge\n' | chroot root.new chpasswd
    mv root.new root
}

# make_initrd: loads the drivers of the disk and ext4, and goes on with the disk's own init.
make_initrd() {
    local unpacked package release number=10
    unpacked=$(mktemp -d)
    mkdir -p "$unpacked/ird"/{bin,dev,proc,sys,new,modules}
    dpkg -x "$(ls "$guests"/packages/busybox-static_*.deb | tail -1)" "$unpacked/busybox"
    package=$(ls "$guests"/packages/linux-image-*.deb | grep -v cloud | tail -1)
    dpkg -x "$package" "$unpacked/kernel"
    cp "$unpacked"/kernel/boot/vmlinuz-* vmlinuz
    cp "$unpacked/busybox/bin/busybox" "$unpacked/ird/bin/busybox"
    ln -s busybox "$unpacked/ird/bin/sh"
    for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk \
        crc32c_generic libcrc32c crc16 mbcache jbd2 ext4; do
        cp "$(find "$unpacked/kernel/lib/modules" -name "$module.ko")" "$unpacked/ird/modules/$number-$module.ko"
        number=$((number + 1))
    done
    cat > "$unpacked/ird/init" <<'INIT'
#!/bin/sh
/bin/busybox --install -s /bin
mount -t devtmpfs none /dev
for module in /modules/*.ko; do insmod "$module"; done
mount -t ext4 /dev/vda /new
exec switch_root /new /sbin/init
INIT
    chmod +x "$unpacked/ird/init"
    (cd "$unpacked/ird" && find . | LC_ALL=C sort | cpio -o -H newc --quiet | gzip -9n) > initrd.gz
    rm -rf "$unpacked"
}

[ -d root ] || { echo "making the system"; make_system; }
[ -f initrd.gz ] && [ -f vmlinuz ] || make_initrd
if [ ! -f disk.qcow2 ]; then
    rm -f disk.raw
    mkfs.ext4 -q -F -d root disk.raw 600M
    qemu-img convert -f raw -O qcow2 disk.raw disk.qcow2
    rm disk.raw
fi
before=$(sha256sum < disk.qcow2)

# ---- recording, with what is typed ----

rm -rf rec input recorded.txt
mkfifo input
echo "recording"
started=$(date +%s)
"$reprise" record -o rec -kernel vmlinuz -initrd initrd.gz -append 'console=ttyS0 quiet' -m 512 -display none \
    -serial stdio -no-reboot -icount shift=auto -drive file=disk.qcow2,if=virtio <input >recorded.txt &
machine=$!
trap 'kill "$machine" 2>/dev/null || true' EXIT
exec 9>input

# await TEXT: until it has been printed behind what was awaited before.
seen=0
await() {
    local deadline=$(($(date +%s) + 900)) at
    while :; do
        at=$(tail -c +$((seen + 1)) recorded.txt | grep -abo -m 1 -F -- "$1" | head -1 | cut -d : -f 1 || true)
        [ -z "$at" ] || break
        kill -0 "$machine" 2>/dev/null || fail "the machine ended before it printed '$1': $(tail -3 recorded.txt)"
        [ "$(date +%s)" -lt "$deadline" ] || fail "no '$1' after 15 minutes: $(tail -3 recorded.txt)"
        sleep 0.2
    done
    seen=$((seen + at + ${#1}))
    echo "  $(($(date +%s) - started)) s: $1"
}
type_line() { printf '%s\n' "$1" >&9; }

await "guest login: "; type_line visitor
await "Password: "; type_line diverge
await "visitor@guest"; type_line 'cat /etc/debian_version; id; ls -la ~; date > ~/was-here; sync; echo "sum $((6*7))"'
await "sum 42"
await "visitor@guest"; type_line 'logout'
await "guest login: "; type_line root
await "Password: "; type_line diverge
await "root@guest"; type_line 'cat ~visitor/was-here && systemctl is-system-running; systemctl --failed --no-pager; poweroff'
await "Power down"
wait "$machine" || fail "recording ended with status $?"
trap - EXIT
exec 9>&-
echo "recorded in $(($(date +%s) - started)) s: $(du -sh rec | cut -f 1), log $(stat -c %s rec/events.log) bytes"
[ "$(sha256sum < disk.qcow2)" = "$before" ] || fail "the recording changed the base image"
qemu-img check -q rec/disks/*.qcow2 || fail "the layer is damaged"

# ---- the same again ----

started=$(date +%s)
"$reprise" replay rec </dev/null >replayed.txt || fail "replay ended with status $?"
cmp recorded.txt replayed.txt || fail "the replay printed something else"
echo "replayed in $(($(date +%s) - started)) s: the same $(stat -c %s replayed.txt) bytes"
"$reprise" verify rec
[ "$(sha256sum < disk.qcow2)" = "$before" ] || fail "a replay changed the base image"
echo "the base image is as it was; rec, recorded.txt and replayed.txt are in $dir"
