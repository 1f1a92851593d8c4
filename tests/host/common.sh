# For the drivers: says `ok WHAT` or `NOT WHAT`, and reads recipes off the install page.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_PAGER=cat SYSTEMD_COLORS=0 LC_ALL=C.UTF-8
says() {
    local what=$1
    shift
    # What the last one said is there for this one to read.
    cp -f /tmp/said /tmp/heard 2> /dev/null || true
    if "$@" > /tmp/said 2>&1; then echo "ok $what"; else
        echo "NOT $what: $*"
        cat /tmp/said
        systemctl --failed --no-legend
        systemctl list-units --all --no-legend 'schengate*' || true
        journalctl -b --no-pager -o cat -u 'schengate*' | grep -v '"id"' | tail -n 8
        nft list ruleset | head -n 40
        ip rule
    fi
}
# Asks again and again, for 20 s at most.
comes() {
    local end=$((SECONDS + 20))
    while [ $SECONDS -lt $end ]; do
        if "$@"; then return; fi
        sleep 0.05
    done
    return 1
}
not() { ! "$@"; }
# A server of the world, which is there when this returns.
serve() {
    ip netns exec world python3 /trial/load.py serve "$1" &
    comes ip netns exec world bash -c "</dev/tcp/$1/80" 2>/dev/null
}
# The shell commands of a page, the install page by default, under a heading, as they are written.
recipe() {
    awk -v heading="$1" '/^## / { inside = ($0 == "## " heading); next }
        inside && /^```sh/ { code = 1; next }
        /^```/ { code = 0 }
        inside && code' "${PAGE:-/src/docs/install.md}"
}
does() { (cd /src && recipe "$1" > /tmp/recipe && [ -s /tmp/recipe ] && bash -euo pipefail /tmp/recipe); }
client() { ip netns exec client "$@"; }
# Packets that the world had from the client's own address, or for what is refused.
leaked() { ip netns exec world nft list counter inet world refused | awk '/packets/ { print $2 }'; }
metric() { curl -sf http://127.0.0.1:9643/metrics | grep -F "$1" | awk '{ print $2 }'; }
# The probe by a way went as it must.
held() { [ "$(metric "capture_probe{way=\"$1\"}")" = 1 ]; }
ready() { curl -sf http://127.0.0.1:9643/readyz > /dev/null; }
active() { systemctl is-active --quiet "$@"; }
