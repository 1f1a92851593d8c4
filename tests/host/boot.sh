#!/bin/bash
# Boots a Debian tree under systemd-nspawn with this project's files beside it, and runs one driver
# in it. What is written goes to an overlay in memory: the tree stays as it is. Run it as root under
# `unshare -m -p --fork --kill-child`, so that nothing is left of it.
#
# usage: boot.sh TREE BINARY SOURCES DRIVER REPORT
# PREPARE names a script beside this one that is run in the tree before it boots; FORWARD=1 has the
# machine's own network configuration ask for forwarding.
set -euo pipefail
tree=$1 binary=$2 sources=$3 driver=$4 report=$5

mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/upper /mnt/work /mnt/root
cp "$binary" /mnt/schengate
mount -t overlay overlay -o lowerdir="$tree",upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
root=/mnt/root

# The source tree, as an administrator has it after the build.
mkdir -p $root/src/target/dist $root/trial
cp -r "$sources"/{systemd,config,docs,README.md} $root/src/
install -m 0755 /mnt/schengate $root/src/target/dist/schengate
if [ -n "${PACKAGES:-}" ]; then
    mkdir -p $root/trial/packages $root/src/target/package
    cp "$PACKAGES"/*.deb $root/trial/packages/
    # The first of them is the one that the build leaves.
    first=$(find "$PACKAGES" -name '*.deb' | sort -V | head -n 1)
    cp "$first" $root/src/target/package/
fi
cp "$(dirname "$0")"/*.{sh,py} $root/trial/
install -m 0755 "$driver" $root/trial/drive
printf '#!/bin/sh\nexec "$@"\n' > $root/usr/local/bin/sudo
chmod 0755 $root/usr/local/bin/sudo
touch $root/trial/report
echo "${LOAD:-500 1000}" > $root/trial/load

cat > $root/etc/systemd/system/trial.service <<'UNIT'
[Unit]
Description=the trial
After=multi-user.target
SuccessAction=poweroff
FailureAction=poweroff

[Service]
Type=oneshot
ExecStart=/trial/drive
StandardOutput=file:/trial/report
StandardError=journal
UNIT
# Two machines beside this one, on either side of it, before the network is set up.
cat > $root/etc/systemd/system/lab.service <<'UNIT'
[Unit]
DefaultDependencies=no
Before=network-pre.target
Wants=network-pre.target

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/bash /trial/lab.sh
UNIT
mkdir -p $root/etc/systemd/system/{multi-user,sysinit}.target.wants
ln -sf /dev/null $root/etc/systemd/system/console-getty.service
ln -sf /usr/lib/systemd/system/systemd-networkd.service $root/etc/systemd/system/multi-user.target.wants/
ln -sf /dev/null $root/etc/systemd/system/systemd-networkd-wait-online.service
ln -sf ../trial.service $root/etc/systemd/system/multi-user.target.wants/
ln -sf ../lab.service $root/etc/systemd/system/sysinit.target.wants/
# Forwarding is asked for, as it often is on a machine between two networks.
for side in lan0:192.0.2.1/24:2001:db8:1::1/64 wan0:198.51.100.1/24:2001:db8:2::1/64; do
    name=${side%%:*} rest=${side#*:}
    cat > $root/etc/systemd/network/10-$name.network <<NET
[Match]
Name=$name
[Network]
Address=${rest%%:*}
Address=${rest#*:}
LinkLocalAddressing=ipv6
IPv6AcceptRA=no
${FORWARD:+IPForward=yes}
NET
done
if [ -n "${PREPARE:-}" ]; then
    mount -t proc proc $root/proc
    chroot $root /bin/bash "/trial/$PREPARE"
    umount $root/proc
fi

export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0
status=0
systemd-nspawn --quiet --directory=$root --machine=schengate-trial-$$ --register=no --keep-unit \
    --private-network --resolv-conf=off --timezone=off --link-journal=no \
    --bind=/dev/net/tun --boot -- --show-status=no --log-level=warning < /dev/null >&2 || status=$?
cp $root/trial/report "$report"
exit $status
