#!/bin/bash
# The client's machine and the world, as namespaces of the trial machine. Both lead everything to it.
set -e
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
side() {
    local space=$1 link=$2 v4=$3 v6=$4 gate4=$5 gate6=$6
    ip netns add "$space"
    ip link add "$link" type veth peer name eth0 netns "$space"
    ip -n "$space" link set lo up
    ip -n "$space" link set eth0 up
    ip -n "$space" address add "$v4" dev eth0
    ip -n "$space" address add "$v6" dev eth0 nodad
    ip -n "$space" route add default via "$gate4"
    ip -n "$space" route add default via "$gate6"
}
side client lan0 192.0.2.10/24 2001:db8:1::10/64 192.0.2.1 2001:db8:1::1
side world wan0 198.51.100.7/24 2001:db8:2::7/64 198.51.100.1 2001:db8:2::1
ip -n world address add 198.51.100.66/24 dev eth0
ip -n world address add 2001:db8:2::66/64 dev eth0 nodad
ip netns exec world nft -f - <<'RULES'
table inet world {
    counter refused { }
    chain in {
        type filter hook prerouting priority raw; policy accept;
        ip daddr 198.51.100.66 counter name refused
        ip6 daddr 2001:db8:2::66 counter name refused
        ip saddr 192.0.2.10 counter name refused
        ip6 saddr 2001:db8:1::10 counter name refused
    }
}
RULES
