#!/bin/busybox sh
# The guest's first process: loads the virtio drivers, then takes orders from its second serial port, a line each.
# Every order is answered: "ok", or "no" and why.
bb=/bin/busybox
$bb mkdir -p /proc /sys /dev /tmp
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
$bb mount -t tmpfs -o size=90% tmpfs /tmp
for module in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_mmio pvpanic pvpanic-pci; do
  $bb insmod /modules/$module.ko
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
    reboot) echo ok >&3; $bb sleep 0.2; $bb reboot -f ;;
    poweroff) echo ok >&3; $bb sleep 0.2; $bb poweroff -f ;;
    suspend) echo ok >&3; $bb sleep 0.2; echo mem > /sys/power/state; continue ;;
    hang) echo ok >&3; $bb sleep 0.2; $bb devmem 0xfee000f0 32 0xff; continue ;; # its CPU hears no interrupt again
    crash) echo ok >&3; $bb sleep 0.2; echo c > /proc/sysrq-trigger ;;
    *) answer="no such order" ;;
  esac
  echo "$answer" >&3
done
