#!/bin/bash
# The commands of the README, as they are written there, on a machine on which nothing is installed.
. /trial/common.sh
PAGE=/src/README.md
installs() { PAGE=/src/docs/install.md does "The files"; }
# The first code block behind a line <!-- MARK -->.
block() {
    awk -v mark="<!-- $1 -->" '$0 == mark { marked = 1; next }
        marked && /^```/ { if (inside) exit; inside = 1; next }
        inside' $PAGE
}
# There is no compiler here: what cargo would run is built.
cat > /usr/local/bin/cargo <<'SH'
#!/bin/sh
[ "$1 $2 $3" = "run --release --" ] || exit 64
shift 3
exec /src/target/dist/schengate "$@"
SH
chmod 0755 /usr/local/bin/cargo
# The destination that the README names stands in this world.
ip -n world address add 213.186.33.5/32 dev eth0
ip route add 213.186.33.5 via 198.51.100.7
serve 213.186.33.5
serve 198.51.100.7

run=$(block run)
# shellcheck disable=SC2086
(cd /src && exec $run) 2> /tmp/log &
gateway=$!
says "r01 the first command" comes ready
asks() { block ask > /tmp/ask && [ -s /tmp/ask ] && bash -eu /tmp/ask > /tmp/asked; }
says "r01 both are asked" asks
says "r01 one is permitted" grep -q '^served' /tmp/asked
says "r01 the other is refused" grep -q '^HTTP/1.1 451' /tmp/asked
says "r01 and it is said why" grep -q anycast /tmp/asked
kill $gateway
wait $gateway

says "r02 the files" installs
# Nobody answers for names here: the command says so itself, and its exit status is the one of the line.
tries() {
    block exec > /tmp/exec && [ -s /tmp/exec ] || return
    bash -eu /tmp/exec > /dev/null 2> /tmp/tried
    [ $? = "$(sed -n 's/^curl: (\([0-9]*\)).*/\1/p' /tmp/tried)" ]
}
says "r02 one line to try it" tries
says "r02 says what it saw" grep -q curl /tmp/tried

served() { client curl -sS -m 5 http://198.51.100.7/ | grep -q served; }
says "r03 the transparent gateway" does "A transparent gateway"
says "r03 is ready" comes ready
says "r03 and serves" comes served
says "r03 the guard stands" nft list table inet schengate_guard
echo done
