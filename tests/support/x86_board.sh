#!/bin/bash
# An emulated x86-64 PC of a chosen CPU: Debian's kernel and busybox under Bochs, which has AVX-512 (qemu has not).
# Needs apt, and root where a package of host_packages is missing.
#   x86_board.sh build DIR                       the kernel, the boot loader and busybox, once
#   x86_board.sh run DIR CPU FILES < COMMANDS    boot CPU (bochs --help cpu) and in FILES run each line by sh; prints
#                                                what came by the serial port, a line each: exit status, then stdout
#                                                and stderr in base64, a space between them
set -euo pipefail
LIMIT_S=1500
PLUGINS=/usr/lib/x86_64-linux-gnu/bochs/plugins

host_packages() {
  local need=() row
  for row in bochs-bin:bochs $PLUGINS/libbx_term_gui.so:bochs-term genisoimage:genisoimage cpio:cpio; do
    command -v "${row%%:*}" >/dev/null || [ -f "${row%%:*}" ] || need+=("${row##*:}")
  done
  [ ${#need[@]} = 0 ] && return
  apt-get -qq update
  DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "${need[@]}" >/dev/null
}

# A first file system that is all: it runs the commands, writes to the serial port, then switches the power off.
make_root() {
  local root=$1
  mkdir -p "$root"/{bin,dev,proc,tmp}
  ln -sf busybox "$root/bin/sh"
  cat > "$root/init" <<'INIT'
#!/bin/sh
B=/bin/busybox; export PATH=/bin
$B mount -t proc proc /proc; $B mount -t devtmpfs dev /dev
exec > /dev/ttyS0
cd /files
while read -r command; do
  sh -c "$command" > /tmp/out 2> /tmp/err < /dev/null; status=$?
  echo "$status $($B base64 -w 0 /tmp/out) $($B base64 -w 0 /tmp/err)"
done < /commands
echo done
$B sleep 1
$B poweroff -f
INIT
  chmod +x "$root/init"
}

build() {
  local work kernel deb
  work=$(mkdir -p "$1" && readlink -f "$1")
  host_packages
  kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
  mkdir -p "$work"/{debs,unpacked,disc,tree}
  (cd "$work/debs" && apt-get -qq -o APT::Sandbox::User=root download "$kernel" busybox-static isolinux syslinux-common)
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/unpacked"; done
  make_root "$work/tree"
  cp "$work/unpacked/bin/busybox" "$work/tree/bin/"
  cp "$work"/unpacked/boot/vmlinuz-* "$work/disc/vmlinuz"
  cp "$work"/unpacked/usr/lib/{ISOLINUX/isolinux.bin,syslinux/modules/bios/ldlinux.c32} "$work/disc/"
  # Bochs 2.7 states a wrong size for what XSAVES and XSAVEC write and, for Ice Lake, the keys of pages in a wrong
  # place, on which Linux gives up AVX; and Linux does not survive its memory copies made for Ice Lake's string
  # instructions. clearcpuid leaves it XSAVE and plain copies. The rest saves half a minute of emulation: the kernel's
  # tests of its cryptography, its tracing, its keys.
  cat > "$work/disc/isolinux.cfg" <<'CONFIG'
DEFAULT linux
PROMPT 0
LABEL linux
  KERNEL vmlinuz
  INITRD initrd
  APPEND console=ttyS0 loglevel=1 panic=-1 clearcpuid=xsaves,xsavec,pku,fsrm,erms,rep_good nopku nokaslr mitigations=off cryptomgr.notests initcall_blacklist=load_system_certificate_list,trace_eval_init
CONFIG
  rm -rf "$work/debs" "$work/unpacked"
}

run() {
  local work files boot library
  work=$(readlink -f "$1"); files=$(readlink -f "$3"); boot=$(mktemp -d "$work/$2.XXXXXX")
  cp -r "$work/tree" "$work/disc" "$boot/"
  cp -r "$files" "$boot/tree/files"
  cat > "$boot/tree/commands"
  find "$files" -maxdepth 1 -type f -perm -u+x -exec ldd {} + | grep -o '/[^ :]*' | grep -v "^$files" | sort -u |
    while read -r library; do cp -L --parents "$library" "$boot/tree/"; done
  (cd "$boot/tree" && find . | cpio -o -H newc --quiet > "$boot/disc/initrd")
  genisoimage -quiet -o "$boot/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table \
    "$boot/disc"
  cat > "$boot/bochsrc" <<CONFIG
cpu: model=$2, ips=20000000, reset_on_triple_fault=0
memory: guest=256, host=256
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=$boot/disc.iso, status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev=$boot/serial
clock: sync=none
config_interface: textconfig
display_library: term
sound: driver=dummy
log: $boot/log
panic: action=fatal
error: action=ignore
CONFIG
  echo c > "$boot/debugger"  # Debian's Bochs stops in its debugger at first: continue
  # It ends with 1 when the power is switched off, too, and on TERM it does not end
  TERM=linux timeout -s KILL "$LIMIT_S" bochs -q -f "$boot/bochsrc" -rc "$boot/debugger" \
    < /dev/null > "$boot/screen" 2>&1 || true
  if ! grep -q '^done' "$boot/serial"; then
    echo "the emulated PC did not come to its end, of $LIMIT_S s at most; $boot has its files" >&2
    tail -n 20 "$boot/log" "$boot/serial" >&2
    return 1
  fi
  tr -d '\r' < "$boot/serial" | sed '/^done/,$d'
  rm -rf "$boot"
}

"$@"
