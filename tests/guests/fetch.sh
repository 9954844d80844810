#!/usr/bin/env bash
# Makes the Debian guests of the `debian` tests: vmlinuz-cloud, vmlinuz-generic, initrd.gz, and initrd-io.gz, which also
# has the cloud kernel's drivers of disks, networks and other virtio devices, mkfs.ext4, and the jobs that use them.
#
#   tests/guests/fetch.sh              into $REPRISE_GUESTS, or target/guests
#   tests/guests/fetch.sh symbols      and vmlinux-cloud.debug, the debug information of vmlinuz-cloud: 280 MB to download,
#                                      600 MB on the disk
#
# Nothing is installed and nothing needs root: packages are downloaded with apt-get and unpacked with dpkg. A second
# call returns at once. Needs apt-get with package lists (apt-get update), dpkg, cpio and gzip.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
dir=${REPRISE_GUESTS:-$here/../../target/guests}
root=$(mktemp -d)
trap 'rm -rf "$root" "$dir/vmlinux-cloud.debug.new"' EXIT

# symbols: the debug information of the very kernel that is there.
symbols() {
    local kernel debug=$dir/vmlinux-cloud.debug
    kernel=$(cat "$dir/vmlinuz-cloud.package")
    if [ ! -e "$debug" ]; then
        # PACKAGE=VERSION. The package is not kept: it has half the size of what is needed of it.
        (cd "$root" && apt-get -q -o APT::Sandbox::User=root download "${kernel/=/-dbg=}" >&2)
        dpkg-deb --fsys-tarfile "$root"/*-dbg_*.deb |
            tar -x -O --wildcards './usr/lib/debug/boot/vmlinux-*' > "$debug.new"
        mv "$debug.new" "$debug"
    fi
    echo "the debug information of $kernel is in $debug"
}

case ${1:-} in
'') ;;
symbols) "$here/fetch.sh" && symbols; exit ;;
*) echo "fetch.sh: symbols, or nothing: what is $1?" >&2; exit 1 ;;
esac
recipe=$(cat "$here/fetch.sh" "$here/init" "$here/jobs" | sha256sum | cut -c1-16)
if [ "$(cat "$dir/recipe" 2>/dev/null)" = "$recipe" ]; then
    touch "$dir/recipe"
    echo "guests are in $dir"
    exit 0
fi
for tool in apt-cache apt-get dpkg cpio gzip; do
    command -v "$tool" >/dev/null || { echo "fetch.sh: $tool is needed" >&2; exit 1; }
done

mkdir -p "$dir/packages"
dir=$(cd "$dir" && pwd)
chmod 755 "$dir"

# fetch PACKAGE: downloads it unless it is there, and unpacks it into $root/PACKAGE.
fetch() {
    if ! ls "$dir/packages/$1"_*.deb >/dev/null 2>&1; then
        (cd "$dir/packages" && apt-get -q -o APT::Sandbox::User=root download "$1" >&2)
    fi
    dpkg -x "$(ls "$dir/packages/$1"_*.deb | tail -1)" "$root/$1"
}

# image META NAME: the kernel of the package on which a metapackage depends, under a name that stays.
image() {
    local package
    package=$(apt-cache depends "$1" | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -1)
    [ -n "$package" ] || { echo "fetch.sh: no $1; run apt-get update" >&2; exit 1; }
    fetch "$package"
    mv "$(ls "$root/$package"/boot/vmlinuz-* | tail -1)" "$dir/$2"
    dpkg-deb --show --showformat '${Package}=${Version}\n' "$(ls "$dir/packages/$package"_*.deb | tail -1)" \
        > "$dir/$2.package"
    # The modules that init loads, under the name of their kernel.
    local release=${package#linux-image-}
    mkdir -p "$root/initrd/lib/modules/$release"
    cp "$root/$package/lib/modules/$release/kernel/drivers/misc/pvpanic"/pvpanic{,-mmio}.ko \
        "$root/initrd/lib/modules/$release"
}

known=$(cat "$dir/vmlinuz-cloud.package" 2>/dev/null || true)
image linux-image-cloud-amd64 vmlinuz-cloud
# Symbols of another kernel would lie.
[ "$known" = "$(cat "$dir/vmlinuz-cloud.package")" ] || rm -f "$dir/vmlinux-cloud.debug"
image linux-image-amd64 vmlinuz-generic
fetch busybox-static
mkdir -p "$root/initrd"/{bin,dev,proc,sys}
cp "$(find "$root/busybox-static" -path '*bin/busybox' | head -1)" "$root/initrd/bin/busybox"
ln -s busybox "$root/initrd/bin/sh"
cp "$here/init" "$root/initrd/init"
chmod +x "$root/initrd/init"

# The drivers, in the order of dependency; ext4 and the keyboard are built in.
release=$(basename "$(ls -d "$root"/linux-image-*cloud*/lib/modules/*)")
io=$root/io
mkdir -p "$io/lib/modules/$release/io" "$io/sbin" "$io/etc" "$io/lib64" "$io/lib/x86_64-linux-gnu"
number=10
for module in virtio_ring virtio virtio_pci_modern_dev virtio_pci_legacy_dev virtio_pci virtio_blk failover net_failover \
    virtio_net virtio_console virtio-rng evdev serio_raw; do
    cp "$(find "$root/linux-image-$release/lib/modules" -name "$module.ko")" \
        "$io/lib/modules/$release/io/$number-$module.ko"
    number=$((number + 1))
done
# mkfs.ext4: busybox's makes no journal. Its libraries lie where its loader looks for them.
fetch e2fsprogs
cp "$root/e2fsprogs/sbin/mke2fs" "$io/sbin/mkfs.ext4"
cp "$root/e2fsprogs/etc/mke2fs.conf" "$io/etc"
for package in libext2fs2 libcom-err2 libblkid1 libuuid1 libc6; do
    fetch "$package"
done
cp -L "$root/libc6/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2" "$io/lib64"
for library in libext2fs.so.2 libe2p.so.2 libcom_err.so.2 libblkid.so.1 libuuid.so.1 libc.so.6; do
    cp -L "$(find "$root" -path "*/x86_64-linux-gnu/$library" | head -1)" "$io/lib/x86_64-linux-gnu"
done
cp "$here/jobs" "$io/jobs"

# pack DIRECTORY: as an initial RAM disk, to stdout.
pack() {
    (cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet --reproducible | gzip -9n)
}

# Renamed into place: a machine that is booting must not see half a file. The kernel unpacks one archive after the other.
pack "$root/initrd" > "$dir/initrd.new"
{ cat "$dir/initrd.new"; pack "$io"; } > "$dir/initrd-io.new"
mv "$dir/initrd.new" "$dir/initrd.gz"
mv "$dir/initrd-io.new" "$dir/initrd-io.gz"
echo "$recipe" > "$dir/recipe"
echo "guests are in $dir"
