#!/bin/bash
# Each recipe of the install page, as it is written there, on a machine on which nothing is installed.
. /trial/common.sh
serve 198.51.100.7
served() { "$@" curl -sS -m 5 http://198.51.100.7/ | grep -q served; }
by() { client curl -sS -m 5 -x "$1" http://198.51.100.7/ | grep -q served; }
answered() {
    client python3 - <<'PY'
import socket
asking = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
asking.settimeout(8)
asking.sendto(b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\4eins\7example\0\0\1\0\1", ("192.0.2.1", 53))
assert asking.recv(512)[:2] == b"\x12\x34"
PY
}
here() { "$@"; }
recorded() { journalctl -b -o cat --no-pager -u schengate.service | grep -F "$1" | grep -qF "198.51.100.7:80"; }

says "h10 the files" does "The files"
says "h10 a policy from a preset" does "A policy from a preset"
says "h10 of the preset" grep -q "^# Preset eea" /etc/schengate/policy.toml
# A host of this kind has its findings: that they are told is asked, not what they are.
looks() {
    recipe "What is in the way" > /tmp/recipe && [ -s /tmp/recipe ] || return
    bash -u /tmp/recipe > /tmp/found 2>&1
    [ $? -le 1 ] && [ -s /tmp/found ]
}
says "h10 what is in the way" looks
says "h10 the transparent gateway" does "A transparent gateway in five commands"
says "h10 is ready" comes ready
says "h10 and serves" comes served client
says "h10 through the listener" comes recorded '"listener":"tproxy"'
says "h10 and is probed" comes held tcp4
says "h10 a reload" systemctl reload schengate.service
says "h10 is taken up" comes bash -c 'journalctl -b -o cat --no-pager -u schengate.service | grep -q "policy reloaded"'
says "h10 at a lower priority" bash -c '! journalctl -b -o cat --no-pager -u schengate.service | grep -q "at the priority of the gateway"'
says "h10 the name server" does "A name server for the clients"
says "h10 answers" comes answered
says "h10 the proxy for other machines" does "An explicit proxy for other machines"
says "h10 serves them" comes by http://192.0.2.1:3128
says "h10 and is recorded" comes recorded '"listener":"proxy"'
systemctl stop schengate-proxy.socket
rm -r /etc/systemd/system/schengate-proxy.socket.d
sed -i 's/192.0.2.1:3128/127.0.0.1:3129/' /etc/schengate/policy.toml
systemctl daemon-reload
says "h10 the explicit proxy" does "An explicit proxy"
says "h10 serves this host" comes bash -c 'curl -sS -m 5 -x http://127.0.0.1:3128 http://198.51.100.7/ | grep -q served'
says "h10 the host's own traffic" does "A host's own traffic"
says "h10 is served" comes served here
says "h10 through its listener" comes recorded '"listener":"redirect"'
says "h10 warnings have their level" bash -c 'logger -p warning x; [ "$(journalctl -b -p warning -o cat --no-pager -u schengate-keeper -u schengate.service | grep -c WARN)" -gt 0 ]'
echo done
