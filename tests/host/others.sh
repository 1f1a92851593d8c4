#!/bin/bash
# Other programs that have rules of their own on this host: ufw, firewalld, docker, iptables. None of their
# ordinary commands opens the post, with the keeper or without it.
. /trial/common.sh
. /trial/fences.sh
cd /trial

says "the service is ready after a boot" comes ready
right=$(capture_is)
says "everything stands" comes whole
says "what is permitted is served" comes served http://198.51.100.7/
flood
before=$(leaked)

# What has no daemon by itself here is left out, and said.
docker=
if systemctl start docker > /tmp/docker 2>&1; then docker=1; else
    echo "# LEFT OUT: dockerd does not start here"
    journalctl -b -u docker -o cat --no-pager | tail -n 3 | sed 's/^/# /'
fi
each() {
    "$@" "ufw --force enable" "ufw reload" "ufw default allow routed" "ufw route allow in on lan0" \
        "ufw --force reset" "ufw disable" "systemctl restart ufw"
    "$@" "systemctl start firewalld" "firewall-cmd --reload" "firewall-cmd --complete-reload" \
        "firewall-cmd --zone=public --add-masquerade" "firewall-cmd --set-default-zone=trusted" \
        "systemctl restart firewalld" "firewall-cmd --set-default-zone=public" "systemctl stop firewalld"
    "$@" "iptables -F" "iptables -P FORWARD ACCEPT" "iptables -t mangle -F" "iptables -t nat -F" \
        "iptables-restore /tmp/open.rules" "ip6tables-restore /tmp/open.rules" \
        "iptables -I FORWARD -j ACCEPT" "iptables -t mangle -I PREROUTING -j ACCEPT"
    [ -z "$docker" ] || "$@" "systemctl restart docker" "docker network create trial" \
        "docker network rm trial" "systemctl stop docker.socket docker"
}
printf '*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n' > /tmp/open.rules
healed() { local it; for it; do says "w10 $it" heals "$it" bash -c "$it"; done; }
each healed
says "w10 the world saw nothing" test "$(leaked)" = "$before"

# Without the keeper, and with forwarding on, as those programs leave it.
systemctl stop schengate-keeper
up() { schengate capture up --gateway --interface lan0 --config /etc/schengate/policy.toml; }
holds() {
    sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
    $1 || return 1
    for turn in {1..6}; do
        client ping -q -n -c 1 -W 0.05 198.51.100.66
        client ping -q -n -c 1 -W 0.05 2001:db8:2::66
    done
    [ "$(leaked)" = "$before" ] && up
}
alone() { local it; for it; do says "w10 $it, without the keeper" holds "$it"; done; }
[ -z "$docker" ] || systemctl start docker
each alone
says "w10 the world saw nothing without the keeper" test "$(leaked)" = "$before"
systemctl start schengate-keeper
says "w10 the keeper sets everything again" comes whole

# What clients send is handed to a listener of this host, whose own firewall must let it in: the lines of
# docs/install.md.
six='http://[2001:db8:2::7]/'
ufw --force enable
says "ufw keeps clients out of the gateway as well" not served http://198.51.100.7/
ufw disable
says "the recipe for ufw" does "Beside a firewall of this host: ufw"
ufw --force enable
says "ufw lets in what the capture marks" comes served http://198.51.100.7/
says "over IPv6 too" comes served "$six"
says "h07 and the gateway is ready" comes ready
ufw disable
systemctl start firewalld
says "firewalld keeps clients out of the gateway as well" not served http://198.51.100.7/
says "the recipe for firewalld" does "Beside a firewall of this host: firewalld"
says "firewalld lets in the clients' interface" comes served http://198.51.100.7/
says "over IPv6 too, with firewalld" comes served "$six"
says "h07 and the gateway is ready with firewalld" comes ready
says "w10 the world saw nothing at all" test "$(leaked)" = "$before"
# The measure itself: with every fence down it does arrive.
systemctl stop schengate-keeper schengate-capture firewalld
schengate capture down --guard
nft flush ruleset
sysctl -q -w net.ipv4.ip_forward=1
arrives() { [ "$(leaked)" != "$before" ]; }
says "with no fence at all the flood arrives" comes arrives
kill $flood
echo done
