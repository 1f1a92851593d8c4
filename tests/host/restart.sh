#!/bin/bash
# Restarts while connections live and new ones come: nobody is refused, nobody waits for the old.
. /trial/common.sh
# Connections a second, and the longest wait in milliseconds.
read -r rate limit < /trial/load
serve 198.51.100.7
ulimit -n 65536
comes ready
says "h05 the service is ready" ready

client python3 /trial/load.py hold 198.51.100.7 > /tmp/held &
says "h05 one connection lives" comes grep -q held /tmp/held
restart() {
    local turn
    for turn in {1..20}; do
        systemctl restart schengate.service || return
        comes ready || return
    done
}
client python3 /trial/load.py ask 198.51.100.7 "$rate" "${SECONDS_OF_LOAD:-40}" > /tmp/load &
load=$!
first=$(systemctl show --value -p MainPID schengate.service)
says "h05 twenty restarts" restart
says "h05 it is another process" test "$(systemctl show --value -p MainPID schengate.service)" != "$first"
wait $load
read -r served failed longest faults < /tmp/load
echo "# $served served, $failed not, the longest wait $longest ms, at $rate connections a second $faults"
says "h05 none was refused" test "$failed" = 0
says "h05 connections were served" test "$served" -gt 1000
says "h05 none waited longer than a start takes" test "$longest" -le "$limit"
says "h05 the first connection ended when its time was over" comes grep -q ended /tmp/held
# The process in front, the gateway, and the broker beside it.
three() { [ "$(pgrep -c -u schengate)" = 3 ]; }
says "h05 nothing is left of the old" comes three
systemctl stop schengate.service
says "h05 nothing is left after a stop" comes not pgrep -u schengate
echo done
