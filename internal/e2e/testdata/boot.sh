#!/bin/sh
# Boot a Debian under its own systemd: boot.sh ROOT DIR VANTAGE. ROOT is the system as it was
# installed, which stays as it is; what the machine writes is in DIR. A wire leads to the network
# namespace of process VANTAGE, and nothing leads further. It runs in mount, network, UTS and IPC
# namespaces of its own and in a cgroup of its own, as root, and becomes the machine.
set -eu
cd "$2"
mkdir -p up work machine

hostname box
ip link set lo up
ip link add wire type veth peer name wire netns "$3"
ip address add 10.77.1.2/24 dev wire
ip address add fd77::2/64 dev wire nodad
ip link set wire up

mount -t overlay overlay -o "lowerdir=$1,upperdir=up,workdir=work" machine
# Engines stack their layers, which cannot be done on layers.
for engine in docker containerd containers; do
	mkdir -p "engine/$engine" "machine/var/lib/$engine"
	mount --bind "engine/$engine" "machine/var/lib/$engine"
done
cd machine

mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty fuse; do
	[ -e "/dev/$device" ] || continue
	touch "dev/$device"
	mount --bind "/dev/$device" "dev/$device"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=1777 tmpfs tmp

# Its clock, its modules and its kernel's settings are also those of the machine below.
exec setpriv --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog --inh-caps=-sys_module,-sys_time,-sys_rawio,-syslog \
	unshare --pid --fork --cgroup --kill-child sh -euc '
	mount -t proc proc proc
	mount --bind proc/sys proc/sys
	mount -o remount,bind,ro proc/sys
	mount --bind proc/sys/net proc/sys/net
	mount -o remount,bind,rw proc/sys/net
	mount -t sysfs -o ro sysfs sys
	mount -t cgroup2 cgroup2 sys/fs/cgroup
	mkdir -p mnt/below
	pivot_root . mnt/below
	umount -l /mnt/below
	exec env -i container=test PATH=/usr/sbin:/usr/bin /lib/systemd/systemd
'
