# Run in a tree before it boots: everything is installed and enabled, as after the install page.
set -e
. /trial/common.sh
does "The files"
cat > /etc/schengate/policy.toml <<'POLICY'
schema = 1
[policy]
mode = "enforce"
permit = ["FR"]
[[place]]
to = ["198.51.100.0/26", "2001:db8:2::/122"]
location = ["FR"]
reason = "the world of this trial"
[[place]]
to = ["198.51.100.64/26", "2001:db8:2::40/122"]
location = ["US"]
reason = "the world of this trial"
[[listen]]
mode = "tproxy"
address = "[::]:15001"
udp = "[::]:443"
POLICY
chown -R root:schengate /etc/schengate
echo 'CAPTURE_OPTIONS=--gateway --interface lan0' > /etc/schengate/capture.env
systemctl enable schengate-guard.service schengate-tcp.socket schengate-udp.socket \
    schengate.service schengate-capture.service nftables.service
