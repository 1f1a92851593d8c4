//! Ways past `schengate exec` that are not of the network: who the command says that it is, sockets of the
//! host, its terminal, its reports.

use serde_json::json;

use crate::exec::{Scene, row, stdout};
use crate::lab::{PERMITTED, REFUSED, has, said};

/// A group of the host itself, and rules by `from`, each of which would let the command pass where its
/// source address were believed.
const BY_CLIENT: &str = "
[[group]]
name = \"loopback\"
clients = [\"127.0.0.0/8\", \"::1/128\", \"192.0.0.8/32\"]
permit = [\"US\"]

[[rule]]
name = \"by-address\"
from = [\"10.9.0.0/16\", \"2001:db8:77::/48\"]
to = [\"203.0.113.7/32\", \"2001:db8:bad::7/128\"]
action = \"allow\"

[[rule]]
name = \"who-it-is\"
from = [\"192.0.0.2/32\", \"fd73:6368:656e::2/128\"]
to = [\"198.51.100.7/32\", \"2001:db8:2::7/128\"]
action = \"block\"
";

#[test]
fn e14_whichever_source_address_it_takes_the_command_is_the_one_client() {
    let Some(mut scene) = Scene::start("e14", BY_CLIENT) else { return };
    if !has("python3") {
        return;
    }
    // TCP, UDP and a question about a name, from addresses for which the policy has more than for others.
    let script = "import socket, struct, sys
r4, r6, p4, p6 = sys.argv[1:5]
name = b''.join(bytes([len(l)]) + l.encode() for l in 'refused.example'.split('.')) + b'\\0\\0\\1\\0\\1'
query = struct.pack('>HHHHHH', 7, 0x100, 1, 0, 0, 0) + name
def heard(family, kind, source, to, say):
    s = socket.socket(family, kind); s.settimeout(2)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    s.bind((source, 0))
    try: s.connect(to); s.send(say); return s.recv(200)
    except OSError: return b''
for family, to, own, sources in [(socket.AF_INET, r4, p4, ['127.0.0.5', '10.9.0.1', '192.0.0.8']), (socket.AF_INET6, r6, p6, ['::1', '2001:db8:77::1'])]:
    for source in sources:
        for at in [to, own]:
            print(source, 'tcp', heard(family, socket.SOCK_STREAM, source, (at, 80), b'GET / HTTP/1.0\\r\\n\\r\\n')[:15])
        print(source, 'udp', heard(family, socket.SOCK_DGRAM, source, (to, 443), b'are you there'))
        for kind, say, at in [(socket.SOCK_DGRAM, query, 6), (socket.SOCK_STREAM, struct.pack('>H', len(query)) + query, 8)]:
            answer = heard(family, kind, source, (to, 53), say)[at:at + 2]
            print(source, 'name', struct.unpack('>H', answer)[0] if answer else 0)";
    let command = ["python3", "-c", script, REFUSED[0], REFUSED[1], PERMITTED[0], PERMITTED[1]];
    let record = scene.path("record");
    let (output, summary) = scene.run(&["--record", record.to_str().unwrap()], &command);
    let text = stdout(&output);
    assert!(output.status.success(), "{}", said(&output));
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 5 * 5, "{text}");
    for line in lines {
        let (_, heard) = line.split_once(' ').unwrap();
        // TCP answers find the way back to addresses of the host itself alone.
        let none = ["tcp b''", "tcp b'HTTP/1.1 451 Un'", "udp b''", "name 0"];
        assert!(none.contains(&heard), "{line}: {text}");
    }
    for ip in REFUSED {
        assert_eq!(scene.world.arrived(ip), (0, 0));
        assert_eq!(row(&summary, "refused", ip)["reason"], "outside");
    }
    // The rules that do hold are those for the one client.
    for ip in PERMITTED {
        assert_eq!(row(&summary, "refused", ip)["rule"], "who-it-is");
        assert_eq!(scene.world.arrived(ip), (0, 0));
    }
    // And nobody else stands in the record.
    let record = std::fs::read_to_string(record).unwrap();
    let all: Vec<serde_json::Value> =
        record.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let clients: Vec<_> = all.iter().filter_map(|line| line["client"].as_str()).collect();
    assert!(clients.len() >= 10, "{record}");
    for client in clients {
        let ip: std::net::SocketAddr = client.parse().unwrap();
        assert!(["192.0.0.2", "fd73:6368:656e::2"].contains(&&*ip.ip().to_string()), "{client}");
    }
    assert_eq!(summary["countries"], json!([]), "{summary:#}");
}
