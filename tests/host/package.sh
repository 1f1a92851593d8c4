#!/bin/bash
# The package: from nothing to an enforcing gateway by the commands of the install page, an upgrade
# under load, an upgrade that cannot work by the policy, and back to nothing.
. /trial/common.sh
read -r rate limit < /trial/load
serve 198.51.100.7
later=$(find /trial/packages -name '*.deb' | sort -V | tail -n 1)
# Nobody can be asked here.
export DEBIAN_FRONTEND=noninteractive
served() { client curl -sS -m 5 http://198.51.100.7/ | grep -q served; }
refused() { [ "$(client curl -sS -m 5 -o /dev/null -w '%{http_code}' http://198.51.100.7/)" = 451 ]; }
commands() { recipe "$1" | sed -z 's/\\\n//g' | grep -cv '^ *$'; }
process() { systemctl show --value -p MainPID schengate.service; }
nothing_runs() { [ -z "$(systemctl list-units --no-legend --state=active 'schengate*')" ]; }
nothing_is_enabled() { ! systemctl list-unit-files --no-legend 'schengate*' | awk '{ print $2 }' | grep -qx enabled; }
come() { metric 'schengate_connections_total{' | awk '{ sum += $1 } END { exit !(sum > 10) }'; }
guarded() { nft list table inet schengate_guard > /dev/null 2>&1; }
prohibits() { ip "$1" rule | grep -q prohibit; }

first="From the package to a gateway, in ten commands"
count=$(($(commands "$first") + $(commands "Enforce")))
echo "# $count commands"
says "p01 ten commands or fewer" test "$count" -le 10 -a "$count" -ge 2

says "p01 the package is installed" dpkg -i /src/target/package/schengate_*.deb
says "p01 it says the next command" grep -q "schengate check" /tmp/heard
says "p01 nothing runs" nothing_runs
says "p01 nothing is enabled" nothing_is_enabled
says "p01 nothing is in the kernel" not guarded
says "p01 it is purged" dpkg -P schengate
says "p01 and nothing is left" test -z "$(getent passwd schengate; find /etc/schengate /var/lib/schengate -type f 2> /dev/null)"

says "p01 the commands" does "$first"
says "p01 the gateway is ready" ready
says "p01 it observes" comes served
says "p01 the commands that enforce" does "Enforce"
says "p01 it enforces" comes refused
says "p01 the keeper runs" active schengate-keeper.service
says "p01 there is a page of the manual" test -s /usr/share/man/man1/schengate-capture-up.1.gz
says "p01 the papers are there" test -s /usr/share/doc/schengate/THIRD-PARTY.gz -a -s /usr/share/doc/schengate/NOTICE -a -s /usr/share/doc/schengate/schengate.cdx.json.gz
says "p01 the policy is not for everybody" test "$(stat -c '%a %U %G' /etc/schengate/policy.toml)" = "640 root schengate"

# The world has a place from here on, and connections come while the package is upgraded.
cat >> /etc/schengate/policy.toml <<'POLICY'
[[place]]
to = ["198.51.100.0/26"]
location = ["FR"]
reason = "the world of this trial"
[audit]
directory = "/var/lib/schengate/audit"
POLICY
# The record of a gateway that runs is not changed by a reload.
systemctl restart schengate.service
says "p03 it serves" comes served
# Connections of the load that the record says have ended.
recorded() { schengate audit grep load.example 2> /dev/null | grep -c '"event":"close"'; }
as_many() { [ "$(recorded)" = "$1" ]; }
before=$(process)
ulimit -n 65536
client python3 /trial/load.py ask 198.51.100.7 "$rate" 15 > /tmp/load &
load=$!
says "p03 connections come" comes come
says "p03 an upgrade" dpkg -i "$later"
says "p03 another process serves" test "$(process)" != "$before"
wait $load
read -r count failed longest faults < /tmp/load
echo "# $count served, $failed not, the longest wait $longest ms, at $rate connections a second $faults"
says "p03 none was refused" test "$failed" = 0 -a "$count" -gt 500
says "p03 none waited longer than a start takes" test "$longest" -le "$limit"
says "p03 each is in the record once" comes as_many "$count"
says "p03 the record is whole" schengate audit verify --key /var/lib/schengate/audit/signing.pub
says "p03 what the administrator wrote is there" grep -q "the world of this trial" /etc/schengate/policy.toml
says "p03 the rules stand" schengate capture check

# A fault in the policy: the package is whole, and the old process goes on.
before=$(process)
echo 'permitt = ["FR"]' >> /etc/schengate/policy.toml
says "p04 an upgrade beside a policy with a fault" dpkg -i "$later"
says "p04 says what is wrong" grep -q permitt /tmp/heard
says "p04 the package is whole" test -z "$(dpkg --audit)"
says "p04 the old process serves" test "$(process)" = "$before"
says "p04 what is permitted" served

# A port that somebody else has by the time of an upgrade: the package is whole, it is said which one,
# and nothing leaves while nobody serves.
sed -i '/^permitt/d' /etc/schengate/policy.toml
cat >> /etc/schengate/policy.toml <<'POLICY'
[[listen]]
mode = "proxy"
address = "127.0.0.1:3128"
POLICY
python3 -c 'import socket, time; s = socket.create_server(("127.0.0.1", 3128)); time.sleep(1e6)' &
taken=$!
says "p06 somebody has the port" comes bash -c '</dev/tcp/127.0.0.1/3128' 2> /dev/null
journal() { journalctl -b --no-pager -o cat -u schengate.service; }
names() { journal | grep -q "listener 127.0.0.1:3128.*Address already in use"; }
says "p06 an upgrade beside a port in use" dpkg -i "$later"
says "p06 says that it was not restarted" grep -q "schengate.service was not restarted" /tmp/heard
says "p06 the package is whole" test -z "$(dpkg --audit)"
says "p06 the port is named" comes names
says "p06 nothing leaves" not served
kill $taken
says "p06 it serves as soon as the port is free" comes served

says "p05 the package is removed" dpkg -r schengate
says "p05 nothing runs" nothing_runs
says "p05 the guard stands" guarded
says "p05 over IPv4" prohibits -4
says "p05 over IPv6" prohibits -6
echo "a record" > /var/lib/schengate/audit/segment
says "p05 the package is purged" dpkg -P schengate
says "p05 it says where the record is" grep -q "rm -r /var/lib/schengate" /tmp/heard
says "p05 the record is there, for root alone" test "$(stat -c '%a %U' /var/lib/schengate) $(cat /var/lib/schengate/audit/segment)" = "700 root a record"
says "p05 the guard is gone" not guarded
says "p05 over IPv4, gone" test "$(ip -4 rule | grep -c .)" = 3
says "p05 over IPv6, gone" test "$(ip -6 rule | grep -c .)" = 2
says "p05 the user is gone" not getent passwd schengate
says "p05 and its policy" not test -e /etc/schengate
says "p05 and its files" test -z "$(find /usr /lib/systemd -name '*schengate*' -not -path '/usr/local/*')"
echo done
