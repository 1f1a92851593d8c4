#!/bin/bash
# The .rpm, by rpm itself, in a Debian tree that nothing has booted: what it installs, its scripts, an
# upgrade by the same, and what is left behind it. Run it as root under `unshare -m`.
#
# usage: rpm.sh TREE PACKAGE
set -euo pipefail
tree=$1 package=$(realpath "$2")
mount --make-rprivate /
mount -t tmpfs tmpfs /mnt
mkdir -p /mnt/upper /mnt/work /mnt/root
mount -t overlay overlay -o lowerdir="$tree",upperdir=/mnt/upper,workdir=/mnt/work /mnt/root
root=/mnt/root
mount --bind /dev $root/dev
mount -t proc proc $root/proc
cp "$package" $root/schengate.rpm
says() {
    local what=$1
    shift
    # What the last one said is there for this one to read.
    cp -f /mnt/said /mnt/heard 2> /dev/null || true
    if "$@" > /mnt/said 2>&1; then echo "ok $what"; else
        echo "NOT $what: $*"
        cat /mnt/said
    fi
}
inside() { chroot $root "$@"; }
# Names of packages that are needed are those of other distributions, and the tree is none of them: what
# is asked for is read, and held against what there is.
rpm() { command rpm --root $root --dbpath /var/lib/rpm --define '_pkgverify_level none' "$@"; }

says "p08 it asks for nftables, iproute and systemd" test "$(rpm -qpR "$package" | grep -cE '^(nftables|iproute|systemd)( |$)')" = 3
says "p08 it is installed" rpm -i --nodeps "$package"
says "p08 and says the next command" grep -q "schengate check" /mnt/heard
says "p08 the user is made" inside getent passwd schengate
says "p08 the policy is not for everybody" test "$(inside stat -c '%a %U %G' /etc/schengate/policy.toml)" = "640 root schengate"
says "p08 the program runs" inside schengate check --config /etc/schengate/policy.toml
says "p08 the pages of the manual" test -s $root/usr/share/man/man1/schengate-run.1.gz
says "p08 nothing is enabled" test -z "$(find $root/etc/systemd/system -name 'schengate*' 2> /dev/null)"
says "p08 every file is as the package has it" rpm -V --nodeps --nouser --nogroup schengate
echo "# of the administrator" >> $root/etc/schengate/policy.toml
says "p08 an upgrade" rpm -U --nodeps --replacepkgs "$package"
says "p08 what the administrator wrote is there" grep -q "of the administrator" $root/etc/schengate/policy.toml
mkdir -p $root/var/lib/schengate/audit
echo "a record" > $root/var/lib/schengate/audit/segment
says "p08 it is removed" rpm -e --nodeps schengate
says "p08 its program is gone" test ! -e $root/usr/bin/schengate
says "p08 and its units" test -z "$(find $root/usr/lib/systemd $root/etc/systemd -name 'schengate*')"
says "p08 the record is there" grep -q "a record" $root/var/lib/schengate/audit/segment
says "p08 and the policy that was written" grep -q "of the administrator" $root/etc/schengate/policy.toml.rpmsave
echo done
