#!/bin/busybox sh
# The guest's first process: loads the virtio drivers, then takes orders from its second serial port, a line each.
# Every order is answered: "ok", or "no" and why.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
$bb mount -t tmpfs -o size=90% tmpfs /tmp
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_mmio virtio_blk virtio_mem pvpanic pvpanic-pci; do
  [ ! -e /modules/$module.ko ] || $bb insmod /modules/$module.ko
done
$bb grep -q barograph.balloon=off /proc/cmdline || $bb insmod /modules/virtio_balloon.ko
exec 3<>/dev/ttyS1
$bb stty -F /dev/ttyS1 raw -echo
churn() {
  while :; do
    $bb dd if=/dev/zero of=/tmp/churn bs=1M count=24 2>/dev/null
    $bb sleep 2
    $bb rm -f /tmp/churn
    $bb sleep 2
  done
}
thrash() { # reads a file of $1 MiB again and again, some MiB, then a pause: larger than the memory, it swaps
  $bb dd if=/dev/urandom of=/tmp/seed bs=1M count=1 2>/dev/null # Linux does not write pages of zeros to a swap device
  at=0
  while [ "$at" -lt "$1" ]; do
    $bb cat /tmp/seed
    at=$((at + 1))
  done >/tmp/thrash
  while :; do
    at=0
    while [ "$at" -lt "$1" ]; do
      $bb dd if=/tmp/thrash of=/dev/null bs=1M skip="$at" count=2 2>/dev/null
      at=$((at + 2))
      $bb sleep 0.3
    done
  done
}
echo ready
while read -r order argument <&3; do
  answer=ok
  case "$order" in
    hello) ;;
    load) $bb insmod /modules/virtio_balloon.ko || answer="no driver" ;;
    unload) $bb rmmod virtio_balloon || answer="no driver" ;;
    dirty) $bb dd if=/dev/zero of=/tmp/dirty bs=1M count="$argument" 2>/dev/null || answer="no room" ;;
    clean) $bb rm -f /tmp/dirty ;;
    churn) churn & ;;
    swap) $bb mkswap /dev/vda >/dev/null && $bb swapon /dev/vda || answer="no disk" ;;
    room) $bb mount -o remount,size="$argument"M /tmp || answer="no room" ;;
    thrash) thrash "$argument" & thrashing=$! ;;
    calm) kill "$thrashing"; $bb rm -f /tmp/thrash ;;
    hog) $bb dd if=/dev/zero of=/dev/null bs="$argument"M count=1 2>/dev/null ;; # the kernel kills it
    reboot) echo ok >&3; $bb sleep 0.2; $bb reboot -f ;;
    poweroff) echo ok >&3; $bb sleep 0.2; $bb poweroff -f ;;
    suspend) echo ok >&3; $bb sleep 0.2; echo mem > /sys/power/state; continue ;;
    hang) echo ok >&3; $bb sleep 0.2; $bb devmem 0xfee000f0 32 0xff; continue ;; # its CPU hears no interrupt again
    crash) echo ok >&3; $bb sleep 0.2; echo c > /proc/sysrq-trigger ;;
    *) answer="no such order" ;;
  esac
  echo "$answer" >&3
done
