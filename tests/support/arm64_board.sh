#!/bin/bash
# An emulated Raspberry Pi: Debian's arm64 kernel and userland under qemu-system-aarch64, reached by ssh on 127.0.0.1. Needs root (the
# image's owners) and apt, and pip where wheels are asked for; leaves no mount, no binfmt entry and no foreign architecture behind.
#   arm64_board.sh build DIR [WHEEL==VERSION...]   wheels for the board's Python 3.11; without any it has no use for one
#   arm64_board.sh up DIR pi4|pi5 PORT             one core; its clock counts executed instructions, 1 ns each (-icount shift=0)
#   arm64_board.sh down DIR PORT                   between them: ssh -F DIR/ssh_config.PORT pi ...   scp -F DIR/ssh_config.PORT FILE pi:
set -euo pipefail

host_packages() {
  local need=() row
  for row in qemu-system-aarch64:qemu-system-arm cpio:cpio fdtput:device-tree-compiler mke2fs:e2fsprogs ssh-keygen:openssh-client; do
    command -v "${row%%:*}" >/dev/null || need+=("${row##*:}")
  done
  [ ${#need[@]} = 0 ] || { apt-get -qq update; DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${need[@]}" >/dev/null; }
}

# The .deb files, by an apt with a state of its own that knows arm64 only. What only maintainer scripts want passes for installed.
fetch_packages() {
  local state=$1 package
  mkdir -p "$state"/{lists/partial,cache/archives/partial,prefs}
  for package in adduser perl-base debconf ucf runit-helper init-system-helpers lsb-base sysvinit-utils dpkg tar media-types libpam-runtime \
      libpam-modules libpam-modules-bin procps readline-common libtirpc-common sensible-utils base-files debianutils kmod linux-base initramfs-tools; do
    printf 'Package: %s\nStatus: install ok installed\nArchitecture: arm64\nMulti-Arch: foreign\nMaintainer: x\nVersion: 99:9\nDescription: x\n\n' $package
  done > "$state/status"
  apt-get indextargets --format '$(REPO_URI) $(RELEASE)' 'Created-By: Packages' | grep -E ' bookworm(-security|-updates)?$' | sort -u |
    sed 's#^\(.*\) \(.*\)$#deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] \1 \2 main#' > "$state/sources.list"  # the host's own mirrors
  local apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Dir::State="$state" -o Dir::State::lists="$state/lists"
    -o Dir::State::status="$state/status" -o Dir::Cache="$state/cache" -o Dir::Etc::sourcelist="$state/sources.list" -o Dir::Etc::sourceparts=/dev/null
    -o Dir::Etc::preferencesparts="$state/prefs" -o APT::Install-Recommends=false -o APT::Sandbox::User=root -o Acquire::Languages=none)
  "${apt[@]}" update
  "${apt[@]}" -y --download-only install python3 libstdc++6 libgomp1 bash coreutils grep sed findutils mawk openssh-server openssh-sftp-server \
    linux-image-cloud-arm64 busybox-static >/dev/null
}

# Users, keys and an ssh server for a user called pi.
furnish() {
  local work=$1 root=$2
  mkdir -p "$root"/{dev,run/sshd,proc,sys,tmp,root,home/pi/.ssh,etc/ssh}
  chmod 1777 "$root/tmp"; chmod 755 "$root" "$root/home"
  printf '%s\n' root:x:0:0:root:/root:/bin/bash sshd:x:100:65534::/run/sshd:/usr/sbin/nologin pi:x:1000:1000:,,,:/home/pi:/bin/bash \
    nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin > "$root/etc/passwd"
  printf '%s\n' root:x:0: tty:x:5: pi:x:1000: nogroup:x:65534: > "$root/etc/group"
  echo '127.0.0.1 localhost raspberrypi' > "$root/etc/hosts"
  printf 'passwd: files\ngroup: files\nhosts: files dns\n' > "$root/etc/nsswitch.conf"
  [ -e "$root/usr/bin/sh" ] || ln -s bash "$root/usr/bin/sh"
  [ -f "$work/id" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/id"
  [ -f "$work/hostkey" ] || ssh-keygen -q -t ed25519 -N '' -f "$work/hostkey"
  install -m 600 "$work/hostkey" "$root/etc/ssh/ssh_host_ed25519_key"
  cp "$work/id.pub" "$root/home/pi/.ssh/authorized_keys"
  chown -R 0:0 "$root/etc/ssh"; chown -R 1000:1000 "$root/home/pi"; chmod 700 "$root/home/pi/.ssh"
  printf '%s\n' 'UsePAM no' 'PasswordAuthentication no' 'KbdInteractiveAuthentication no' 'Subsystem sftp /usr/lib/openssh/sftp-server' \
    'PrintMotd no' 'UseDNS no' 'LoginGraceTime 0' > "$root/etc/ssh/sshd_config"
}

# The kernel, and a first file system that loads virtio, mounts the disk and starts the ssh server there.
make_boot() {
  local work=$1 unpacked=$2 ird=$1/ird i=10 module file
  rm -rf "$ird"; mkdir -p "$ird"/{bin,mods,proc,sys,dev,new}
  cp "$unpacked/bin/busybox" "$ird/bin/"; cp "$unpacked"/boot/vmlinuz-* "$work/vmlinuz"
  for module in virtio virtio_ring virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk failover net_failover virtio_net virtio-rng; do
    file=$(find "$unpacked/lib/modules" -name "$module.ko"); [ -z "$file" ] || cp "$file" "$ird/mods/$i-$module.ko"; i=$((i+1))
  done
  cat > "$ird/init" <<'INIT'
#!/bin/busybox sh
B=/bin/busybox; $B mount -t proc proc /proc; $B mount -t sysfs sys /sys; $B mount -t devtmpfs dev /dev
for n in 1 2; do for m in /mods/*.ko; do $B insmod $m 2>/dev/null; done; done
i=0; while [ ! -b /dev/vda ] && [ $i -lt 100 ]; do $B sleep 0.1; i=$((i+1)); done
$B mount -t ext4 /dev/vda /new
$B ip link set lo up; $B ip link set eth0 up; $B ip addr add 10.0.2.15/24 dev eth0; $B ip route add default via 10.0.2.2
for d in proc sys dev; do $B mount --move /$d /new/$d; done
$B mkdir -p /new/dev/pts /new/dev/shm; $B mount -t devpts devpts /new/dev/pts; $B mount -t tmpfs shm /new/dev/shm; $B hostname raspberrypi
exec $B switch_root /new /usr/sbin/sshd -D -e -p 22
INIT
  chmod +x "$ird/init"; (cd "$ird" && find . | cpio -o -H newc --quiet | gzip -1 > "$work/initrd.gz"); rm -rf "$ird"
}

build() {
  local work root unpacked dir deb version platforms=()
  work=$(mkdir -p "$1" && readlink -f "$1"); root=$work/root unpacked=$work/unpacked; shift
  host_packages
  fetch_packages "$work/apt"
  rm -rf "$root" "$unpacked"; mkdir -p "$root" "$unpacked"
  for dir in bin sbin lib; do mkdir -p "$root/usr/$dir"; ln -sfn "usr/$dir" "$root/$dir"; done
  for deb in "$work"/apt/cache/archives/*.deb; do case $deb in
    *linux-image*|*busybox*) dpkg-deb -x "$deb" "$unpacked";;
    *) dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$root" --keep-directory-symlink --exclude=./usr/share/{doc,man,locale} --exclude='./usr/lib/*/gconv';;
  esac; done
  if [ $# -gt 0 ]; then
    for version in 2014 _2_17 _2_24 _2_26 _2_27 _2_28 _2_31 _2_34 _2_35 _2_36; do platforms+=(--platform manylinux${version}_aarch64); done  # the image has glibc 2.36
    "${PYTHON:-python3}" -m pip install -q --disable-pip-version-check --no-compile --root-user-action ignore --target "$root/usr/local/lib/python3.11/dist-packages" \
      "${platforms[@]}" --only-binary=:all: --implementation cp --python-version 3.11 "$@"
  fi
  furnish "$work" "$root"
  rm -f "$work/root.img"; truncate -s 2G "$work/root.img"; mke2fs -q -t ext4 -O ^has_journal -d "$root" "$work/root.img"
  make_boot "$work" "$unpacked"
  rm -rf "$root" "$unpacked" "$work/apt"
}

up() {
  local work cpu model i port=$3
  work=$(readlink -f "$1")
  case $2 in
    pi4) cpu=cortex-a72 model='Raspberry Pi 4 Model B Rev 1.4';;
    pi5) cpu=cortex-a76 model='Raspberry Pi 5 Model B Rev 1.0';;
    *) echo "there are pi4 and pi5, not $2" >&2; return 2;;
  esac
  local machine=(-cpu $cpu -smp 1 -m 2G -nographic -no-reboot -netdev "user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:$port-:22"
    -device virtio-net-pci,netdev=n,romfile= -device virtio-rng-pci)
  qemu-system-aarch64 -M virt,dumpdtb="$work/$port.dtb" "${machine[@]}" >/dev/null 2>&1; fdtput -t s "$work/$port.dtb" / model "$model"
  setsid qemu-system-aarch64 -M virt "${machine[@]}" -icount shift=0 -dtb "$work/$port.dtb" -kernel "$work/vmlinuz" -initrd "$work/initrd.gz" \
    -append 'console=ttyAMA0 quiet panic=-1' -drive "file=$work/root.img,if=virtio,format=raw,snapshot=on" > "$work/console.$port" 2>&1 < /dev/null &
  echo $! > "$work/pid.$port"
  { printf '[127.0.0.1]:%s ' "$port"; cut -d' ' -f1,2 "$work/hostkey.pub"; } > "$work/known_hosts.$port"
  printf 'Host pi\n HostName 127.0.0.1\n Port %s\n User pi\n IdentityFile %s/id\n IdentitiesOnly yes\n UserKnownHostsFile %s/known_hosts.%s\n StrictHostKeyChecking yes\n BatchMode yes\n LogLevel ERROR\n' \
    "$port" "$work" "$work" "$port" > "$work/ssh_config.$port"
  for i in $(seq 120); do
    ssh -o ConnectTimeout=5 -F "$work/ssh_config.$port" pi true 2>/dev/null && return 0
    kill -0 "$(cat "$work/pid.$port")" || break
    sleep 0.5
  done
  cat "$work/console.$port" >&2
  return 1
}

down() { kill "$(cat "$1/pid.$2")"; rm -f "$1/pid.$2"; }

"$@"
