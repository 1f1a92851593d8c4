#!/bin/bash
# The rules come back at once, whoever takes them away, and nothing leaves meanwhile.
. /trial/common.sh
. /trial/fences.sh
cd /trial

says "h01 the service is ready after a boot" comes ready
says "h01 the routing rule is there after a boot" rule
right=$(capture_is)
says "h01 everything stands after a boot, forwarding off" comes whole
says "h01 what is permitted is served" comes served http://198.51.100.7/
says "h01 over IPv6 too" comes served 'http://[2001:db8:2::7]/'
says "h01 what is refused is not" refused http://198.51.100.66/
for way in tcp4 tcp6 udp4 udp6 past4 past6; do
    says "h07 the probe by $way is held" comes held "$way"
done

flood
before=$(leaked)
says "w10 nft flush ruleset" heals "nft flush ruleset" nft flush ruleset
says "w10 restart of nftables" heals "systemctl restart nftables" systemctl restart nftables
says "w10 stop of nftables" heals "systemctl stop nftables" systemctl stop nftables
says "w10 reload of nftables" heals "systemctl start and reload nftables" \
    bash -c 'systemctl start nftables; systemctl reload nftables'
says "w10 one rule of the capture" heals "one rule is deleted" bash -c \
    'nft delete rule inet schengate prerouting handle $(nft -a list chain inet schengate prerouting | grep -o "tproxy ip to.*handle [0-9]*" | grep -o "[0-9]*$" | head -1)'
says "w10 the guard opened" heals "nft add rule: accept in the guard" \
    nft insert rule inet schengate_guard forward accept
says "w10 ip rule flush" heals "ip rule flush" bash -c \
    'ip -4 rule flush; ip -6 rule flush; ip -4 rule add priority 32766 lookup main protocol kernel; ip -6 rule add priority 32766 lookup main protocol kernel'
says "w10 the routing table" heals "ip route flush table" ip route flush table 21319
says "w10 sysctl ip_forward=1" heals "sysctl" sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
echo 'net.ipv4.ip_forward=1' > /etc/sysctl.d/99-forward.conf
says "w10 sysctl --system" heals "sysctl --system" bash -c "sysctl -q --system || true"
says "w10 restart of networkd" heals "systemctl restart systemd-networkd" systemctl restart systemd-networkd
says "w10 two at once" heals "forwarding on and nft flush ruleset" bash -c \
    'sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; nft flush ruleset'
says "w10 a ruleset of another program" heals "a table that accepts, after a flush" \
    bash -c 'printf "flush ruleset\ntable inet filter {\n chain forward {\n type filter hook forward priority 0; policy accept;\n accept\n }\n}\n" | nft -f -'
says "w10 what is permitted is served again" comes served http://198.51.100.7/
says "w10 the world saw nothing" test "$(leaked)" = "$before"
for part in rules guard routing forwarding; do
    says "w10 the metrics count $part" comes restored $part
done
says "w10 the journal says so" bash -c 'journalctl -u schengate-keeper -o cat --no-pager | grep -q "took a part of the capture away"'

# Without the keeper: the second fence, and what no single command opens.
systemctl stop schengate-keeper
before=$(leaked)
nft flush ruleset
sysctl -q -w net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
for turn in {1..40}; do client ping -q -n -c 1 -W 0.05 198.51.100.66; done > /dev/null 2>&1
says "w10 without the keeper a flush and forwarding let nothing out" test "$(leaked)" = "$before"
says "h07 without its keeper the gateway is not ready" comes not ready
systemctl start schengate-keeper
says "w10 the keeper sets everything again" comes whole
says "h07 and the gateway is ready" comes ready

# The kernel delivers nothing: nobody else sees that.
named() { curl -s http://127.0.0.1:9643/readyz | grep "not ready" | grep -qF "$1"; }
blind() {
    local name=$1
    sysctl -q -w "$name=1" || return 1
    comes named "sysctl -w $name=0" || { sysctl -q -w "$name=0"; return 1; }
    sysctl -q -w "$name=0"
    comes ready
}
for name in net.ipv4.conf.all.src_valid_mark net.ipv4.conf.lan0.src_valid_mark net.ipv4.tcp_fwmark_accept; do
    says "h07 $name is seen" blind $name
done
systemctl kill -s STOP schengate.service
says "h07 a gateway that hangs is seen" comes bash -c \
    'grep -q "\"tcp4\":\"lost\"" /run/schengate-keeper/state.json'
systemctl kill -s CONT schengate.service

# The units, in whatever state they are.
says "h02 a restart of the guard" systemctl restart schengate-guard
says "h02 leaves the sockets" active schengate-tcp.socket schengate-udp.socket
says "h02 and the service" active schengate.service
says "h02 and what is permitted is served" comes served http://198.51.100.7/
systemctl stop schengate-tcp.socket schengate-udp.socket schengate-guard
says "h02 a restart of the service heals" systemctl restart schengate.service
says "h02 with its sockets" active schengate-tcp.socket schengate-udp.socket
says "h02 and it serves" comes served http://198.51.100.7/
says "h02 a reload of the guard" systemctl reload schengate-guard
kill $flood
echo done
