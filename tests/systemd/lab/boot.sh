#!/bin/bash
# Makes a throw-away machine of the namespaces it is started in, and becomes its systemd (PID 1). `machine.py` starts it:
#
#     unshare --pid --fork --kill-child --mount --uts --ipc --net --propagation private boot.sh ROOT NAME CGROUP STAGE
#
# ROOT    an empty directory; the machine's root, a tmpfs, is mounted over it, here and nowhere else
# NAME    the machine's host name
# CGROUP  a name for its control group
# STAGE   what `make install DESTDIR=STAGE` made: its usr/ lies over this host's /usr, its opt/ is the machine's /opt, read-only;
#         empty: nothing is installed, and what is written to /usr and /opt stays in the machine
set -eu
export ROOT=$1 NAME=$2 CGROUP=$3 STAGE=$4

# A control group of its own: who is in it when the cgroup namespace is made, sees it as the root of them all.
mount -t tmpfs -o mode=755,size=1g machine "$ROOT"
mkdir "$ROOT/cgroups"
mount -t cgroup2 cgroup2 "$ROOT/cgroups"
current=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir -p "$ROOT/cgroups${current%/}/$CGROUP"
echo 0 >"$ROOT/cgroups${current%/}/$CGROUP/cgroup.procs"
umount "$ROOT/cgroups"
rmdir "$ROOT/cgroups"

in_the_machine() {
	cd "$ROOT"
	umask 022
	mkdir -p usr etc/systemd/system proc sys dev run tmp root home opt srv mnt var/{lib,cache,tmp,log/journal} outside
	chmod 1777 tmp var/tmp
	chmod 700 root
	ln -s /run var/run
	ln -s /run/lock var/lock
	for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$directory"; done

	# Programs: those of this host, and over them what is installed. Without an upper directory an overlay is read-only.
	if [ -n "$STAGE" ]; then
		mount -t overlay -o "lowerdir=$STAGE/usr:/usr" usr usr
		mount --bind "$STAGE/opt" opt
		mount -o remount,bind,ro opt
	else
		mkdir -p .usr/written .usr/work
		mount -t overlay -o lowerdir=/usr,upperdir=.usr/written,workdir=.usr/work usr usr
	fi

	# The least of /etc; root and nobody are this host's, all others are for systemd-sysusers to make.
	for file in ld.so.cache protocols services; do
		if [ -e "/etc/$file" ]; then cp "/etc/$file" etc/; fi
	done
	printf '%s\n' root:x:0:0::/root:/bin/sh nobody:x:65534:65534::/:/usr/sbin/nologin >etc/passwd
	printf '%s\n' root:x:0: tty:x:5: nogroup:x:65534: >etc/group
	printf '%s\n' 'passwd: files' 'group: files' 'hosts: files' >etc/nsswitch.conf
	printf '%s\n' '127.0.0.1 localhost' '::1 localhost' >etc/hosts
	echo "$NAME" >etc/hostname
	hostname "$NAME"
	tr -d - </proc/sys/kernel/random/uuid >etc/machine-id # (An empty one would make this a first boot.)
	echo 'ID=lab' >etc/os-release
	: >etc/fstab
	ln -s /usr/share/zoneinfo/UTC etc/localtime
	for unit in dbus.service dbus.socket systemd-logind.service systemd-timesyncd.service; do
		ln -s /dev/null "etc/systemd/system/$unit"
	done

	# Devices, processes, control groups; this host's kernel settings are out of reach.
	mount -t tmpfs -o mode=755,nosuid devices dev
	for device in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
		IFS=: read -r name major minor <<<"$device"
		mknod -m 666 "dev/$name" c "$major" "$minor"
	done
	ln -s /proc/self/fd dev/fd
	for stream in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${stream%:*}" "dev/${stream#*:}"; done
	mkdir dev/pts dev/shm dev/mqueue
	mount -t devpts -o newinstance,ptmxmode=666,mode=620,gid=5 devpts dev/pts
	ln -s pts/ptmx dev/ptmx
	mount -t tmpfs -o mode=1777,nosuid,nodev shm dev/shm
	mount -t proc -o nosuid,nodev,noexec proc proc
	mount --bind proc/sys proc/sys
	mount -o remount,bind,ro proc/sys
	mount -t sysfs -o nosuid,nodev,noexec sysfs sys
	mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 sys/fs/cgroup
	mount -o remount,bind,ro sys
	mount -t tmpfs -o mode=755,nosuid,nodev run run

	pivot_root . outside
	cd /
	umount -l /outside
	rmdir /outside
	mount --make-rshared / # (Else credentials do not arrive in services: LoadCredential= gives them by a mount.)

	# What a container manager would leave to it: among what is missing are modules, raw I/O, the clock and the kernel's log.
	local capabilities=-all name
	for name in chown dac_override dac_read_search fowner fsetid ipc_owner kill lease linux_immutable mknod net_admin \
		net_bind_service net_broadcast net_raw setfcap setgid setpcap setuid sys_admin sys_boot sys_chroot sys_nice sys_ptrace; do
		capabilities+=,+$name
	done
	exec env -i container=lab PATH=/usr/sbin:/usr/bin \
		setpriv --bounding-set "$capabilities" /lib/systemd/systemd --unit=multi-user.target
}

export -f in_the_machine
exec unshare --cgroup bash -euc in_the_machine
