#!/usr/bin/env bash
# The tests that need an RDMA device: with this machine's, or else in a guest of qemu whose kernel makes one in software (Soft-RoCE).
#
#   tools/test_rdma.sh BUILD
#
# MCS_TEST_UCX=/path/of/libucp.so.0: with that UCX instead of the system's. The guest has this machine's root folder, read-only, and a kernel of
# Debian's that is unpacked below build/rdma-guest; without hardware virtualisation it is emulated: some minutes.
set -euo pipefail
build=$(realpath "${1:?which build folder}")
cd "$(dirname "$0")/.."
python=$PWD/.venv/bin/python

# What runs, here or in the guest.
tests=$(cat <<END
cd '$PWD'
export MCS_BUILD_DIR='$build' PYTHONPATH='$build/python' PYTHONDONTWRITEBYTECODE=1 MCS_TIME_FACTOR=10 ${MCS_TEST_UCX:+MCS_TEST_UCX='$MCS_TEST_UCX'}
failed=0
for subject in rdma rdma_device; do
    MCS_TEST_RDMA=rc "$build/tests/unit/ucx_transport/test_ucx_\$subject" || failed=1
done
'$python' -m pytest -q -p no:cacheprovider --timeout 400 tests/system/test_rdma.py || failed=1
exit \$failed
END
)

if grep -qs ACTIVE /sys/class/infiniband/*/ports/*/state; then
    exec bash -c "$tests"
fi

for tool in qemu-system-x86_64 busybox cpio depmod modprobe; do
    command -v "$tool" >/dev/null || { echo "test-rdma: no RDMA device here, and no $tool for a guest"; exit 1; }
done
guest=$PWD/build/rdma-guest
share=$guest/share
mkdir -p "$share"

# The kernel: unpacked, not installed. The one for clouds has no Soft-RoCE.
kernel=$(ls "$guest"/kernel/boot/vmlinuz-* 2>/dev/null | head -n 1 || true)
if [ -z "$kernel" ]; then
    package=$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image-[0-9]/ && found++ == 0 { print $2 }')
    (cd "$guest" && apt-get -q download "$package" >/dev/null 2>&1 && dpkg -x linux-image-*.deb kernel && rm -f linux-image-*.deb)
    kernel=$(ls "$guest"/kernel/boot/vmlinuz-*)
fi
release=${kernel##*/vmlinuz-}

# The first file system: busybox and the modules in the order in which they need each other.
if [ ! -e "$guest/initrd-$release" ]; then
    depmod -b "$guest/kernel" "$release"
    root=$(mktemp -d)
    mkdir -p "$root"/{bin,modules,proc,sys,dev,root}
    cp "$(command -v busybox)" "$root/bin/"
    for module in virtio_pci 9pnet_virtio 9p crc32_generic dummy rdma_ucm ib_uverbs rdma_rxe; do
        modprobe -d "$guest/kernel" -S "$release" --show-depends "$module" | awk '$1 == "insmod" { print $2 }'
    done | awk '!seen[$0]++' | while read -r file; do
        cp "$file" "$root/modules/"
        basename "$file" >>"$root/modules/order"
    done
    cat >"$root/init" <<'INIT'
#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576,cache=loose,ro root /root
for folder in tmp run var/tmp; do $b mount -t tmpfs none /root/$folder; done
$b mount -t proc proc /root/proc; $b mount -t sysfs sys /root/sys; $b mount --bind /dev /root/dev
$b mkdir -p /root/dev/shm; $b mount -t tmpfs none /root/dev/shm
share=$($b sed -n 's/.*mcs_share=\([^ ]*\).*/\1/p' /proc/cmdline)
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=1048576 share /root$share
exec $b chroot /root /bin/bash $share/run
INIT
    chmod +x "$root/init"
    (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$guest/initrd-$release"
    rm -rf "$root"
fi

printf '%s\n' "$tests" >"$share/tests"
cat >"$share/run" <<END
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp
ip link set lo up
[ -e /sys/class/net/dummy0 ] || ip link add dummy0 type dummy
ip link set dummy0 mtu 4200 && ip addr add 192.0.2.1/24 dev dummy0 && ip link set dummy0 up
rdma link add rxe0 type rxe netdev dummy0 || exit 1
ulimit -l unlimited
bash '$share/tests'
echo \$? >'$share/code'
sync
echo o >/proc/sysrq-trigger
sleep 10
END
rm -f "$share/code"
accelerator=(-accel tcg,thread=multi -cpu max)
# A /dev/kvm without a module for hardware under it does not run an ordinary kernel.
if [ -w /dev/kvm ] && { [ -d /sys/module/kvm_intel ] || [ -d /sys/module/kvm_amd ]; } && [ ! -d /sys/module/kvm_pvm ]; then
    accelerator=(-accel kvm -cpu host)
fi
timeout 1500 qemu-system-x86_64 -nodefaults -no-user-config -no-reboot -display none -serial stdio -machine q35 "${accelerator[@]}" \
    -smp "$(nproc)" -m "${MCS_GUEST_MIB:-6144}" -kernel "$kernel" -initrd "$guest/initrd-$release" -nic none \
    -append "console=ttyS0 quiet loglevel=3 panic=-1 rdinit=/init net.ifnames=0 mcs_share=$share" \
    -fsdev local,id=root,path=/,security_model=none,readonly=on,multidevs=remap -device virtio-9p-pci,fsdev=root,mount_tag=root \
    -fsdev local,id=share,path="$share",security_model=none -device virtio-9p-pci,fsdev=share,mount_tag=share </dev/null
code=$(cat "$share/code" 2>/dev/null || echo 1)
echo "test-rdma: exit code $code"
exit "$code"
