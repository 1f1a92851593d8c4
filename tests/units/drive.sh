#!/bin/bash
# Uses the units as an administrator does, and says `ok WHAT` or `NOT WHAT`.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_PAGER=cat SYSTEMD_COLORS=0

says() {
    local what=$1
    shift
    if "$@" > /tmp/said 2>&1; then echo "ok $what"; else
        echo "NOT $what: $*"
        cat /tmp/said
        systemctl status --no-pager schengate.service 2>&1 | tail -n 25
    fi
}
# Asks again and again, for 30 s at most.
comes() {
    local turn
    for turn in {1..300}; do
        if "$@"; then return; fi
        sleep 0.1
    done
    return 1
}
active() { systemctl is-active --quiet schengate.service; }
of() { systemctl show --value -p "$1" schengate.service; }
status_is() { [[ "$(of StatusText)" == *"$1" ]]; }
# The process that systemd watches, and the gateway behind it.
gateway() { pgrep -P "$(of MainPID)"; }
both() { of MainPID && gateway; }
without_capabilities() {
    for process in $(both); do grep -q '^CapEff:[[:space:]]*0*$' "/proc/$process/status" || return; done
}
as_its_user() { [ "$(stat -c %U "/proc/$(of MainPID)" "/proc/$(gateway)" | uniq)" = schengate ]; }
alone() { ! kill -0 "$1" 2> /dev/null; }
connects() { exec 3<> /dev/tcp/127.0.0.1/15001; }
stays() { ! systemctl reload schengate.service && active && [ "$(of MainPID)" = "$main" ]; }
restarted() { [ "$(of NRestarts)" -gt 0 ] && active; }
guarded() { nft list table inet schengate_guard | grep -q 'policy drop'; }
sees_routing() { curl -sf http://127.0.0.1:9643/metrics | grep -q 'capture_intact{check="routing"} 0'; }
gone() { [ "$(systemctl is-active schengate.service)" = inactive ]; }

comes test -S /run/systemd/private
says "the service says that it is ready" comes active
says "it runs as its own user" as_its_user
says "it holds no capability" without_capabilities
says "it sees the routing rules" comes sees_routing
says "the guard stands" guarded

echo '[[rule]]
name = "one more"
to = ["192.0.2.1/32"]
action = "block"' >> /etc/schengate/policy.toml
says "a reload is taken up" systemctl reload schengate.service
says "and the status line says so" comes status_is "1 rules"
main=$(of MainPID)
cp /etc/schengate/policy.toml /tmp/sound
echo 'nonsense = true' >> /etc/schengate/policy.toml
says "a file with a fault is refused, and the service goes on" stays
cp /tmp/sound /etc/schengate/policy.toml

says "the service stops" systemctl stop schengate.service
says "and is gone" comes gone
says "its socket still takes connections" connects
says "and a connection brings the service back" comes active

hung=$(gateway)
kill -STOP "$hung"
says "the watchdog restarts a service that hangs" comes restarted
says "and nothing is left of the one that hung" comes alone "$hung"
behind=$(gateway)
kill -KILL "$(of MainPID)"
says "a gateway ends with the process in front of it" comes alone "$behind"
says "and another one takes its place" comes active
systemctl stop schengate-tcp.socket schengate.service
says "the guard stands when all is stopped" guarded
echo done
kill -RTMIN+4 1
