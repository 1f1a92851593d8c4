# For the drivers that take the fences away: the world's server, what must stand, and how long it takes
# until it does again.
mkdir -p /tmp/world && echo served > /tmp/world/index.html
for at in 198.51.100.7 198.51.100.66 2001:db8:2::7 2001:db8:2::66; do
    ip netns exec world python3 -m http.server -d /tmp/world --bind $at 80 > /dev/null 2>&1 &
done
served() { [ "$(client curl -sS -m 5 "$1")" = served ]; }
refused() { [ "$(client curl -s -m 3 -o /dev/null -w '%{http_code}' "$1")" != 200 ]; }
rule() { ip -4 rule | grep -q 'fwmark 0x5347' && ip -6 rule | grep -q 'fwmark 0x5347'; }
capture_is() {
    nft -s list table inet schengate 2>&1
    nft -s list table inet schengate_guard 2>&1
    ip -4 route show table all 2>&1 | grep ' table 21319'
}
whole() {
    rule && [ "$(capture_is)" = "$right" ] &&
        ! grep -q 1 /proc/sys/net/ipv4/conf/{all,lan0,wan0}/forwarding \
            /proc/sys/net/ipv6/conf/{all,lan0,wan0}/forwarding
}
# A command of the host; the milliseconds until everything is whole again.
heals() {
    local what=$1 begun best=100000 now turn
    shift
    for turn in 1 2 3; do
        "$@" > /tmp/command 2>&1 || { cat /tmp/command; return 1; }
        begun=$(date +%s%N)
        comes whole || return 1
        now=$((($(date +%s%N) - begun) / 1000000))
        [ "$now" -ge "$best" ] || best=$now
        [ "$best" -ge 1000 ] || break
    done
    echo "# healed in $best ms: $what" >&3
    [ "$best" -lt 1000 ]
}
exec 3>&1
restored() { [ "$(metric "capture_restored_total{part=\"$1\"}")" -gt 0 ]; }

# A client that never stops: what of it reaches the world is a leak.
flood() {
    client bash -c 'while :; do
        ping -q -n -c 1 -W 0.01 198.51.100.66; ping -q -n -c 1 -W 0.01 2001:db8:2::66
        echo > /dev/udp/198.51.100.66/9; echo > /dev/udp/2001:db8:2::66/9
        curl -s -m 0.05 http://198.51.100.66/
    done' > /dev/null 2>&1 &
    flood=$!
}
