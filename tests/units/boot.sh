#!/bin/bash
# Boots systemd with the units of this project, and nothing else, in namespaces of its own: run it
# under `unshare -m -p -n -C -i -u --fork --kill-child --mount-proc`. What is written goes to an
# overlay in memory.
#
# usage: boot.sh BINARY UNITS DRIVER REPORT
set -euo pipefail
binary=$1 units=$2 driver=$3 report=$4

mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
cp "$binary" /mnt/schengate
mount -t overlay overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
root=/mnt/root
mount -t proc proc $root/proc
mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/tmp
mount --rbind /dev $root/dev
mount -t sysfs sysfs $root/sys
# The unified hierarchy, or where another one is mounted already, a place for both.
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup 2>/dev/null || {
    mount -t tmpfs tmpfs $root/sys/fs/cgroup
    mkdir $root/sys/fs/cgroup/systemd $root/sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 $root/sys/fs/cgroup/unified
}
mount -t tmpfs tmpfs $root/etc/systemd/system
mkdir -p $root/usr/lib/schengate $root/etc/schengate
install -m 0755 /mnt/schengate $root/usr/bin/schengate
cp "$units"/*.service "$units"/*.socket $root/etc/systemd/system/
cp "$units"/schengate-guard.nft $root/usr/lib/schengate/
cp "$units"/schengate.sysusers $root/usr/lib/sysusers.d/schengate.conf
chroot $root systemd-sysusers schengate.conf
cat > $root/etc/systemd/system/trial.target <<'UNIT'
[Unit]
Description=the units under trial
DefaultDependencies=no
Wants=schengate-guard.service schengate-tcp.socket schengate.service
After=schengate-guard.service schengate-tcp.socket schengate.service
UNIT
cat > $root/etc/schengate/policy.toml <<'POLICY'
schema = 1
[policy]
permit = ["eea"]
[data]
country = ["table.csv"]
[[listen]]
mode = "tproxy"
address = "[::]:15001"
udp = false
POLICY
echo "192.0.2.0,192.0.2.255,FR" > $root/etc/schengate/table.csv
chmod 0755 $root/etc/schengate
install -m 0755 "$driver" $root/drive
ip link set lo up
chroot $root /drive > "$report" 2>&1 &
exec env -i container=unshare PATH=/usr/sbin:/usr/bin:/sbin:/bin chroot $root \
    /lib/systemd/systemd --unit=trial.target --log-level=warning --show-status=0
